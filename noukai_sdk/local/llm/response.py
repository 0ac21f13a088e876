"""The responses of a model client: complete, or still being streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...models.events import TokenBreakdown

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class LlmResponse:
    """One response with its tokens, cost and latency. ``str(response)`` is its text.

    Attributes:
        model: The model's name, such as ``"openai:gpt-4o-mini"``.
        tool_calls: The tool calls that the model asks for, in OpenAI's format; ``arguments`` is a JSON
            text.
        tokens: As counted by the provider, None if it did not count.
        cost_usd: Estimated from list prices, a decimal string in US dollars; None if the price is
            unknown.
        latency_ms: Milliseconds from the call to its end, including retries.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"`` or the provider's own word.
    """

    text: str
    model: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tokens: TokenBreakdown | None = None
    cost_usd: str | None = None
    latency_ms: float = 0.0
    finish_reason: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass
class StreamOutcome:
    """The complete response, set by the generator behind a :class:`CompletionStream` at its end."""

    response: LlmResponse | None = None


class CompletionStream:
    """A response that is being streamed: ``async for`` yields its parts, ``await`` its whole text.

    Both may be mixed: awaiting after some parts reads the rest and returns the text from the start.
    Leaving an ``async with`` block early, or ``aclose``, stops the model at once; a stream that is
    merely dropped stops when it is garbage-collected.

    Example:
        >>> async with client.complete_stream("Tell a story") as stream:  # doctest: +SKIP
        ...     async for piece in stream:
        ...         print(piece, end="")
        >>> stream.response.cost_usd                                      # doctest: +SKIP
        '0.00021'
    """

    def __init__(self, start: Callable[[StreamOutcome], AsyncGenerator[str, None]]) -> None:
        self._outcome = StreamOutcome()
        self._pieces = start(self._outcome)
        self._texts: list[str] = []

    @property
    def response(self) -> LlmResponse | None:
        """The complete response with tokens, cost and latency; None until the stream has ended."""
        return self._outcome.response

    @property
    def text(self) -> str:
        """The text received so far."""
        return "".join(self._texts)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        piece = await self._pieces.__anext__()
        self._texts.append(piece)
        return piece

    def __await__(self) -> Generator[Any, None, str]:
        return self._read_all().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the model and release its connection. May be called any number of times."""
        await self._pieces.aclose()

    async def _read_all(self) -> str:
        async for _ in self:
            pass
        return self.text
