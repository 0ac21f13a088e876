"""``steps`` and ``events``: one stream for each step call, the cursor between them, pauses for tools."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..errors import NoukaiError, ToolHandlerRequiredError
from ..models.events import (
    FlowCompleted,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepInput,
    StepOutput,
    StepPaused,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)
from ..models.results import ToolResult
from .call import FlowCall
from .exchange import open_stream
from .program import READ_CHUNK, CloseStream, PauseSeen, Program, ResultsSent
from .requests import post
from .sse import SSEDecoder
from .tools import call_handler, wire_results, with_results

logger: logging.Logger = logging.getLogger("noukai_sdk")

# Sent with the first call of a run only; the service keeps them (docs/wire.md, "POST step").
FIRST_CALL_ONLY = ("message", "messages", "parameters", "attachments", "stepOutputs")

Pause = StepPaused | ToolCallsRequired

_ENDS = (FlowCompleted, StepFailed)
_PAUSES = (StepPaused, ToolCallsRequired)
_INDEXED = (StepStarted, StepCompleted, StepPaused, ToolCallsRequired)
# Nearly all events of a stream, and they move nothing. (isinstance is slow on pydantic's classes, and so
# are the attributes of their objects.)
_PASSING = (StepOutput, StepInput)


class Cursor:
    """The position in a run: what the next step call has to send.

    Attributes:
        seen: How many events the reader of the stream got.
        at_reader: The reader has the last one, and has not asked for the next one yet.
        ended: The last one was the final event.

    Args:
        call: The call, if this client makes it; its trail takes the events.
        session_id: The session of the call.
    """

    def __init__(self, call: FlowCall | None = None, session_id: str | None = None) -> None:
        self._trail = None if call is None else call.trail
        if self._trail is not None:
            self._trail.session_id = session_id
        self.execution_id: str | None = None
        self.step_index: int = 0
        self.outputs: dict[str, Any] = {}
        self.seen = 0
        self.at_reader = self.ended = False
        self._begin_call()

    def _begin_call(self) -> None:
        self._offset: int | None = None
        self._index_of: dict[str, int] = {}

    def see(self, event: StreamEvent) -> None:
        """Move on with an event, and correct its ``step_index`` and the run's id."""
        if type(event) in _PASSING:
            return
        if self._trail is not None:
            self._trail.append(event)
        if isinstance(event, RunStarted):
            self.execution_id = event.execution_id or event.run_id or self.execution_id
        elif isinstance(event, _INDEXED):
            self._place(event)
            if isinstance(event, StepCompleted):
                self.outputs[event.step_id] = event.output
            elif isinstance(event, StepPaused):
                self.execution_id = event.execution_id or self.execution_id
            elif isinstance(event, ToolCallsRequired):
                run = event.execution_id or event.run_id or self.execution_id
                self.execution_id = run
                event.execution_id = run or ""

    def follow(self, event: StreamEvent) -> None:
        """Move on with an event of a run that another client drives."""
        self.see(event)
        if isinstance(event, ToolCallsRequired):
            self.same_step(event)
        elif isinstance(event, StepPaused):
            self.next_step()

    def _place(self, event: StepStarted | StepCompleted | StepPaused | ToolCallsRequired) -> None:
        step_id = event.step_id
        if step_id is None or step_id in self._index_of:
            # A pause without a step comes after the last step that was seen.
            last = list(self._index_of.values())[-1:] or [self.step_index]
            event.step_index = self._index_of[step_id] if step_id else last[0]
            return
        if event.step_index is None:
            event.step_index = self.step_index + len(self._index_of)
        else:
            if self._offset is None:
                # A call never goes back behind the step that it asked for, so a smaller index means
                # that the service counts from the start of the call.
                from_start = event.step_index >= self.step_index
                self._offset = 0 if from_start else self.step_index
            event.step_index += self._offset
        self._index_of[step_id] = event.step_index

    def next_step(self) -> None:
        """Make the next call ask for the step after those of this call."""
        self.step_index = max(self._index_of.values(), default=self.step_index) + 1
        self._begin_call()

    def same_step(self, pause: ToolCallsRequired) -> None:
        """Make the next call ask for the paused step again."""
        assert pause.step_index is not None  # see() has placed it
        self.step_index = pause.step_index
        self.outputs |= pause.accumulated_outputs
        self._begin_call()

    def fields(self) -> dict[str, Any]:
        """Return the body's fields that name the run, and the step that the next call asks for."""
        fields = {
            "executionId": self.execution_id,
            "stepIndex": self.step_index,
            "accumulatedOutputs": self.outputs,
        }
        return {name: value for name, value in fields.items() if value is not None}


