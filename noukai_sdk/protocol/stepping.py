"""``steps`` and ``events``: a stream a step, the cursor between them, and pauses for tools."""

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
    StepPaused,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)
from ..models.results import ToolResult
from .call import FlowCall
from .events import read_events
from .exchange import open_stream
from .program import READ_CHUNK, CloseStream, PauseSeen, Program, ResultsSent
from .requests import post
from .sse import SSEDecoder
from .tools import ToolRounds, continued, wire_results

logger: logging.Logger = logging.getLogger("noukai_sdk")

# Sent with the first call of a run only; the service keeps them (docs/wire.md, "POST step").
FIRST_CALL_ONLY = ("message", "messages", "parameters", "attachments")

Pause = StepPaused | ToolCallsRequired

_ENDS = (FlowCompleted, StepFailed)
_PAUSES = (StepPaused, ToolCallsRequired)
_INDEXED = (StepStarted, StepCompleted, StepPaused, ToolCallsRequired)
# Nearly all events of a stream, and they move nothing. (isinstance is slow on pydantic's classes.)
_PASSING = frozenset({"step_output", "step_input"})


class Cursor:
    """Where a run stands: what the next step call has to say."""

    def __init__(self) -> None:
        self.execution_id: str | None = None
        self.step_index: int = 0
        self.outputs: dict[str, Any] = {}
        self._begin()

    def _begin(self) -> None:
        self._offset: int | None = None
        self._index_of: dict[str, int] = {}

    def see(self, event: StreamEvent) -> None:
        """Learn from an event, and put right its ``step_index``."""
        if event.type in _PASSING:
            return
        if isinstance(event, RunStarted):
            self.execution_id = event.execution_id or event.run_id or self.execution_id
        elif isinstance(event, _INDEXED):
            self._place(event)
            if isinstance(event, StepCompleted):
                self.outputs[event.step_id] = event.output
            elif isinstance(event, _PAUSES):
                self.execution_id = event.execution_id or self.execution_id

    def follow(self, event: StreamEvent) -> None:
        """As ``see``, for who reads a run that somebody else drives."""
        self.see(event)
        if isinstance(event, ToolCallsRequired):
            self.same_step(event)
        elif isinstance(event, StepPaused):
            self.next_step()

    def _place(self, event: StepStarted | StepCompleted | StepPaused | ToolCallsRequired) -> None:
        step_id = event.step_id
        if step_id is None or step_id in self._index_of:
            # A pause without a step comes after the last one that was seen.
            last = list(self._index_of.values())[-1:] or [self.step_index]
            event.step_index = self._index_of[step_id] if step_id else last[0]
            return
        if event.step_index is None:
            event.step_index = self.step_index + len(self._index_of)
        else:
            event.step_index += self._offset_of(event.step_index)
        self._index_of[step_id] = event.step_index

    def _offset_of(self, first: int) -> int:
        # A call never goes back behind the step that it asked for, so a smaller number says that the
        # service counts from the start of the call.
        if self._offset is None:
            self._offset = 0 if first >= self.step_index else self.step_index
        return self._offset

    def next_step(self) -> None:
        """The steps of this call are done; the next call asks for the one after them."""
        self.step_index = max(self._index_of.values(), default=self.step_index) + 1
        self._begin()

    def same_step(self, pause: ToolCallsRequired) -> None:
        """The next call asks for the paused step again."""
        assert pause.step_index is not None  # see() has placed it
        self.step_index = pause.step_index
        self.outputs |= pause.accumulated_outputs
        self._begin()

    def fields(self) -> dict[str, Any]:
        """The run, and the step of it, that the next call asks for."""
        fields = {
            "executionId": self.execution_id,
            "stepIndex": self.step_index,
            "accumulatedOutputs": self.outputs,
        }
        return {name: value for name, value in fields.items() if value is not None}


def step(call: FlowCall) -> Program[None]:
    """Drive a flow step by step; yields every event."""
    cursor = Cursor()
    rounds = ToolRounds(call)
    body: dict[str, Any] | None = {**call.request, "stepIndex": 0}
    try:
        while body is not None:
            pause = yield from _one_call(call, body, cursor)
            body = yield from _next_body(call, cursor, rounds, pause)
    except NoukaiError as error:
        error.execution_id = error.execution_id or cursor.execution_id
        raise


def _next_body(
    call: FlowCall, cursor: Cursor, rounds: ToolRounds, pause: Pause | None
) -> Program[dict[str, Any] | None]:
    """What goes on after a pause; None where nothing does."""
    if pause is None:
        return None
    body = {name: value for name, value in call.request.items() if name not in FIRST_CALL_ONLY}
    if isinstance(pause, ToolCallsRequired):
        results = yield from tool_results(call, rounds, pause)
        if results is None:
            return None
        yield ResultsSent(results)
        cursor.same_step(pause)
        body["pausedAtStep"] = pause.step_id
        body["iterationsUsed"] = pause.iterations_used
        body["toolCallMessages"] = continued(pause, results)
    else:
        cursor.next_step()
    return {**body, **cursor.fields()}


def _one_call(call: FlowCall, body: dict[str, Any], cursor: Cursor) -> Program[Pause | None]:
    """One step call: yields its events; gives the pause that it ended with, None at the run's end."""
    yield from open_stream(call.service, post(call, body, accept="text/event-stream"))
    decoder = SSEDecoder()
    pause: Pause | None = None
    while (events := read_events(decoder, (yield READ_CHUNK))) is not None:
        for event in events:
            if event.type in _PASSING:
                yield event
                continue
            cursor.see(event)
            if isinstance(event, _PAUSES):
                pause = event
            if not isinstance(event, ToolCallsRequired):
                yield event
            if isinstance(event, _ENDS):
                yield CloseStream()
                return None
    # After a pause the stream is read to its end, so that the connection serves the next call.
    yield CloseStream()
    if pause is None:
        logger.warning("the stream of run %s closed before the run's end", cursor.execution_id)
    return pause


def tool_results(
    call: FlowCall, rounds: ToolRounds, pause: ToolCallsRequired
) -> Program[list[dict[str, Any]] | None]:
    """The results that answer a pause, None where the stream's consumer gave none."""
    yield PauseSeen(pause)
    if call.tool_handler is not None:
        return (yield from rounds.answer(call.tool_handler, pause))
    if not call.manual_tools:
        raise ToolHandlerRequiredError(
            "the flow asks for tools: pass tool_handler=, or use events() of the async client "
            "and answer with event.resume()",
            execution_id=pause.execution_id,
        )
    return (yield from ask_consumer(pause))


def ask_consumer(pause: ToolCallsRequired) -> Program[list[dict[str, Any]] | None]:
    """Yield the pause itself, and take what the consumer staged with ``resume``."""
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
        )
        return None
    return staged[-1]


def _too_late(results: Sequence[ToolResult]) -> None:
    raise TypeError("the stream has gone on or ended: await event.resume() inside the loop")
