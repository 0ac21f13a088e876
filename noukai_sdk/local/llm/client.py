"""A client for one model: complete, stream and batch, from sync and async code alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

import anyio

from ..runtime import checks
from ..runtime.hidden_keys import type_name
from .chat import ChatDelta, ChatModel, ChatRequest
from .circuit import CircuitBreaker
from .config import LlmConfig
from .config_checks import check_request
from .errors import LlmError
from .loop_bound import CrossLoopStream, LoopBound, LoopBoundClient
from .providers import open_config
from .response import CompletionStream, LlmResponse, StreamOutcome
from .stats import CallMeter, LlmStats

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .config import RequestSettings

Prompt = str | Sequence[Mapping[str, Any]]
"""A user message, or a list of turns in OpenAI's format ``{"role", "content"}``."""


class LlmClient(LoopBoundClient[ChatModel]):
    """One model behind one connection pool, for as long as the client lives.

    Every method may be called from any thread and any event loop; the pool has a loop of its own.
    Failed attempts are repeated up to ``config.max_retries`` times, if a retry can help. All calls
    share the provider's rate limit: after a 429 they wait together, and then leave at the rate that
    the provider accepts. They wait as long as it accepts any.

    Args:
        config: The model, from ``LlmConfig.openai(...)`` or one of the other constructors.
        circuit_threshold: After so many failed calls in a row, calls fail at once and are not sent;
            0 for never. The attempts inside one call count as one, and a rate limit (429) not at all.
        circuit_cooldown: Seconds until one call may try the provider again.
        debug: Log every call to the logger ``noukai_sdk.local.llm``: how it ended, its time and its tokens,
            no prompts and no responses.

    Raises:
        LlmConfigError: A setting or the key is missing or invalid.
        MissingExtraError: The provider's library is not installed; the message has the pip line.

    Example:
        >>> with LlmClient(LlmConfig.offline()) as client:
        ...     client.complete("Hello")
        'Hello! It is good to hear from you. What is on your mind?'
    """

    def __init__(
        self,
        config: LlmConfig,
        *,
        circuit_threshold: int = 0,
        circuit_cooldown: float = 30.0,
        debug: bool = False,
    ) -> None:
        if not isinstance(config, LlmConfig):
            # The message names the type only: some people pass the key here.
            raise TypeError(
                "config must be an LlmConfig, for example LlmConfig.openai(), "
                f"not a {type(config).__name__}"
            )
        checks.whole("circuit_threshold", circuit_threshold, least=0)
        checks.seconds("circuit_cooldown", circuit_cooldown, may_be_zero=True)
        checks.flag("debug", debug)
        self.config = config
        super().__init__(LoopBound(lambda: open_config(config)))
        self._meter = CallMeter(
            config.name, CircuitBreaker(circuit_threshold, circuit_cooldown), debug
        )

    def complete(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None
    ) -> str:
        """Send a prompt, and block until the response is there.

        Args:
            prompt: A user message, or a list of turns in OpenAI's format.
            max_tokens: Most tokens to produce; None for the model's default.
            temperature: 0 to 2; None for the model's default.

        Returns:
            The text of the response.

        Raises:
            LlmError: See ``errors.py`` for the kinds.
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of range.
        """
        return self.complete_full(prompt, max_tokens, temperature).text

    async def complete_async(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None
    ) -> str:
        """Send a prompt without blocking; otherwise as :meth:`complete`.

        Cancelling the task cancels the request.
        """
        return (await self.complete_full_async(prompt, max_tokens, temperature)).text

    def complete_full(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        **settings: Unpack[RequestSettings],
    ) -> LlmResponse:
        """Send a prompt, and return the response with its tokens, cost, latency and tool calls.

        Args:
            prompt: As for :meth:`complete`.
            max_tokens: As for :meth:`complete`.
            temperature: As for :meth:`complete`.
            tools: OpenAI function tools that the model may call.
            tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.
            settings: ``top_p``, ``seed``, ``response_format`` and ``extra_body``, instead of the
                configuration's: see :class:`LlmConfig`.

        Raises:
            LlmError: As for :meth:`complete`.
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of range.
        """
        request = _request(prompt, temperature, max_tokens, tools, tool_choice, settings)
        return self._bound.run(lambda model: self._answer(model, request))

    async def complete_full_async(
        self,
        prompt: Prompt,
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        **settings: Unpack[RequestSettings],
    ) -> LlmResponse:
        """Send a prompt without blocking; otherwise as :meth:`complete_full`."""
        request = _request(prompt, temperature, max_tokens, tools, tool_choice, settings)
        return await self._bound.run_async(lambda model: self._answer(model, request))

    def complete_stream(
        self, prompt: Prompt, max_tokens: int | None = None, temperature: float | None = None
    ) -> CompletionStream:
        """Send a prompt, and read the response as it arrives.

        ``async for`` over the result yields pieces of text, ``await`` returns the whole text. The
        request is sent when the first piece is read. Arguments and errors are those of
        :meth:`complete`.

        Example:
            >>> async for piece in client.complete_stream("Hello"):  # doctest: +SKIP
            ...     print(piece, end="")
        """
        request = _request(prompt, temperature, max_tokens)
        return CompletionStream(lambda outcome: self._stream(request, outcome))

    async def complete_batch(
        self,
        prompts: Sequence[Prompt],
        max_tokens: int | None = None,
        temperature: float | None = None,
        max_concurrency: int | None = None,
    ) -> list[str | LlmError]:
        """Send several prompts at once.

        Args:
            prompts: Each as for :meth:`complete`.
            max_tokens: For each response, as for :meth:`complete`.
            temperature: For each response, as for :meth:`complete`.
            max_concurrency: Most requests at a time; None for no limit but the provider's.

        Returns:
            One text or one error for each prompt, in order. A failed prompt does not raise.

        Raises:
            TypeError: ``prompts`` is a single text, or one of them is not a valid prompt.
            ValueError: ``max_concurrency`` is less than 1.
        """
        if isinstance(prompts, str):
            # Iterating a str would send each character as a prompt.
            raise TypeError("complete_batch takes a list of prompts, complete one prompt")
        requests = [_request(prompt, temperature, max_tokens) for prompt in prompts]
        if max_concurrency is not None:
            checks.whole("max_concurrency", max_concurrency, least=1)
        is_limited = max_concurrency is not None and max_concurrency < len(requests)
        results: list[str | LlmError] = [""] * len(requests)

        async def answer_all(model: ChatModel) -> None:
            limit = anyio.Semaphore(max_concurrency or 1) if is_limited else nullcontext()

            async def answer(index: int, request: ChatRequest) -> None:
                async with limit:
                    try:
                        results[index] = (await self._answer(model, request)).text
                    except LlmError as error:
                        results[index] = error

            async with anyio.create_task_group() as tasks:
                for index, request in enumerate(requests):
                    tasks.start_soon(answer, index, request)

        await self._bound.run_async(answer_all)
        return results

    async def warmup(self) -> None:
        """Open a connection and check the key, or load the weights, before the first call.

        Raises:
            LlmError: The provider cannot be reached or rejects the key.
        """
        await self._bound.run_async(lambda model: model.warmup())

    def get_stats(self) -> LlmStats:
        """Return counts of calls, tokens, cost and latency, and the state of the circuit."""
        return self._meter.snapshot()

    def reset_stats(self) -> None:
        """Set the counts to zero; the circuit keeps its state."""
        self._meter.reset()

    async def _answer(self, model: ChatModel, request: ChatRequest) -> LlmResponse:
        with self._meter.measure() as call:
            delta = await model.answer(request)
            return call.finish(delta.text, delta)

    async def _stream(
        self, request: ChatRequest, outcome: StreamOutcome
    ) -> AsyncGenerator[str, None]:
        texts: list[str] = []
        last = ChatDelta()
        stream = CrossLoopStream(self._bound, lambda model: model.stream(request))
        with self._meter.measure() as call:
            async with aclosing(stream) as deltas:
                async for last in deltas:
                    texts.append(last.text)
                    if last.text:
                        yield last.text
            outcome.response = call.finish("".join(texts), last)