def step(call: FlowCall) -> Program[None]:
    """Run a flow step by step, and yield every event."""
    cursor = Cursor(call, call.session_id)
    rounds = 0
    body: dict[str, Any] = {**call.request, "stepIndex": 0}
    try:
        while True:
            pause = yield from _one_call(call, body, cursor)
            if pause is None:
                if call.watch is not None:
                    call.watch.log.ended += 1
                    if call.watch.log.has_overlap:
                        call.watch.log.note_end(call, cursor.execution_id)
                return
            body = {name: v for name, v in call.request.items() if name not in FIRST_CALL_ONLY}
            if isinstance(pause, ToolCallsRequired):
                cursor.seen += 1
                cursor.at_reader = call.tool_handler is None
                results = yield from tool_results(call, pause, rounds)
                cursor.at_reader = False
                if results is None:
                    return
                rounds += 1
                yield ResultsSent(results)
                cursor.same_step(pause)
                body["pausedAtStep"] = pause.step_id
                body["iterationsUsed"] = pause.iterations_used
                body["toolCallMessages"] = with_results(pause, results)
            else:
                cursor.next_step()
            body |= cursor.fields()
    except BaseException as error:
        if isinstance(error, NoukaiError):
            error.execution_id = error.execution_id or cursor.execution_id
        if not (cursor.ended and isinstance(error, GeneratorExit)):
            call.failed(
                error, run=cursor.execution_id, seen=cursor.seen, at_reader=cursor.at_reader
            )
        raise


def _one_call(call: FlowCall, body: dict[str, Any], cursor: Cursor) -> Program[Pause | None]:
    """Make one step call and yield its events. Returns the pause it ended with, None at the run's end."""
    response = yield from open_stream(call.service, post(call, body, accept="text/event-stream"))
    if call.trail is not None:
        call.trail.request_id = response.headers.get("x-request-id")
    decoder = SSEDecoder()
    pause: Pause | None = None
    while (events := decoder.read_events((yield READ_CHUNK))) is not None:
        if events and call.watch is not None:
            call.watch.log.note_events(call.watch, len(events))
        cursor.at_reader = True  # whenever it leaves in the loop below
        for event in events:
            if type(event) in _PASSING:
                cursor.seen += 1
                yield event
                continue
            cursor.see(event)
            if isinstance(event, _PAUSES):
                pause = event
            cursor.ended = isinstance(event, _ENDS)
            if not isinstance(event, ToolCallsRequired):
                cursor.seen += 1
                yield event
            if cursor.ended:
                return None
        cursor.at_reader = False
    # After a pause the stream is read to its end, so that the connection serves the next call. It goes
    # back now, because tools may take long.
    yield CloseStream()
    if pause is None:
        run = cursor.execution_id
        text = "the stream of run %s closed before the run's end"
        logger.warning(text, run, extra={"noukai_execution_id": run})
    return pause


def tool_results(
    call: FlowCall, pause: ToolCallsRequired, rounds: int
) -> Program[list[dict[str, Any]] | None]:
    """Get the results that resume a pause: from the handler, or from the consumer of the stream.

    ``rounds`` is how many pauses of this run were resumed before. Returns the results in the form of the
    wire, None if the consumer staged none.
    """
    yield PauseSeen(pause)
    if call.tool_handler is not None:
        return (yield from call_handler(call, pause, rounds))
    if not call.manual_tools:
        raise ToolHandlerRequiredError(
            "the flow asks for tools: pass tool_handler=, or use events() of the async client "
            "and resume with event.resume()",
            execution_id=pause.execution_id,
        )
    staged: list[list[dict[str, Any]]] = []

    def stage(results: Sequence[ToolResult]) -> None:
        staged.append(wire_results(results))

    pause._stage = stage
    try:
        yield pause
    finally:
        pause._stage = _too_late
    if not staged:
        logger.warning(
            "run %s was left paused: its ToolCallsRequired event was not resumed",
            pause.execution_id,
            extra={"noukai_execution_id": pause.execution_id},
        )
        return None
    return staged[-1]


def _too_late(results: Sequence[ToolResult]) -> None:
    raise TypeError("the stream has gone on or ended: await event.resume() inside the loop")
