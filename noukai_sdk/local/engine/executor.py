"""Runs workflows: blocking, awaited, or event by event."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..llm.config import LlmConfig
from ..llm.pool import LoopPools
from ..runtime.loop_thread import loop_thread
from ..workflow.plan import Flow
from ..workflow.workflow import Workflow
from .execution import Execution, Inputs, ToolHandler, answer_pause
from .result import WorkflowResult
from .run_stats import RunStats
from .scheduler import Settings
from .state import RunState
from .stream import EventStream

_UNSET: Any = object()


class Executor:
    """Runs workflows and flows. One executor serves many threads and event loops at once.

    Args:
        config: The model of agents that name none; by default the offline model.
        timeout: Seconds for a whole run, None for no limit.
        max_concurrency: How many nodes of one run work at once, None for no limit.
        retry: How often a failed node is tried again where it does not say so itself.
        debug: Log every step to the logger ``noukai_sdk.local.trace``.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> from noukai_sdk.local import Node, Workflow
        >>> workflow = Workflow("Shout")
        >>> _ = workflow.add_node(Node.transform("Loud", "uppercase"))
        >>> Executor().execute(workflow, inputs={"message": "hello"}).result
        'HELLO'
    """

    def __init__(
        self,
        config: LlmConfig | None = None,
        *,
        timeout: float | None = None,
        max_concurrency: int | None = None,
        retry: int = 0,
        debug: bool = False,
    ) -> None:
        self._settings = Settings(default_model=config or "offline")
        self._timeout: float | None = None
        self._pools = LoopPools()
        self._stats = RunStats()
        self.configure(timeout=timeout, max_concurrency=max_concurrency, retry=retry, debug=debug)

    def configure(
        self,
        *,
        max_concurrency: int | None = _UNSET,
        timeout: float | None = _UNSET,
        retry: int = _UNSET,
        debug: bool = _UNSET,
    ) -> None:
        """Change settings, for the runs that start from now on; what is left out stays.

        Args:
            max_concurrency: How many nodes of one run work at once, None for no limit.
            timeout: Seconds for a whole run, None for no limit.
            retry: How often a failed node is tried again where it does not say so itself.
            debug: Log every step to the logger ``noukai_sdk.local.trace``.

        Raises:
            ValueError: A setting is out of range; nothing is changed then.
        """
        _check("max_concurrency", max_concurrency, least=1, may_be_none=True)
        _check("retry", retry, least=0)
        is_given = timeout is not _UNSET and timeout is not None
        if is_given and not (isinstance(timeout, int | float) and timeout > 0):
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout!r}")
        changes: dict[str, Any] = {"max_concurrency": max_concurrency, "retry": retry}
        given = {name: value for name, value in changes.items() if value is not _UNSET}
        self._settings = replace(self._settings, **given)
        self._timeout = self._timeout if timeout is _UNSET else timeout
        if debug is True:
            logging.getLogger("noukai_sdk.local.trace").setLevel(logging.DEBUG)

    def execute(
        self,
        workflow: Workflow | Flow,
        inputs: Inputs = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_handler: ToolHandler | None = None,
    ) -> WorkflowResult:
        """Run a workflow and wait for its end. In async code, await :meth:`run_async` instead.

        Args:
            workflow: What to run.
            inputs: ``"message"`` is the message, and all of them are ``{{parameters.x}}``; a text
                alone is the message.
            tools: Offered to the nodes that allow tools, in OpenAI's form.
            tool_handler: Takes the pending tool calls and gives their results, as in
                ``flow.execute(tool_handler=...)`` of the client; may be async. Without it, the run
                pauses at tool calls: see :meth:`resume`.

        Returns:
            The outcome; a failed node makes a failed one, with ``errors``.

        Raises:
            WorkflowError: The workflow cannot run.
            FlowExecutionError: An input that it refers to is missing.
        """
        run = partial(self.run_async, tools=tools, tool_handler=tool_handler)
        return loop_thread.call(run, workflow, inputs)

    async def run_async(
        self,
        workflow: Workflow | Flow,
        inputs: Inputs = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_handler: ToolHandler | None = None,
    ) -> WorkflowResult:
        """Run a workflow in the running event loop; otherwise as :meth:`execute`.

        Cancelling it cancels all that is under way.
        """
        return await self._run(self._begin(workflow, inputs, tools, tool_handler))

    def execute_streaming(
        self,
        workflow: Workflow | Flow,
        inputs: Inputs = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_handler: ToolHandler | None = None,
    ) -> EventStream:
        """Run a workflow and tell what happens as it happens; arguments as for :meth:`execute`.

        Without a handler a ToolCallsRequired event comes; ``await event.resume(tool_results=...)``
        inside the loop answers it.

        Returns:
            The events, for ``async for`` or ``for``. Its ``result`` is the outcome, at the end.
        """
        execution = self._begin(workflow, inputs, tools, tool_handler)

        async def stream(models: Any, take: Any) -> WorkflowResult:
            with self._stats.counted() as count:
                return count(await execution.stream(models, take))

        return EventStream(stream, self._pools.get)

    def resume(
        self,
        workflow: Workflow | Flow,
        paused: WorkflowResult,
        tool_results: Sequence[Mapping[str, Any]],
    ) -> WorkflowResult:
        """Go on with a run that waits for tool results, and wait for its end or its next pause.

        Args:
            workflow: The one that was run.
            paused: The result with ``pause``.
            tool_results: One for each of its tool calls.

        Raises:
            ValueError: The run does not wait for tool results.
            FlowExecutionError: The results do not fit the calls.
        """
        return loop_thread.call(self.resume_async, workflow, paused, tool_results)

    async def resume_async(
        self,
        workflow: Workflow | Flow,
        paused: WorkflowResult,
        tool_results: Sequence[Mapping[str, Any]],
    ) -> WorkflowResult:
        """As :meth:`resume`, in the running event loop."""
        if paused.pause is None:
            raise ValueError(f"the run is {paused.state()}: it does not wait for tool results")
        state = copy.deepcopy(paused.run_state)
        answer_pause(state, paused.pause, tool_results)
        return await self._run(self._execution(workflow, state, paused.inputs, None))

    def get_stats(self) -> dict[str, Any]:
        """Counters since the start or the last :meth:`reset_stats`.

        Returns:
            ``total_executions``, ``successful_executions``, ``failed_executions``,
            ``success_rate`` (0 to 1; 0 without executions), ``total_duration_ms``,
            ``average_duration_ms``, ``total_tokens`` and ``total_cost_usd`` (a decimal string, or
            None). A run that was cancelled counts as failed.
        """
        return self._stats.told()

    def reset_stats(self) -> None:
        """Set all counters to zero."""
        self._stats = RunStats()

    def get_execution_mode(self) -> str:
        """``"sequential"`` with a concurrency of 1, else ``"dataflow"``."""
        return "sequential" if self._settings.max_concurrency == 1 else "dataflow"

    def close(self) -> None:
        """Release the models of blocking calls. May be called any number of times."""
        if loop_thread.is_running:
            loop_thread.call(self._pools.aclose)

    async def aclose(self) -> None:
        """Release the models of the running event loop; they are released with the loop anyway."""
        await self._pools.aclose()

    def _begin(
        self,
        workflow: Workflow | Flow,
        inputs: Inputs,
        tools: Sequence[Mapping[str, Any]],
        tool_handler: ToolHandler | None,
    ) -> Execution:
        given = {"message": inputs} if isinstance(inputs, str) else inputs or {}
        if not isinstance(given, Mapping):
            raise TypeError(f"inputs must be a mapping or a text, not {type(inputs).__name__}")
        state = RunState(
            execution_id=str(uuid.uuid4()),
            message=given.get("message"),
            parameters=dict(given),
            tools=[dict(tool) for tool in tools] or None,
        )
        return self._execution(workflow, state, given, tool_handler)

    def _execution(
        self,
        workflow: Workflow | Flow,
        state: RunState,
        inputs: Mapping[str, Any],
        tool_handler: ToolHandler | None,
    ) -> Execution:
        if not isinstance(workflow, Workflow | Flow):
            raise TypeError(f"a Workflow or a Flow can be run, not {type(workflow).__name__}")
        execution = Execution(
            plan=workflow.plan,
            state=state,
            inputs=inputs,
            settings=self._settings,
            timeout=self._timeout,
            tool_handler=tool_handler,
        )
        execution.check()
        return execution

    async def _run(self, execution: Execution) -> WorkflowResult:
        with self._stats.counted() as count:
            return count(await execution.run(await self._pools.get()))


def _check(name: str, value: Any, *, least: int, may_be_none: bool = False) -> None:
    if value is _UNSET or (may_be_none and value is None):
        return
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be {least} or more, not {value!r}")
