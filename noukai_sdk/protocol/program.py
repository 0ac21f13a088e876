"""Programs: protocol logic as generators that yield what they need and receive the outcome.

A program yields either an :class:`Effect` for its driver or an event for the caller. It receives the
effect's outcome as each class below describes it, or has the exception thrown in. Its return value is
the result of the call. A program does no I/O, reads no clock, and knows neither sync nor async. The two
drivers in ``noukai_sdk.transport.drivers`` run it, and tests step it by hand::

    program = execute(call)
    effect = next(program)                     # SendRequest(POST .../execute)
    effect = program.send(Response(200, ...))  # the next effect, or StopIteration with the result
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from ..models.results import PausedResult, ToolResult

T = TypeVar("T")

Program = Generator[Any, Any, T]
"""Yields effects and events, returns T."""

ToolHandler = Callable[[list[dict[str, Any]]], Any]
"""Takes the pending tool calls; returns their results, or an awaitable of them (async clients)."""


class Timeouts(NamedTuple):
    """The parts of an ``httpx.Timeout``, in seconds; None for no limit. HTTP libraries take the tuple."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None


Timeout = float | Timeouts


def longest(timeout: Timeout) -> float:
    """Return the longest part of a timeout in seconds, infinity for no limit."""
    if isinstance(timeout, tuple):
        return max(float("inf") if part is None else part for part in timeout)
    return timeout


class Request(NamedTuple):
    """One HTTP request.

    Attributes:
        path: Under the base URL, percent-encoded.
        timeout: Seconds; None means the client's.
        max_retries: How often it is sent again at most; None means the client's number.
    """

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    timeout: Timeout | None = None
    max_retries: int | None = None


class Response(NamedTuple):
    """One HTTP response. Header names are lower case, or the mapping ignores case.

    ``body`` is empty for a successful OpenStream, whose chunks are still to be read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


# The effects are plain classes: a dataclass takes half a millisecond to define, and the first call of a
# program waits for it.


class Effect:
    """Base of everything that a program asks its driver to do."""

    __slots__: tuple[str, ...] = ()


class SendRequest(Effect):
    """Send the request. The outcome is a :class:`Response`, an APIConnectionError or APITimeoutError."""

    __slots__ = __match_args__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class OpenStream(Effect):
    """Send the request and leave the response's body open for ReadChunk.

    The outcome is as for SendRequest. The body of an error response is read to its end.
    """

    __slots__ = __match_args__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class ReadChunk(Effect):
    """Read the open stream. The outcome is its next bytes, None at its end, or an error as above."""

    __slots__ = ()


READ_CHUNK = ReadChunk()
"""The instance that programs yield: a stream needs one for each chunk."""


class CloseStream(Effect):
    """Close the open stream, if there is one. The outcome is None."""

    __slots__ = ()


class CallTools(Effect):
    """Call the handler with the tool calls. The outcome is what it returns or raises."""

    __slots__ = __match_args__ = ("handler", "tool_calls")

    def __init__(self, handler: ToolHandler, tool_calls: Sequence[Any]) -> None:
        self.handler = handler
        self.tool_calls = tool_calls


class Sleep(Effect):
    """Wait ``seconds``, up to ``jitter`` times longer at random; 0 only lets other tasks run."""

    __slots__ = __match_args__ = ("seconds", "jitter")

    def __init__(self, seconds: float, jitter: float = 0.0) -> None:
        self.seconds = seconds
        self.jitter = jitter


CHECKPOINT = Sleep(0)
"""Lets other tasks run. Every replayed call yields it once."""


class AwaitTurn(Effect):
    """Wait until ``turn`` has come (``noukai_sdk.replay.completion_order``). The outcome is None."""

    __slots__ = __match_args__ = ("turn",)

    def __init__(self, turn: Any) -> None:
        self.turn = turn


class Now(Effect):
    """Read the monotonic clock. The outcome is its time in seconds."""

    __slots__ = ()


class PausedRun:
    """The result of ``execute`` at a pause that the caller must resume, and the program that resumes it.

    The driver gives the pause to the caller, and binds it to the transport that resumes it.
    """

    __slots__ = ("pause", "resume")

    def __init__(
        self, pause: PausedResult, resume: Callable[[Sequence[ToolResult]], Program[Any]]
    ) -> None:
        self.pause = pause
        self.resume = resume

    def bound_to(self, transport: Any) -> PausedResult:
        """Return the pause, resumable on ``transport``."""
        self.pause._resume, self.pause._transport = self.resume, transport
        return self.pause


class Signal(Effect):
    """Base of effects that drivers ignore. Listeners, such as a recorder, learn from them."""

    __slots__ = ()


class PauseSeen(Signal):
    """The run waits for tools. ``pause`` is a PausedResult or a ToolCallsRequired."""

    __slots__ = __match_args__ = ("pause",)

    def __init__(self, pause: Any) -> None:
        self.pause = pause


class ResultsSent(Signal):
    """The pause is resumed with these tool results, in the form of the wire."""

    __slots__ = __match_args__ = ("results",)

    def __init__(self, results: list[dict[str, Any]]) -> None:
        self.results = results
