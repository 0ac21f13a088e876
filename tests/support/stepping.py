"""Programs, stepped by hand: no network, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from noukai_sdk.models.events import StreamEvent
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


def a_service(**changes: Any) -> Service:
    """A service as a client with no settings sees it."""
    settings = {
        "base_url": "http://service.test",
        "headers": {"Authorization": "Bearer nk_secret"},
        "timeout": 300.0,
        "max_retries": 1,
        "log": None,
        **changes,
    }
    return Service(**settings)


def a_call(kind: CallKind = "execute", **changes: Any) -> FlowCall:
    """A call of FLOW with a message."""
    settings = {"flow": FLOW, "service": a_service(), "request": {"message": "hi"}, **changes}
    return FlowCall(kind=kind, **settings)


def answer(body: Any = None, status: int = 200, **headers: str) -> Response:
    """An answer with a JSON body; ``headers`` with underscores for their hyphens."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): text for name, text in headers.items()}, raw)


def frames(*events: dict[str, Any]) -> bytes:
    """The events as a service streams them."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


Outcome = Response | Exception | Iterable[Any]
"""What a request is answered with: an answer, an error, or the chunks of a stream (or its errors)."""


@dataclass
class Played:
    """Everything that a program did."""

    requests: list[Request] = field(default_factory=list)
    events: list[StreamEvent] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    notes: list[Signal] = field(default_factory=list)
    closed: int = 0
    result: Any = None

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.body or b"{}") for request in self.requests]


def play(
    program: Program[Any],
    outcomes: Sequence[Outcome] = (),
    *,
    times: Sequence[float] = (),
    on_event: Callable[[Any], None] = lambda event: None,
    played: Played | None = None,
) -> Played:
    """Run ``program`` to its end, with the next outcome for each request and the next of ``times``
    for each look at the clock. ``on_event`` is called with each event before the program goes on.
    """
    world = _World(list(outcomes), iter(times), played if played is not None else Played())
    outcome: Any = None
    try:
        while True:
            failed = isinstance(outcome, Exception)
            item = program.throw(outcome) if failed else program.send(outcome)
            outcome = (
                world.answer(item) if isinstance(item, Effect) else world.played.events.append(item)
            )
            if not isinstance(item, Effect):
                on_event(item)
    except StopIteration as end:
        world.played.result = end.value
    assert not world.outcomes, f"never asked for: {world.outcomes}"
    return world.played


@dataclass
class _World:
    """What answers the wants."""

    outcomes: list[Outcome]
    times: Iterator[float]
    played: Played
    chunks: Iterator[Any] = field(default_factory=lambda: iter(()))

    def answer(self, want: Effect) -> Any:
        match want:
            case SendRequest(request) | OpenStream(request):
                return self.exchange(request)
            case ReadChunk():
                return next(self.chunks, None)
            case CallTools(handler, tool_calls):
                return handler(list(tool_calls))
            case Now():
                return next(self.times)
            case Sleep(seconds):
                return self.played.slept.append(seconds)
            case Signal():
                return self.played.notes.append(want)
            case CloseStream():
                self.played.closed += 1
                return None

    def exchange(self, request: Request) -> Any:
        self.played.requests.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, (Response, Exception)):
            return outcome
        self.chunks = iter(outcome)
        return answer()
