"""How a recording answers a call: results, errors, events, pauses for tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import errors
from ..errors import NoukaiError, ReplayError, ReplayInvalidSessionError
from ..models.events import (
    EVENT_CLASSES,
    FlowCompleted,
    StepFailed,
    StepPaused,
    StreamEvent,
    ToolCallsRequired,
)
from ..models.results import ExecuteResult, JobSubmission, PausedResult, ToolResult
from ..models.sessions import RecordedError
from ..protocol.call import FlowCall
from ..protocol.decoding import error_class, first_problem
from ..protocol.program import CHECKPOINT, Program, Sleep
from ..protocol.requests import encode
from ..protocol.stepping import Cursor, tool_results
from ..protocol.tools import ToolRounds, wire_results
from .jobs import RecordedJob
from .lane import Claim
from .pacing import RecordedPace
from .player import Player
from .recording import Recording

Answer = ExecuteResult | PausedResult
ModelT = TypeVar("ModelT", bound=BaseModel)

# How much longer a call takes than it took until its caller gave it up: a timeout ends it before.
_LONGER = 1.5
_AT_LEAST = 0.5  # seconds


def play(player: Player, call: FlowCall, claim: Claim) -> Program[Any]:
    """The program that answers ``call`` from its recording."""
    encode(call.request)  # what cannot be sent is no call
    player.begin(claim)
    try:
        # Lets the tasks that were started with this one claim their places first, as they would
        # while a live call is on its way.
        yield CHECKPOINT
        recording = player.take(call, claim)
        if recording is None:
            assert player.options.go_live is not None  # take() has looked
            return (yield from player.options.go_live(call))
        return (yield from _serve(player, call, claim, recording))
    finally:
        player.finish(claim)


def use_up(player: Player, claim: Claim) -> Program[None]:
    """Play the claim's recording to nobody."""
    player.begin(claim)
    try:
        yield CHECKPOINT
    finally:
        player.finish(claim)


def _serve(player: Player, call: FlowCall, claim: Claim, recording: Recording) -> Program[Any]:
    reading = _Reading(player, call, claim, recording)
    if call.kind == "execute":
        return (yield from reading.execute())
    if call.kind == "step":
        return (yield from reading.stream())
    return (yield from reading.job())


