"""A client for one model: ask, stream, ask in batches; from sync and async code alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

import anyio

from .chat import ChatDelta, ChatModel, ChatRequest
from .circuit import CircuitBreaker
from .config import LlmConfig
from .cross_loop_stream import CrossLoopStream
from .errors import LlmError
from .loop_bound import HostedClient, LoopBound
from .meter import Meter
from .providers import open_config
from .response import CompletionStream, LlmResponse, StreamedAnswer
from .stats import LlmStats

Prompt = str | Sequence[Mapping[str, Any]]
"""A user message, or whole turns in OpenAI's form ``{"role", "content"}``."""


class LlmClient(HostedClient[ChatModel]):
    """One model behind one connection pool, for as long as the client lives.

    Every method may be called from any thread and any event loop; the pool has a loop of its own.
    Failed attempts are repeated as ``config.max_retries`` says, and only where that can help.

    Args:
        config: The model, as ``LlmConfig.openai(...)`` and its like make it.
        circuit_threshold: After how many failed calls in a row calls fail at once, without being
            sent; 0 for never. Attempts inside one call count as one.
        circuit_cooldown: Seconds until one call may try the provider again.

    Raises:
        LlmConfigError: A setting or the key is missing or wrong.
        MissingExtraError: The provider's library is not installed; the message has the pip line.

    Example:
        >>> with LlmClient(LlmConfig.offline()) as client:
        ...     client.complete("Hello")
        'Offline answer to "Hello": 1 word (ref 83292db4).'
    """

    def __init__(
        self,
        config: LlmConfig,
        *,
        circuit_threshold: int = 5,
        circuit_cooldown: float = 30.0,
    ) -> None:
        _check(config)
        self.config = config
        super().__init__(LoopBound(lambda: open_config(config)))
        self._meter = Meter(config.name, CircuitBreaker(circuit_threshold, circuit_cooldown))

    def complete(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None
    ) -> str:
        """Ask, and block until the answer is there.

        Args:
            prompt: A user message, or whole turns in OpenAI's form.
            max_tokens: Most tokens to produce; None leaves it to the model.
            temperature: 0 to 2; None leaves it to the model.

        Returns:
            The answer's text.

        Raises:
            LlmError: See ``llm_errors.py`` for the kinds.
        """
        return self.complete_full(prompt, max_tokens, temperature).text

    async def complete_async(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None
    ) -> str:
        """As :meth:`complete`, without blocking; cancelling the task stops the request."""
        return (await self.complete_full_async(prompt, max_tokens, temperature)).text

    def complete_full(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
    ) -> LlmResponse:
        """Ask, and get the answer with its tokens, cost, latency and tool calls.

        Args:
            prompt: As for :meth:`complete`.
            max_tokens: As for :meth:`complete`.
            temperature: As for :meth:`complete`.
            tools: OpenAI function tools that the model may ask for.
            tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.

        Raises:
            LlmError: As for :meth:`complete`.
        """
        request = ChatRequest(_turns(prompt), temperature, max_tokens, tools, tool_choice)
        return self._host.run(lambda model: self._ask(model, request))

    async def complete_full_async(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
    ) -> LlmResponse:
        """As :meth:`complete_full`, without blocking."""
        request = ChatRequest(_turns(prompt), temperature, max_tokens, tools, tool_choice)
        return await self._host.wait(lambda model: self._ask(model, request))

    def complete_stream(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None
    ) -> CompletionStream:
        """Ask, and read the answer as it comes: ``async for`` gives pieces, ``await`` the text.

        Nothing is sent before the first piece is asked for. Arguments and errors are those of
        :meth:`complete`.

        Example:
            >>> async for piece in client.complete_stream("Hello"):  # doctest: +SKIP
            ...     print(piece, end="")
        """
        request = ChatRequest(_turns(prompt), temperature, max_tokens)
        return CompletionStream(lambda answer: self._pieces(request, answer))

    async def complete_batch(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int | None = None,
        temperature: float | None = None,
        max_concurrency: int | None = None,
    ) -> list[str | LlmError]:
        """Ask all of them at once.

        Args:
            prompts: Each as for :meth:`complete`.
            max_tokens: For each answer, as for :meth:`complete`.
            temperature: For each answer, as for :meth:`complete`.
            max_concurrency: How many may be under way at once; None for no limit but the provider's.

        Returns:
            One text or one error for each prompt, in their order. No error is raised for a prompt.

        Raises:
            TypeError: ``prompts`` is one text, or holds what is no prompt.
            ValueError: ``max_concurrency`` is less than 1.
        """
        if isinstance(prompts, str):
            # Its letters would be prompts.
            raise TypeError("complete_batch takes a list of prompts, complete one prompt")
        requests = [ChatRequest(_turns(prompt), temperature, max_tokens) for prompt in prompts]
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        return await self._host.wait(lambda model: self._ask_all(model, requests, max_concurrency))

    async def warmup(self) -> None:
        """Open a connection and check the key, or load the weights, before the first call.

        Raises:
            LlmError: The provider cannot be reached or refuses the key.
        """
        await self._host.wait(lambda model: model.warmup())

    def get_stats(self) -> LlmStats:
        """What this client has done so far: calls, tokens, cost, latency, the circuit's state."""
        return self._meter.stats()

    def reset_stats(self) -> None:
        """Set the counts to zero; the circuit stays as it is."""
        self._meter.reset()

    async def _ask(self, model: ChatModel, request: ChatRequest) -> LlmResponse:
        with self._meter.call() as call:
            answer = await model.answer(request)
            return call.ended(answer.text, answer)

    async def _ask_all(
        self, model: ChatModel, requests: list[ChatRequest], at_once: int | None
    ) -> list[str | LlmError]:
        results: list[str | LlmError] = [""] * len(requests)
        few = at_once if at_once is not None and at_once < len(requests) else None
        limit = nullcontext() if few is None else anyio.Semaphore(few)

        async def ask(index: int, request: ChatRequest) -> None:
            async with limit:
                try:
                    results[index] = (await self._ask(model, request)).text
                except LlmError as error:
                    results[index] = error

        async with anyio.create_task_group() as tasks:
            for index, request in enumerate(requests):
                tasks.start_soon(ask, index, request)
        return results

    async def _pieces(
        self, request: ChatRequest, answer: StreamedAnswer
    ) -> AsyncGenerator[str, None]:
        texts: list[str] = []
        last = ChatDelta()
        with self._meter.call() as call:
            async with aclosing(
                CrossLoopStream(self._host, lambda model: model.stream(request))
            ) as pieces:
                async for last in pieces:
                    texts.append(last.text)
                    if last.text:
                        yield last.text
            answer.response = call.ended("".join(texts), last)


def _check(config: object) -> None:
    if not isinstance(config, LlmConfig):
        # Not what it is: some people put the key here.
        told = f"not a {type(config).__name__}"
        raise TypeError(f"config is an LlmConfig, as LlmConfig.openai() makes it, {told}")


def _turns(prompt: Prompt) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence):
        raise TypeError(f"a prompt is a str or a list of turns, not {type(prompt).__name__}")
    turns: list[dict[str, Any]] = []
    for turn in prompt:
        if not isinstance(turn, Mapping):
            raise TypeError(f"a turn is {{'role': ..., 'content': ...}}, not {turn!r}")
        turns.append(dict(turn))
    return turns
