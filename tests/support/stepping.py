"""Step programs by hand: no network, and a clock that moves only when the test says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from noukai_sdk.protocol.call import CallKind, FlowCall, FlowRef, Service
from noukai_sdk.protocol.program import (
    CallTools,
    CloseStream,
    Effect,
    Now,
    OpenStream,
    Program,
    ReadChunk,
    Request,
    Response,
    SendRequest,
    Signal,
    Sleep,
)

FLOW = FlowRef("acme", "spelling", "grade-3")


def make_service(**changes: Any) -> Service:
    """Return the service of a client with default settings."""
    settings = {
        "base_url": "http://service.test",
        "headers": {"Authorization": "Bearer nk_secret"},
        "timeout": 300.0,
        "max_retries": 1,
        "log": None,
        **changes,
    }
    return Service(**settings)


def make_call(kind: CallKind = "execute", **changes: Any) -> FlowCall:
    """Return a call of FLOW with a message."""
    settings = {"flow": FLOW, "service": make_service(), "request": {"message": "hi"}, **changes}
    return FlowCall(kind=kind, **settings)


def respond(body: Any = None, status: int = 200, **headers: str) -> Response:
    """Return a response with a JSON body. ``headers`` have underscores for their hyphens."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): text for name, text in headers.items()}, raw)


def frames(*events: dict[str, Any]) -> bytes:
    """Return the events as a service streams them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


class After(NamedTuple):
    """An outcome, or a chunk of a stream, that takes ``seconds`` to come."""

    seconds: float
    outcome: Any


Outcome = Response | Exception | After | Iterable[Any]
"""What a request leads to: a response, an error, or the chunks of a stream (and its errors)."""


class Clock:
    """The time that programs see. Sleep and After move it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now


@dataclass
class Played:
    """Everything that a program did.

    Attributes:
        timeline: The events, and last the result, each with its time since the start.
    """

    requests: list[Request] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    closed: int = 0
    result: Any = None
    timeline: list[tuple[float, Any]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests."""
        return [json.loads(request.body or b"{}") for request in self.requests]


def play(
    program: Program[Any],
    outcomes: Sequence[Outcome] = (),
    *,
    clock: Clock | None = None,
    on_event: Callable[[Any], None] = lambda event: None,
    played: Played | None = None,
) -> Played:
    """Run ``program`` to its end, with the next outcome for each request.

    Args:
        program: What to run.
        outcomes: All of them must be used.
        clock: What Now reads, and Sleep moves.
        on_event: Called with each event before the program goes on.
        played: Filled in place of a new one, for a program that raises.
    """
    world = _World(list(outcomes), clock or Clock(), Played() if played is None else played)
    began = world.clock.now
    outcome: Any = None
    try:
        while True:
            failed = isinstance(outcome, Exception)
            item = program.throw(outcome) if failed else program.send(outcome)
            outcome = None
            if isinstance(item, Effect):
                outcome = world.perform(item)
            else:
                world.played.events.append(item)
                world.played.timeline.append((round(world.clock.now - began, 6), item))
                on_event(item)
    except StopIteration as end:
        world.played.result = end.value
        world.played.timeline.append((round(world.clock.now - began, 6), end.value))
    assert not world.outcomes, f"never requested: {world.outcomes}"
    return world.played


@dataclass
class _World:
    """Performs the effects."""

    outcomes: list[Outcome]
    clock: Clock
    played: Played
    chunks: Iterator[Any] = field(default_factory=lambda: iter(()))

    def perform(self, effect: Effect) -> Any:
        match effect:
            case SendRequest(request) | OpenStream(request):
                self.played.requests.append(request)
                outcome = self.arrived(self.outcomes.pop(0))
                if isinstance(outcome, (Response, Exception)):
                    return outcome
                self.chunks = iter(outcome)
                return respond()
            case ReadChunk():
                return self.arrived(next(self.chunks, None))
            case CallTools(handler, tool_calls):
                return handler(list(tool_calls))
            case Now():
                return self.clock.now
            case Sleep(seconds):
                self.clock.now += seconds
                return self.played.slept.append(seconds)
            case CloseStream():
                self.played.closed += 1
                return None
            case _:
                assert isinstance(effect, Signal)
                return self.played.signals.append(effect)

    def arrived(self, outcome: Any) -> Any:
        if not isinstance(outcome, After):
            return outcome
        self.clock.now += outcome.seconds
        return outcome.outcome
