"""What a model client gives: a whole answer, or one that is still coming."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...models.events import Tokens

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class LlmResponse:
    """One answer with what it took. ``str(response)`` is its text.

    Attributes:
        model: What answered, such as ``"openai:gpt-4o-mini"``.
        tool_calls: What the model asks for, in OpenAI's form; ``arguments`` is a JSON text.
        tokens: As the provider counted them, None where it did not.
        cost_usd: Estimated from list prices, a decimal string in US dollars; None where the price is
            not known.
        latency_ms: From the call to its end in milliseconds, retries included.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"`` or the provider's own word.
    """

    text: str
    model: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tokens: Tokens | None = None
    cost_usd: str | None = None
    latency_ms: float = 0.0
    finish_reason: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass
class StreamedAnswer:
    """Where the generator behind a :class:`CompletionStream` leaves the whole answer."""

    response: LlmResponse | None = None


class CompletionStream:
    """An answer that is still coming: ``async for`` gives its pieces, ``await`` its whole text.

    Both may be mixed: awaiting after some pieces reads the rest and gives the text from its start.
    Leaving an ``async with`` block early, or ``aclose``, stops the model at once; a stream that is
    merely dropped stops when it is collected.

    Example:
        >>> async with client.complete_stream("Tell a story") as stream:  # doctest: +SKIP
        ...     async for piece in stream:
        ...         print(piece, end="")
        >>> stream.response.cost_usd                                      # doctest: +SKIP
        '0.00021'
    """

    def __init__(self, start: Callable[[StreamedAnswer], AsyncGenerator[str, None]]) -> None:
        self._answer = StreamedAnswer()
        self._pieces = start(self._answer)
        self._texts: list[str] = []

    @property
    def response(self) -> LlmResponse | None:
        """The whole answer with tokens, cost and latency; None until the stream has ended."""
        return self._answer.response

    @property
    def text(self) -> str:
        """The text that has come so far."""
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
        """Stop the model and free its connection. May be called any number of times."""
        await self._pieces.aclose()

    async def _read_all(self) -> str:
        async for _ in self:
            pass
        return self.text