class _Reading:
    """One recording, being read out to one call."""

    def __init__(self, player: Player, call: FlowCall, claim: Claim, recording: Recording) -> None:
        self._player = player
        self._call = call
        self._ticket = claim
        self._recording = recording
        self._rounds = ToolRounds(call)
        self._pace = player.options.pace(recording)
        # A call that brings no tools cannot answer a pause: it gets the final result at once.
        self._has_tools = "tools" in call.request

    def execute(self) -> Program[Answer]:
        return self._from_round(0)

    def job(self) -> Program[RecordedJob]:
        recording = self._recording
        if recording.error is not None and recording.kind == "job":
            yield from self._pace.part()
            raise self._error(recording.error)
        yield from self._wait_in_vain()
        if recording.result is None or recording.kind != "job":
            raise self._player.missed(
                self._call,
                self._ticket,
                "Jobs cannot be replayed from a service session: use a cassette file.",
            )
        self._read(JobSubmission, recording.result)
        yield from self._pace.part()
        try:
            job = self._recorded_job()
        except ValidationError as error:
            raise self._malformed(f"a look at the job: {first_problem(error)}") from error
        self._player.jobs[job.execution_id] = job
        return job

    def _recorded_job(self) -> RecordedJob:
        return RecordedJob(
            self._recording,
            self._player.cassette.session_id,
            paced=isinstance(self._pace, RecordedPace),
            error_of=self._error,
            missed=partial(self._player.missed, self._call, self._ticket),
        )

    def _from_round(self, number: int) -> Program[Answer]:
        rounds = self._recording.rounds if self._has_tools else ()
        for index in range(number, len(rounds)):
            yield from self._pace.part()
            paused = self._read(PausedResult, rounds[index].paused)
            paused.session_id = self._player.cassette.session_id
            if self._call.tool_handler is None:
                paused._resume = partial(self._resumed, index)
                return paused
            results = yield from self._rounds.answer(self._call.tool_handler, paused)
            self._check_results(index, results)
        yield from self._pace.part()
        yield from self._wait_in_vain()
        return self._final()

    def _resumed(self, number: int, results: Sequence[ToolResult]) -> Program[Answer]:
        self._check_results(number, wire_results(results))
        return self._from_round(number + 1)

    def _final(self) -> ExecuteResult:
        if self._recording.error is not None:
            raise self._error(self._recording.error)
        if self._recording.result is None:
            raise self._ends_here()
        result = self._read(ExecuteResult, self._recording.result)
        result.session_id = self._player.cassette.session_id
        return result

    def stream(self) -> Program[None]:
        cursor = Cursor()
        pauses = 0
        for event in self._events():
            yield from self._pace.part()
            cursor.see(event)
            if isinstance(event, ToolCallsRequired):
                if self._has_tools and not (yield from self._pause(event, pauses)):
                    return
                pauses += 1
                cursor.same_step(event)
                continue
            yield event
            if isinstance(event, (FlowCompleted, StepFailed)):
                return
            if isinstance(event, StepPaused):
                cursor.next_step()
        yield from self._pace.part()
        yield from self._wait_in_vain()
        if self._recording.error is not None:
            raise self._error(self._recording.error)
        if not self._recording.closed:
            raise self._ends_here()

    def _events(self) -> Iterator[StreamEvent]:
        """The recorded events; unknown types are left out, as on the wire."""
        for data in self._recording.events:
            kind = EVENT_CLASSES.get(str(data.get("eventType")))
            if kind is not None:
                yield self._read(kind, data)

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
        if sent is not None and not self._same_results(number, self._wire(sent), results):
            self._player.drifted(
                self._ticket, f"tool results of round {number + 1} differ from the recorded ones"
            )

    def _same_results(
        self, number: int, recorded: list[ToolResult], results: list[ToolResult]
    ) -> bool:
        redactor = self._player.options.redactor
        return recorded == results or (
            redactor is not None
            and recorded == redactor.tool_results(self._call.request, number, results)
        )

    def _wire(self, recorded: Sequence[ToolResult]) -> list[ToolResult]:
        try:
            return wire_results(recorded)
        except (TypeError, ValueError) as error:
            raise self._malformed(str(error)) from error

    def _error(self, error: RecordedError) -> NoukaiError:
        if error.type in errors.__all__:
            recorded_class: type[NoukaiError] = getattr(errors, error.type)
            said = {"status_code": error.status_code, "code": error.code}
            try:
                return recorded_class(error.message, **{**said, **error.details})
            except TypeError as problem:
                return self._malformed(f"{error.type}: {problem}")
        text = ": ".join(part for part in (error.code, error.message) if part)
        return error_class(error.status_code, error.code)(
            text or "the recorded run failed",
            status_code=error.status_code,
            code=error.code,
            execution_id=self._recording.execution_id,
        )

    def _wait_in_vain(self) -> Program[None]:
        """Be as slow as the call was when its caller gave it up, so that its caller can do so again."""
        if not self._recording.abandoned:
            return
        seconds = self._recording.seconds
        yield Sleep(seconds * _LONGER + _AT_LEAST)
        raise self._player.missed(
            self._call,
            self._ticket,
            f"Its caller gave it up after {seconds:.3g} s when it was recorded (a timeout, a cancelled "
            "task, an interrupt), and waits for an answer now: there is none.",
        )

    def _ends_here(self) -> NoukaiError:
        return self._player.missed(
            self._call,
            self._ticket,
            "The recording is not complete: the run had not ended when it was recorded.",
        )

    def _read(self, model: type[ModelT], data: Any) -> ModelT:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise self._malformed(f"{model.__name__}: {first_problem(error)}") from error

    def _malformed(self, said: str) -> ReplayError:
        error = ReplayInvalidSessionError(
            f"the recording of {self._call.flow.slug!r} is malformed: {said}",
            execution_id=self._recording.execution_id,
            report=self._player.report,
        )
        return self._player.refused(self._ticket, error)
