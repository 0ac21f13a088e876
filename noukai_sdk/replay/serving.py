"""Serve one call from its recording: results, errors, events, pauses for tools."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from .. import errors
from ..errors import NoukaiError, ReplayError, ReplayInvalidSessionError
from ..models.events import (
    EVENT_CLASSES,
    FlowCompleted,
    StepFailed,
    StepPaused,
    ToolCallsRequired,
)
from ..models.results import ExecuteResult, JobAccepted, PausedResult, ToolResult
from ..models.sessions import RecordedError
from ..protocol.call import FlowCall
from ..protocol.decoding import error_class, first_problem
from ..protocol.program import PausedRun, Program, Sleep
from ..protocol.stepping import Cursor, tool_results
from ..protocol.tools import call_handler, wire_results
from .boundary_recordings import BoundaryRecording
from .jobs import RecordedJob
from .lanes import Claim
from .pacing import Pace, RecordedPace
from .recording import Recording

if TYPE_CHECKING:
    from .player import Player

ModelT = TypeVar("ModelT", bound=BaseModel)

# An abandoned call takes this much longer than it took until its caller gave up, so that the same
# timeout ends it again.
_LONGER = 1.5
_AT_LEAST = 0.5  # seconds
_AT_MOST = 3600.0
# A caller whose timer was late gives up within so many passes of its event loop.
_PASSES, _PASS = 5, 0.01  # seconds


class RecordedRun:
    """A recording that serves one call.

    Args:
        player: Takes the errors and the drift into its report.
        call: The call.
        claim: The call's claim to the recording.
        recording: The recording.
        pace: When the parts of the response come.
    """

    def __init__(
        self, player: Player, call: FlowCall, claim: Claim, recording: Recording, pace: Pace
    ) -> None:
        self._player = player
        self._call = call
        self._claim = claim
        self._recording = recording
        self._pace = pace
        # A call that brings no tools cannot continue a pause: it gets the final result at once.
        self._rounds = recording.rounds if "tools" in call.request else ()

    def execute(self, start: int = 0) -> Program[ExecuteResult | PausedRun]:
        """Serve ``execute`` from the tool round ``start`` on."""
        recording, session_id = self._recording, self._player.cassette.session_id
        for number in range(start, len(self._rounds)):
            yield from self._pace.part()
            paused = self._validated(PausedResult, self._rounds[number].paused)
            paused.session_id = session_id
            if self._call.tool_handler is None:
                return PausedRun(paused, partial(self._resume, number))
            results = yield from call_handler(self._call, paused, number)
            self._check_results(number, results)
        yield from self._pace.part()
        if recording.abandoned:
            yield from self._time_out()
        if recording.error is not None:
            raise self._to_exception(recording.error)
        if recording.result is None:
            yield from self._time_out()
        assert recording.result is not None  # _time_out() raises
        return self._validated(ExecuteResult, {**recording.result, "sessionId": session_id})

    def _resume(
        self, number: int, results: Sequence[ToolResult]
    ) -> Program[ExecuteResult | PausedRun]:
        self._check_results(number, wire_results(results))
        return self.execute(number + 1)

    def stream(self) -> Program[None]:
        """Serve ``steps`` and ``events``: yield the recorded events."""
        recording = self._recording
        cursor = Cursor(self._call, self._player.cassette.session_id)
        pauses = 0
        for data in recording.events:
            model = EVENT_CLASSES.get(str(data.get("eventType")))
            if model is None:
                continue  # unknown events are left out, as on the wire
            event = self._validated(model, data)
            yield from self._pace.part()
            cursor.see(event)
            if isinstance(event, ToolCallsRequired):
                if "tools" in self._call.request:
                    results = yield from tool_results(self._call, event, pauses)
                    if results is None:
                        return
                    self._check_results(pauses, results)
                pauses += 1
                cursor.same_step(event)
                continue
            yield event
            if isinstance(event, (FlowCompleted, StepFailed)):
                return
            if isinstance(event, StepPaused):
                cursor.next_step()
        yield from self._pace.part()
        if recording.abandoned:
            yield from self._time_out()
        if recording.error is not None:
            raise self._to_exception(recording.error)
        if not recording.closed:
            yield from self._time_out()

    def boundary(self, recording: BoundaryRecording) -> Program[BoundaryRecording]:
        """Serve a call of a recorded function: yield its items, return the recording."""
        for item in recording.boundary.items or ():
            yield from self._pace.part()
            yield item
        if recording.abandoned:
            yield from self._pace.part()
            yield from self._time_out()
        if not recording.has_ended and recording.boundary.items is None:
            yield from self._time_out()
        if not recording.has_ended:
            count = len(recording.boundary.items or ())
            raise self._miss(
                f"Its reader left after {count} items when it was recorded, and reads on now."
            )
        yield from self._pace.part()
        return recording

    def job(self) -> Program[RecordedJob]:
        """Serve ``execute_async``: return the recorded job."""
        recording = self._recording
        if recording.error is not None and recording.kind == "job":
            yield from self._pace.part()
            raise self._to_exception(recording.error)
        if recording.abandoned:
            yield from self._time_out()
        if recording.result is None or recording.kind != "job":
            raise self._miss("Jobs cannot be replayed from a service session: use a cassette file.")
        self._validated(JobAccepted, recording.result)
        yield from self._pace.part()
        try:
            job = RecordedJob(
                recording,
                self._player.cassette.session_id,
                paced=isinstance(self._pace, RecordedPace),
                to_error=self._to_exception,
                to_miss=self._miss,
            )
        except ValidationError as error:
            raise self._malformed(f"a poll of the job: {first_problem(error)}") from error
        self._player.jobs[job.execution_id] = job
        return job

    def _check_results(self, number: int, results: list[dict[str, Any]]) -> None:
        """Report drift if the tools return other results than the recorded ones."""
        rounds = self._recording.rounds[number : number + 1]
        sent = rounds[0].tool_results if rounds else None
        if sent is None:
            return
        try:
            recorded = wire_results(sent)
        except (TypeError, ValueError) as error:
            raise self._malformed(str(error)) from error
        if recorded == results:
            return
        redactor = self._player.options.redactor
        if redactor is None or recorded != redactor.tool_results(
            self._call.request, number, results
        ):
            self._player.tools_drifted(self._call, self._claim, number, recorded, results)

    def _time_out(self) -> Program[None]:
        """Take longer than the call took when its caller gave up, so that the caller can again."""
        seconds = self._recording.seconds
        moves = self._player.moves()
        yield Sleep(min(seconds * _LONGER + _AT_LEAST, _AT_MOST))
        # On a busy machine the call that wins against this one may still be on its way, and so may the
        # caller's own timer.
        while (now := self._player.moves()) is None or now != moves:
            moves = now
            yield Sleep(_AT_LEAST)
        for _ in range(_PASSES):
            yield Sleep(min(_PASS, _AT_MOST))
        if self._recording.abandoned:
            reason = f"Its caller gave up after {seconds:.3g} s when it was recorded"
        elif self._call.kind == "recorded":
            reason = "The call had not ended when its session did"
        else:
            reason = (
                "The recording is not complete: the run had not ended when it was recorded, or its "
                "caller gave up"
            )
        raise self._miss(
            f"{reason} (a timeout, a cancelled task, an interrupt), and waits for a response now: "
            "there is none."
        )

    def _miss(self, reason: str) -> ReplayError:
        return self._player.missed(self._call, self._claim, reason)

    def _to_exception(self, error: RecordedError) -> NoukaiError:
        if error.type in errors.__all__:
            recorded_class: type[NoukaiError] = getattr(errors, error.type)
            attributes = {"status_code": error.status_code, "code": error.code, **error.details}
            try:
                return recorded_class(error.message, **attributes)
            except TypeError as problem:
                return self._malformed(f"{error.type}: {problem}")
        text = ": ".join(part for part in (error.code, error.message) if part)
        return error_class(error.status_code, error.code)(
            text or "the recorded run failed",
            status_code=error.status_code,
            code=error.code,
            execution_id=self._recording.execution_id,
        )

    def _validated(self, model: type[ModelT], data: Any) -> ModelT:
        try:
            # The bare validator: model_validate() spends a third of its time on options.
            value: ModelT = model.__pydantic_validator__.validate_python(data)
            return value
        except ValidationError as error:
            raise self._malformed(f"{model.__name__}: {first_problem(error)}") from error

    def _malformed(self, problem: str) -> ReplayError:
        error = ReplayInvalidSessionError(
            f"the recording of {self._call.flow.slug!r} is malformed: {problem}",
            execution_id=self._recording.execution_id,
            report=self._player.report,
        )
        return self._player.refused(self._claim, error)
