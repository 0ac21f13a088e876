"""How a recording answers a call: results, errors, events, pauses for tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from .. import errors
from ..errors import NoukaiError, ReplayInvalidSessionError, ReplayNoSnapshotsError
from ..models.events import EVENT_CLASSES, StepPaused, StreamEvent, ToolCallsRequired
from ..models.results import ExecuteResult, PausedResult, ToolResult
from ..models.sessions import ToolRound
from ..protocol.answers import error_class
from ..protocol.call import FlowCall
from ..protocol.program import Program, Sleep
from ..protocol.requests import encode
from ..protocol.stepping import Cursor, tool_results
from ..protocol.tools import ToolRounds, wire_results
from .jobs import RecordedJob
from .lane import Ticket
from .player import Player
from .recording import Recording

Answer = ExecuteResult | PausedResult


def play(player: Player, call: FlowCall, ticket: Ticket) -> Program[Any]:
    """The program that answers ``call`` from its recording."""
    encode(call.request)  # what cannot be sent is no call
    player.begin(ticket)
    try:
        # Lets the tasks that were started with this one claim their places first, as they would
        # while a live call is on its way.
        yield Sleep(0)
        recording = player.take(call, ticket)
        if recording is None:
            assert player.options.go_live is not None  # take() has looked
            return (yield from player.options.go_live(call))
        return (yield from _serve(player, call, ticket, recording))
    finally:
        player.finish(ticket)


def use_up(player: Player, ticket: Ticket) -> Program[None]:
    """Play the ticket's recording to nobody."""
    player.begin(ticket)
    try:
        yield Sleep(0)
    finally:
        player.finish(ticket)


def _serve(player: Player, call: FlowCall, ticket: Ticket, recording: Recording) -> Program[Any]:
    if recording.unavailable is not None:
        raise ReplayNoSnapshotsError(
            f"the recording of {call.flow.slug!r} cannot be replayed: {recording.unavailable}",
            execution_id=recording.execution_id,
            report=player.report,
        )
    reading = _Reading(player, call, ticket, recording)
    if call.kind == "execute":
        return (yield from reading.execute())
    if call.kind == "step":
        return (yield from reading.stream())
    return reading.job()


class _Reading:
    """One recording, being read out to one call."""

    def __init__(
        self, player: Player, call: FlowCall, ticket: Ticket, recording: Recording
    ) -> None:
        self._player = player
        self._call = call
        self._ticket = ticket
        self._recording = recording
        self._rounds = ToolRounds(call)
        self._paced = player.options.pacing == "recorded"
        # A call that brings no tools cannot answer a pause: it gets the final result at once.
        self._pauses: Sequence[ToolRound] = recording.rounds if "tools" in call.request else ()

    def execute(self) -> Program[Answer]:
        recording = self._recording
        if self._paced and recording.started_at and recording.completed_at:
            yield Sleep(max(0.0, recording.completed_at - recording.started_at))
        return (yield from self._from_round(0))

    def job(self) -> RecordedJob:
        if self._recording.error is not None:
            raise self._error()
        if self._recording.result is None:
            raise self._player.missed(
                self._call,
                self._ticket,
                "Jobs cannot be replayed from a service session: use a cassette file.",
            )
        return RecordedJob(self._recording, self._player.cassette.session_id)

    def _from_round(self, number: int) -> Program[Answer]:
        for index in range(number, len(self._pauses)):
            paused = PausedResult.model_validate(self._pauses[index].paused)
            paused.session_id = self._player.cassette.session_id
            if self._call.tool_handler is None:
                paused._resume = partial(self._resumed, index)
                return paused
            results = yield from self._rounds.answer(self._call.tool_handler, paused)
            self._check_results(index, results)
        return self._final()

    def _resumed(self, number: int, results: Sequence[ToolResult]) -> Program[Answer]:
        self._check_results(number, wire_results(results))
        return self._from_round(number + 1)

    def _final(self) -> ExecuteResult:
        if self._recording.error is not None:
            raise self._error()
        if self._recording.result is None:
            raise self._ends_here()
        result = ExecuteResult.model_validate(self._recording.result)
        result.session_id = self._player.cassette.session_id
        return result

    def stream(self) -> Program[None]:
        cursor = Cursor()
        pauses = 0
        event = None
        waits = self._waits()
        for index, event in enumerate(typed_events(self._recording.events)):
            if index in waits:
                yield Sleep(waits[index])
            cursor.see(event)
            if isinstance(event, ToolCallsRequired):
                if not (yield from self._pause(event, pauses)):
                    return
                pauses += 1
                cursor.same_step(event)
                continue
            yield event
            if isinstance(event, StepPaused):
                cursor.next_step()
        if event is None or event.type not in ("flow_completed", "step_error"):
            raise self._error() if self._recording.error else self._ends_here()

    def _waits(self) -> dict[int, float]:
        """Where a network chunk began, and how long it was waited for."""
        waits: dict[int, float] = {}
        index, before = 0, 0.0
        for at, count in self._recording.chunks:
            waits[index] = max(0.0, at - before) if self._paced else 0.0
            index, before = index + count, at
        return waits

    def _pause(self, event: ToolCallsRequired, number: int) -> Program[bool]:
        """Answer a pause as the live stream does; False where nobody did."""
        results = yield from tool_results(self._call, self._rounds, event)
        if results is None:
            return False
        self._check_results(number, results)
        return True

    def _check_results(self, number: int, results: list[dict[str, Any]]) -> None:
        recorded = self._recording.rounds[number : number + 1]
        sent = recorded[0].tool_results if recorded else None
        if sent is not None and wire_results(sent) != results:
            self._player.drifted(
                self._ticket, f"tool results of round {number + 1} differ from the recorded ones"
            )

    def _error(self) -> NoukaiError:
        error = self._recording.error
        assert error is not None  # the caller has looked
        recorded_class = getattr(errors, error.type or "", None)
        if recorded_class is not None and error.type in errors.__all__:
            rebuilt: NoukaiError = recorded_class(error.message, **error.details)
            return rebuilt
        said = ": ".join(part for part in (error.code, error.message) if part)
        return error_class(error.status_code, error.code)(
            said or "the recorded run failed",
            status_code=error.status_code,
            code=error.code,
            execution_id=self._recording.execution_id,
        )

    def _ends_here(self) -> NoukaiError:
        return self._player.missed(
            self._call,
            self._ticket,
            "The recording is not complete: the run had not ended when it was recorded.",
        )


def typed_events(recorded: Sequence[dict[str, Any]]) -> Iterator[StreamEvent]:
    """The recorded events; unknown types are left out, as on the wire."""
    for data in recorded:
        kind = EVENT_CLASSES.get(str(data.get("eventType")))
        if kind is None:
            continue
        try:
            yield kind.model_validate(data)
        except ValidationError as error:
            raise ReplayInvalidSessionError(
                f"a recorded {kind.type} event is malformed: {error.error_count()} problems"
            ) from error
