"""``steps`` and ``events``: a stream a step, the cursor between them, and pauses for tools."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..errors import ToolHandlerRequiredError
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

logger = logging.getLogger("noukai_sdk")

# Sent with the first call of a run only; the service keeps them (WIRE.md, "POST step").
FIRST_CALL_ONLY = ("message", "messages", "parameters", "attachments")

_ENDS = (FlowCompleted, StepFailed)
_PAUSES = (StepPaused, ToolCallsRequired)
_INDEXED = (StepStarted, StepCompleted, StepPaused, ToolCallsRequired)
# Nearly all events of a stream, and they move nothing. (isinstance is slow on pydantic's classes.)
_PASSING = frozenset({"step_output", "step_input"})


class Cursor:
    """Where a run stands: what the next step call has to say."""

    def __init__(self) -> None:
        self.execution_id: str | None = None
        self.step_index = 0
        self.outputs: dict[str, Any] = {}
        self._begin()

    def _begin(self) -> None:
        self._offset: int | None = None
        self._index_of: dict[str, int] = {}

    def see(self, event: StreamEvent) -> None:
        """Learn from an event, and put right its ``step_index``."""
        if isinstance(event, RunStarted):
            self.execution_id = event.execution_id or event.run_id or self.execution_id
        elif isinstance(event, _INDEXED):
            self._place(event)
            if isinstance(event, StepCompleted):
                self.outputs[event.step_id] = event.output
            elif isinstance(event, _PAUSES):
                self.execution_id = event.execution_id or self.execution_id

    def _place(self, event: StepStarted | StepCompleted | StepPaused | ToolCallsRequired) -> None:
        # The first indexed event of a call belongs to the step that was asked for, so it tells
        # whether the service counts from the start of the flow or of this call.
        step_id = event.step_id
        if step_id is None or step_id in self._index_of:
            # A pause without a step comes after the last one that was seen.
            known = list(self._index_of.values())[-1:] or [self.step_index]
            event.step_index = self._index_of[step_id] if step_id else known[0]
            return
        counted = self.step_index + len(self._index_of)
        if event.step_index is None:
            event.step_index = counted
        else:
            if self._offset is None:
                self._offset = self.step_index - event.step_index
            event.step_index += self._offset
        self._index_of[step_id] = event.step_index

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


def step(call: FlowCall) -> Program[None]:
    """Drive a flow step by step; yields every event."""
    cursor = Cursor()
    rounds = ToolRounds(call)
    body: dict[str, Any] = {**call.request, "stepIndex": 0}
    while True:
        pause = yield from _one_call(call, body, cursor)
        if pause is None:
            return
        body = {name: value for name, value in call.request.items() if name not in FIRST_CALL_ONLY}
        if isinstance(pause, ToolCallsRequired):
            results = yield from tool_results(call, rounds, pause)
            if results is None:
                return
            yield ResultsSent(results)
            cursor.same_step(pause)
            body["pausedAtStep"] = pause.step_id
            body["iterationsUsed"] = pause.iterations_used
            body["toolCallMessages"] = continued(pause, results)
        else:
            cursor.next_step()
        body["executionId"] = cursor.execution_id
        body["stepIndex"] = cursor.step_index
        body["accumulatedOutputs"] = cursor.outputs


def _one_call(
    call: FlowCall, body: dict[str, Any], cursor: Cursor
) -> Program[StepPaused | ToolCallsRequired | None]:
    """One step call: yields its events; gives the pause that it ended with, None at the run's end."""
    yield from open_stream(call.service, post(call, body, accept="text/event-stream"))
    decoder = SSEDecoder()
    pause: StepPaused | ToolCallsRequired | None = None
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
    yield pause
    if not staged:
        logger.warning(
            "run %s was left paused: its ToolCallsRequired event was not resumed",
            pause.execution_id,
        )
        return None
    return staged[-1]
