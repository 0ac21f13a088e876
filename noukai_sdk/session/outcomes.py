"""Collect what only the caller knows of a captured session, and send it to the service at its end.

That is: calls that were refused, failed on the way or were given up, the parent of a fork, and the number
of all calls if they were made with several API keys. With them a replay of the session raises the same
errors, gives up the same calls, and notices calls that it cannot read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_jsonable_python

from ..errors import NoukaiError, ReplayError, ToolCallLimitError, ToolHandlerRequiredError

if TYPE_CHECKING:
    from ..models.sessions import ForkParent, Outcome, Outcomes, RecordedCall
    from ..protocol.call import FlowCall, Service, Watch
    from ..protocol.program import Program
    from ..replay.recording import Recording
    from ..whatif.compared_calls import LiveCall

MOST = 1_000  # outcomes of one session

# Raised in this process. A replay raises them again by itself.
_LOCAL_ERRORS = (ReplayError, ToolCallLimitError, ToolHandlerRequiredError)

Lane = tuple[str, ...]
"""Kind, organisation, project and slug of a call: what calls are counted by."""


class Failure(NamedTuple):
    """How a call ended.

    Attributes:
        error: None if its caller gave it up, or left its stream between two events.
    """

    call: FlowCall
    request: dict[str, Any]
    ended_at: float
    error: NoukaiError | None
    abandoned: bool
    run: str | None
    seen: int | None


class OutcomeLog:
    """The outcomes of one session. Safe to use from many threads.

    Args:
        calls: How many calls of each lane the session had so far; it still grows.
        ends: The calls that have ended, if calls overlapped: client, kind, watch, run, time. It grows, too.

    Attributes:
        parent: The session that this one is a fork of.
    """

    def __init__(self, calls: dict[Lane, int], ends: list[tuple[Any, ...]]) -> None:
        self.parent: ForkParent | None = None
        self._calls = calls
        self._ends = ends
        self._failures: dict[tuple[Lane, int], Failure] = {}
        self._total_calls: int | None = None
        self._told: list[Service] = []
        self._is_sent = True
        self._lock = threading.Lock()

    def note(
        self,
        call: FlowCall,
        error: BaseException,
        run: str | None,
        seen: int | None,
        now: float,
        *,
        at_reader: bool = False,
    ) -> bool:
        """Note how a call ended; return whether there was nothing to send before."""
        if not isinstance(error, (GeneratorExit, NoukaiError)):
            return False
        if isinstance(error, NoukaiError) and (
            isinstance(error, _LOCAL_ERRORS) or _is_of_a_run(error)
        ):
            return False
        # A copy: the caller may change its objects later.
        request = to_jsonable_python(call.request, fallback=str)
        known_error = error if isinstance(error, NoukaiError) else None
        abandoned = known_error is None and not at_reader
        failure = Failure(call, request, now, known_error, abandoned, run, seen)
        with self._lock:
            if len(self._failures) < MOST:
                self._failures[_place(call)] = failure
            return self._has_news()

    def forget(self, call: FlowCall) -> None:
        """Drop the outcome of a call that goes on."""
        with self._lock:
            self._failures.pop(_place(call), None)

    def note_served(
        self,
        session_id: str,
        calls: list[tuple[int, int, Recording]],
        edited: Sequence[tuple[int, FlowCall, LiveCall | None]] = (),
    ) -> bool:
        """Note the parent of a fork, and the order, index and recording of each call it served.

        Args:
            session_id: The parent.
            calls: The calls that it served.
            edited: The order of each call that went live with another input, the call without it, and in
                a what-if the live call.

        Returns:
            Whether there was nothing to send before.
        """
        from ..models.sessions import EditedCall, ForkParent, ServedCall

        served = tuple(
            ServedCall(order=order, index=index, execution_id=recording.execution_id)
            for order, index, recording in sorted(calls, key=lambda each: each[0])
        )
        with self._lock:
            self.parent = ForkParent(session_id=session_id, served=served)
            changed = []
            for order, call, live in edited:
                request = to_jsonable_python(call.request, fallback=str)
                run = None if live is None else live.execution_id
                recorded = _recorded_call(call, request)
                changed.append(EditedCall(order=order, execution_id=run, call=recorded))
            # Earlier versions know of one such call.
            self.parent.edited = changed[0] if changed else None
            self.parent.also_edited = tuple(changed[1:])
            return self._has_news()

    def note_total(self, calls: int, told: list[Service]) -> bool:
        """Note how many calls the session has, and the clients whose organisations are to know it.

        Returns:
            Whether there was nothing to send before.
        """
        with self._lock:
            self._total_calls, self._told = calls, told
            return self._has_news()

    def note_end(self) -> bool:
        """Note that ``ends`` has grown; return whether there was nothing to send before."""
        with self._lock:
            return self._has_news()

    def _has_news(self) -> bool:
        was_sent, self._is_sent = self._is_sent, False
        return was_sent

    def take(self, service: Service) -> list[tuple[Service, Outcomes]]:
        """Return everything that was noted, redacted: what ``service`` gets, then the other clients."""
        from ..models.sessions import Outcomes

        with self._lock:
            self._is_sent = True
            failures = list(self._failures.values())
            ends = self._ends[:]
        by_key: dict[tuple[str, str | None], tuple[Service, list[Outcome]]] = {
            service.key: (service, [])
        }
        for failure in failures:
            client = failure.call.service
            _, outcomes = by_key.setdefault(client.key, (client, []))
            outcomes.append(_outcome(failure, self._calls))
        reported = {failure.run for failure in failures}
        for client, kind, watch, run, ended_at in ends:
            _, outcomes = by_key.setdefault(client.key, (client, []))
            if run is not None and run not in reported:
                outcomes.append(_end(kind, watch, run, ended_at))
        for client in self._told:
            by_key.setdefault(client.key, (client, []))
        told = {client.key for client in self._told}
        bodies = []
        for client, outcomes in by_key.values():
            parent = self.parent if client is service else None
            # Another key of the same organisation may have stored outcomes.
            given = tuple(outcomes) if outcomes or parent is not None else None
            total = self._total_calls if client.key in told else None
            body = Outcomes(outcomes=given, parent=parent, total_calls=total)
            bodies.append((client, body))
        return bodies


def send_outcomes(service: Service, session_id: str, log: OutcomeLog) -> Program[bool]:
    """Send what ``log`` holds. Outcomes of another client's calls are sent with that client's key."""
    from ..protocol.session_extensions import put_outcomes
    from ..transport.background import send_later

    (_, own), *others = log.take(service)
    for other, outcomes in others:
        send_later(other, put_outcomes, session_id, outcomes, about=session_id)
    if own.outcomes or own.parent is not None or own.total_calls is not None:
        return (yield from put_outcomes(service, session_id, own))
    return True


def _is_of_a_run(error: NoukaiError) -> bool:
    """Return whether the service said that a run failed so: then the session has it."""
    body = error.response_body
    detail = body.get("detail", body) if isinstance(body, dict) else None
    return isinstance(detail, dict) and detail.get("executionId") is not None


def _place(call: FlowCall) -> tuple[Lane, int]:
    assert call.watch is not None  # only watched calls are noted
    return (call.kind, *call.flow[:3]), call.watch.position


def _outcome(failure: Failure, calls: dict[Lane, int]) -> Outcome:
    from ..models.sessions import Outcome, RecordedError
    from ..replay.recorder import api_keys
    from ..replay.recording_builder import recorded_error
    from ..replay.redaction import Redactor

    call = failure.call
    assert call.watch is not None  # only watched calls are noted
    lane, position = _place(call)
    error = None if failure.error is None else recorded_error(failure.error).model_dump()
    error = Redactor(secrets=api_keys(call))({"error": error})["error"]
    return Outcome(
        kind=call.kind,
        position=position,
        calls=calls.get(lane),
        execution_id=failure.run,
        call=_recorded_call(call, failure.request),
        started_at=_iso(call.watch.made_at),
        completed_at=_iso(failure.ended_at),
        abandoned=failure.abandoned,
        seen=failure.seen,
        chunks=tuple(call.watch.arrivals) if call.watch.log.has_overlap else (),
        error=None if error is None else RecordedError.model_validate(error),
    )


def _recorded_call(call: FlowCall, request: dict[str, Any]) -> RecordedCall:
    """Return a call with ``request``, without its secrets."""
    from ..models.sessions import RecordedCall
    from ..replay.recorder import api_keys
    from ..replay.redaction import Redactor

    flow = call.flow
    return RecordedCall(
        org=flow.org,
        project=flow.project,
        slug=flow.slug,
        version=flow.version,
        request=Redactor(secrets=api_keys(call))({"request": request})["request"],
    )


def _end(kind: str, watch: Watch, run: str, ended_at: float) -> Outcome:
    from ..models.sessions import Outcome, RecordedCall

    return Outcome(
        kind=kind,
        position=watch.position,
        execution_id=run,
        call=RecordedCall(),
        started_at=_iso(watch.made_at),
        completed_at=_iso(ended_at),
        completed=True,
        chunks=tuple(watch.arrivals),
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
