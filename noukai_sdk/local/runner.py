"""Runs a flow's steps one after the other and tells what happens as typed events."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from ..errors import FlowExecutionError, NoukaiError
from ..models.events import (
    FlowCompleted,
    StepCompleted,
    StepFailed,
    StepFailure,
    StepInput,
    StepStarted,
    StreamEvent,
    Tokens,
    ToolCallsRequired,
)
from .agent import Answer, ask, output_of
from .chat import ChatModel, ChatRequest
from .flow import Flow, Step
from .inputs import Inputs
from .overrides import overridden
from .run_state import RunState
from .templates import UnresolvedReferenceError

__all__ = ["RunState", "check_run", "run_steps"]

logger = logging.getLogger("noukai_sdk.local")


class Models(Protocol):
    """Where the runner gets its models: a :class:`~noukai_sdk.local.pool.ModelPool`, or a fake."""

    def get(self, spec: str) -> ChatModel:
        """The model of this spec."""
        ...


def check_run(flow: Flow, state: RunState) -> list[Step]:
    """The steps as this run will take them, once it is sure that they can start.

    :func:`run_steps` calls it first; a service calls it before it opens its answer.

    Raises:
        FlowExecutionError: ``INVALID_STEP_INDEX``, ``BLOCK_OVERRIDE_INVALID``,
            ``TEMPLATE_UNRESOLVED`` or ``STALE_TREE`` (an output is missing), all with status 400.
    """
    if not 0 <= state.step_index <= len(flow.steps):
        message = f"step index {state.step_index} is not in 0 to {len(flow.steps)}"
        raise FlowExecutionError(message, status_code=400, code="INVALID_STEP_INDEX")
    steps = overridden(flow.steps, state.block_overrides)
    inputs = Inputs(flow, steps, state)
    for step in steps[: state.step_index]:
        if step.id not in state.outputs:
            message = f"the run is at step {state.step_index} and has no output of {step.id!r}"
            raise FlowExecutionError(message, status_code=400, code="STALE_TREE")
    for step in steps[state.step_index :]:
        missing = inputs.missing(step)
        if missing is not None:
            message = f"step {step.id!r}: {missing}"
            raise FlowExecutionError(message, status_code=400, code="TEMPLATE_UNRESOLVED")
    return steps


async def run_steps(
    flow: Flow, state: RunState, *, models: Models, max_steps: int | None = None
) -> AsyncGenerator[StreamEvent, None]:
    """Run ``flow`` from where ``state`` stands, which is changed as the run goes on.

    A step that is tried again gives a second StepStarted. After a tool pause, call this again with
    ``state.tool_messages`` set to the pause's messages and the tool results.

    Args:
        flow: What to run.
        state: Where the run stands.
        models: Gives the model of a spec.
        max_steps: Stop after so many completed steps, without FlowCompleted where steps are left.

    Returns:
        The events, until FlowCompleted, StepFailed, ToolCallsRequired or ``max_steps``.

    Raises:
        FlowExecutionError: Nothing can run, see :func:`check_run`; raised before the first event.
    """
    steps = check_run(flow, state)
    last = len(steps) if max_steps is None else min(len(steps), state.step_index + max_steps)
    run = _Run(steps, Inputs(flow, steps, state), state, models)
    while state.step_index < last:
        async with aclosing(run.step()) as events:
            async for event in events:
                yield event
        if run.is_over:
            return
    if state.step_index == len(steps):
        yield FlowCompleted(execution_id=state.execution_id, result=_result(flow, state))


def _result(flow: Flow, state: RunState) -> Any:
    sinks = flow.sinks
    if len(sinks) == 1:
        return state.outputs[sinks[0].id]
    return {step.id: state.outputs[step.id] for step in sinks}


class _Run:
    """The steps of one call of :func:`run_steps`."""

    def __init__(
        self, steps: Sequence[Step], inputs: Inputs, state: RunState, models: Models
    ) -> None:
        self._steps = steps
        self._inputs = inputs
        self._state = state
        self._models = models
        self.is_over = False

    async def step(self) -> AsyncGenerator[StreamEvent, None]:
        """Run the next step to its end: completed, failed or waiting for tools."""
        step = self._steps[self._state.step_index]
        attempts_left = step.retry
        while True:
            try:
                async with aclosing(self._attempt(step)) as events:
                    async for event in events:
                        yield event
                return
            # Whatever a step raises becomes an event; and a try costs nothing beside a model call.
            except Exception as error:  # noqa: BLE001, PERF203
                if not attempts_left or not _is_worth_retrying(error):
                    self.is_over = True
                    yield StepFailed(step_id=step.id, name=step.name, error=_failure(step, error))
                    return
                attempts_left -= 1
                logger.warning("step %s failed and is tried again: %r", step.id, error)

    async def _attempt(self, step: Step) -> AsyncGenerator[StreamEvent, None]:
        started = time.perf_counter()
        yield StepStarted(step_id=step.id, name=step.name, step_index=self._state.step_index)
        request = self._request(step)
        yield StepInput(step_id=step.id, input_data=_told(step, request))
        answer = Answer()
        async with aclosing(ask(step, self._models.get(step.model), request, answer)) as chunks:
            async for chunk in chunks:
                yield chunk
        if answer.tool_calls:
            yield self._pause(step, request, answer)
        else:
            yield self._complete(step, answer, started)

    def _request(self, step: Step) -> ChatRequest:
        messages = self._state.tool_messages or self._inputs.messages_for(step)
        return ChatRequest(
            messages=messages,
            temperature=step.temperature,
            max_tokens=step.max_tokens,
            tools=self._state.tools if step.tools else None,
            tool_choice=self._state.tool_choice if step.tools and self._state.tools else None,
        )

    def _pause(self, step: Step, request: ChatRequest, answer: Answer) -> ToolCallsRequired:
        state = self._state
        if not request.tools:
            message = f"the model of step {step.id!r} asks for tools, and none were offered"
            raise FlowExecutionError(message, code="TOOLS_NOT_ENABLED")
        if state.iterations_used >= step.max_tool_iterations:
            message = f"step {step.id!r} asked for tools {state.iterations_used} times already"
            raise FlowExecutionError(message, code="TOOL_ITERATION_LIMIT")
        self.is_over = True
        state.iterations_used += 1
        state.tool_messages = [*request.messages, answer.as_turn()]
        return ToolCallsRequired(
            execution_id=state.execution_id,
            step_id=step.id,
            step_index=state.step_index,
            iterations_used=state.iterations_used,
            tool_call_messages=state.tool_messages,
            tool_calls=answer.tool_calls,
            accumulated_outputs=dict(state.outputs),
        )

    def _complete(self, step: Step, answer: Answer, started: float) -> StepCompleted:
        state = self._state
        output = state.outputs[step.id] = output_of(step, answer)
        event = StepCompleted(
            step_id=step.id,
            name=step.name,
            output=output,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
            tokens=answer.tokens,
            cost_usd=_cost(step.model, answer.tokens),
            step_index=state.step_index,
        )
        state.step_index += 1
        state.iterations_used = 0
        state.tool_messages = None
        return event


def _told(step: Step, request: ChatRequest) -> dict[str, Any]:
    told: dict[str, Any] = {"model": step.model, "messages": request.messages}
    if request.temperature is not None:
        told["temperature"] = request.temperature
    if request.tools:
        told["tools"] = request.tools
    return told


def _cost(model: str, tokens: Tokens | None) -> str | None:
    return "0" if tokens is not None and ":" not in model else None


def _is_worth_retrying(error: Exception) -> bool:
    if isinstance(error, UnresolvedReferenceError):
        return False
    if isinstance(error, NoukaiError):
        return error.code == "OUTPUT_INVALID" or bool(getattr(error, "is_retryable", False))
    return True


def _failure(step: Step, error: Exception) -> StepFailure:
    if isinstance(error, NoukaiError):
        return StepFailure(code=error.code or "MODEL_ERROR", message=error.message)
    if isinstance(error, UnresolvedReferenceError):
        return StepFailure(code="TEMPLATE_UNRESOLVED", message=f"step {step.id!r}: {error}")
    if isinstance(error, TimeoutError):
        message = f"step {step.id!r} took longer than its timeout of {step.timeout} seconds"
        return StepFailure(code="STEP_TIMEOUT", message=message)
    logger.error("step %s failed", step.id, exc_info=error)
    return StepFailure(code="INTERNAL_ERROR", message=f"step {step.id!r} failed: {error!r}")
