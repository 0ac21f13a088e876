"""Programs: protocol logic as generators that say what they want and receive the outcome.

A program yields either one of the wants below, or an event for the caller. It receives what the
want's docstring says, or has the outcome's exception thrown in. Its return value is the call's
result. A program does no I/O, reads no clock and knows neither sync nor async: the two drivers in
``noukai_sdk.transport.drivers`` run it, and tests step it by hand::

    program = execute(call)
    want = next(program)                    # SendRequest(POST .../execute)
    want = program.send(Response(200, ...)) # what comes next, or StopIteration with the result
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

Program = Generator[Any, Any, T]
"""Yields wants and events, returns T."""

ToolHandler = Callable[[list[dict[str, Any]]], Any]
"""Takes the pending tool calls; returns their results, or an awaitable of them (async clients)."""


@dataclass(frozen=True)
class Request:
    """One HTTP request. ``timeout`` is in seconds; ``path`` is under the base URL, encoded."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Response:
    """One HTTP answer, read to its end. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Effect:
    """Base of everything that a program can ask of its driver."""

    __slots__ = ()


@dataclass(frozen=True)
class SendRequest(Effect):
    """Send this and give me the :class:`Response`. Throws APIConnectionError or APITimeoutError."""

    request: Request


@dataclass(frozen=True)
class OpenStream(Effect):
    """Send this and leave the answer open. Gives a :class:`Response`: with an empty body where it is
    a success, read to its end otherwise. Throws as SendRequest does.
    """

    request: Request


@dataclass(frozen=True)
class ReadChunk(Effect):
    """Give me the next bytes of the open stream, None at its end. Throws as SendRequest does."""


READ_CHUNK = ReadChunk()
"""There is one for each chunk of a stream, and they are all alike."""


@dataclass(frozen=True)
class CloseStream(Effect):
    """Close the open stream, if there is one; gives None."""


@dataclass(frozen=True)
class CallTools(Effect):
    """Call this handler with these tool calls and give me what it returns. Throws what it raises."""

    handler: ToolHandler
    tool_calls: Sequence[dict[str, Any]]


class Signal(Effect):
    """Nothing to do: tells a listener, such as a recorder, what the caller does not see."""


@dataclass(frozen=True)
class PauseSeen(Signal):
    """The run waits for tools: a PausedResult or a ToolCallsRequired."""

    pause: Any


@dataclass(frozen=True)
class ResultsSent(Signal):
    """These tool results, in the wire's form, answer the pause."""

    results: list[dict[str, Any]]


@dataclass(frozen=True)
class Sleep(Effect):
    """Wait ``seconds`` (0: only let other tasks run); up to ``jitter`` times longer, at random."""

    seconds: float
    jitter: float = 0.0


CHECKPOINT = Sleep(0)
"""Let other tasks run: every replayed call does."""


@dataclass(frozen=True)
class Now(Effect):
    """Give me the monotonic clock, in seconds."""