def _request(
    prompt: Prompt,
    temperature: float | None,
    max_tokens: int | None,
    tools: list[dict[str, Any]] | None = None,
    tool_choice: str | dict[str, Any] | None = None,
    settings: RequestSettings | None = None,
) -> ChatRequest:
    settings = settings or {}
    if temperature is not None:
        checks.temperature("temperature", temperature)
    if max_tokens is not None:
        checks.whole("max_tokens", max_tokens, least=1)
    if tools is not None:
        checks.of_type("tools", tools, list | tuple, "a list of tools in OpenAI's form")
        for tool in tools:
            checks.of_type("a tool", tool, Mapping, "a mapping in OpenAI's form")
    check_request(**settings)
    messages = _messages(prompt)
    set_ones: Any = {name: value for name, value in settings.items() if value is not None}
    return ChatRequest(messages, temperature, max_tokens, tools, tool_choice, **set_ones)


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, Sequence):
        raise TypeError(f"a prompt is a str or a list of turns, not {type(prompt).__name__}")
    messages: list[dict[str, Any]] = []
    for turn in prompt:
        if not isinstance(turn, Mapping):
            raise TypeError(f"a turn is {{'role': ..., 'content': ...}}, not {type_name(turn)}")
        messages.append(dict(turn))
    return messages
