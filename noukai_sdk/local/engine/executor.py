"""Run workflows: blocking, awaited, or event by event."""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

from ...models.events import StreamEvent
from ..llm.config import LlmConfig
from ..llm.pool import LoopPools
from ..run_store.storage import RunInfo, RunStorage
from ..runtime import checks
from ..runtime.hidden_keys import type_name
from ..runtime.loop_thread import loop_thread
from ..workflow.plan import Flow
from ..workflow.workflow import Workflow
from .approval import ApprovalDecision, ApprovalRequest, decisions_of
from .execution import Execution, ToolHandler
from .journal import Journal, new_run, take
from .result import WorkflowResult
from .scheduler import Settings
from .state import RunState
from .stats import RunStats, Usage
from .step_context import Models
from .stream import EventStream, Send

RunInputs = Mapping[str, Any] | str | None

_UNSET: Any = object()


class Executor:
    """Run workflows and flows. One executor serves many threads and event loops at once.

    Args:
        config: The model for agents that do not name one; by default the offline model.
        timeout: Seconds for a whole run, None for no limit.
        max_concurrency: How many nodes and loop items of one run are in progress at once, None for
            no limit.
        retry: How often to retry a failed node that does not set ``retry`` itself.
        debug: Log every step to the logger ``noukai_sdk.local.trace``.
        timeout_seconds: Another name of ``timeout``.
        lightweight_mode: Fail at once: no node is retried, whatever it sets. Runs are not counted, unless
            ``configure(enable_metrics=True)`` says so.
        store: Saves what runs finish, so :meth:`resume` can continue after a failure, a pause or a
            crash: the path of a SQLite file, the URL of a Postgres database, or a store object. None to
            keep nothing.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting is out of range, or given under both of its names.

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
        timeout_seconds: float | None = None,
        lightweight_mode: bool = False,
        store: str | PathLike[str] | RunStorage | None = None,
    ) -> None:
        if config is not None:
            checks.of_type("config", config, LlmConfig, "an LlmConfig, as in LlmConfig.openai()")
        checks.flag("lightweight_mode", lightweight_mode)
        self._settings = Settings(
            default_model=config or "offline", is_lightweight=lightweight_mode
        )
        self._has_metrics = not lightweight_mode
        self._timeout: float | None = None
        self._pools = LoopPools()
        self._stats = RunStats()
        self._store = _store_of(store)
        timeout = _one_of("timeout", timeout, "timeout_seconds", timeout_seconds, unset=None)
        self.configure(timeout=timeout, max_concurrency=max_concurrency, retry=retry, debug=debug)

    def configure(
        self,
        *,
        max_concurrency: int | None = _UNSET,
        timeout: float | None = _UNSET,
        retry: int = _UNSET,
        debug: bool = _UNSET,
        timeout_seconds: float | None = _UNSET,
        max_retries: int = _UNSET,
        enable_metrics: bool = _UNSET,
    ) -> None:
        """Change settings for the runs that start from now on. Settings that are left out stay.

        Args:
            max_concurrency: How many nodes and loop items of one run are in progress at once, None for
                no limit.
            timeout: Seconds for a whole run, None for no limit.
            retry: How often to retry a failed node that does not set ``retry`` itself.
            debug: Log every step to the logger ``noukai_sdk.local.trace``.
            timeout_seconds: Another name of ``timeout``.
            max_retries: Another name of ``retry``.
            enable_metrics: Count runs for :meth:`get_stats`.

        Raises:
            TypeError: A setting has the wrong type; no setting has changed.
            ValueError: A setting is out of range, or given under both of its names; no setting has changed.
        """
        timeout = _one_of("timeout", timeout, "timeout_seconds", timeout_seconds)
        retry_name = "retry" if max_retries is _UNSET else "max_retries"
        retry = _one_of("retry", retry, "max_retries", max_retries)
        changes: dict[str, Any] = {}
        if max_concurrency is not _UNSET:
            if max_concurrency is not None:
                checks.whole("max_concurrency", max_concurrency, least=1)
            changes["max_concurrency"] = max_concurrency
        if retry is not _UNSET:
            checks.whole(retry_name, retry, least=0)
            changes["retry"] = retry
        if timeout is not _UNSET and timeout is not None:
            checks.seconds("timeout", timeout)
        for name, value in (("debug", debug), ("enable_metrics", enable_metrics)):
            if value is not _UNSET:
                checks.flag(name, value)
        self._settings = replace(self._settings, **changes)
        if timeout is not _UNSET:
            self._timeout = timeout
        if enable_metrics is not _UNSET:
            self._has_metrics = enable_metrics
        if debug is True:
            logging.getLogger("noukai_sdk.local.trace").setLevel(logging.DEBUG)

    def execute(
        self,
        workflow: Workflow | Flow,
        inputs: RunInputs = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_handler: ToolHandler | None = None,
        run_id: str | None = None,
    ) -> WorkflowResult:
        """Run a workflow and wait for its result. In async code, await :meth:`run_async` instead.

        Args:
            workflow: The workflow or flow to run.
            inputs: Values for ``{{parameters.x}}``, of which ``"message"`` is also the message; or
                a str, which is the message. ``"messages"`` is the chat before the message, in OpenAI's
                format; without a message, its last user turn is the message.
            tools: Offered to the nodes that allow tools, in OpenAI's form.
            tool_handler: Takes the pending tool calls and returns their results, as in
                ``flow.execute(tool_handler=...)`` of the client; may be async. Without it, the run
                pauses at tool calls: see :meth:`resume`.
            run_id: The id of the run, by default a new one. A store refuses an id that it has already.

        Returns:
            The outcome. If a node fails, it is a failed result with ``errors``.

        Raises:
            WorkflowError: The workflow is not valid.
            FlowExecutionError: An input is missing, or the store cannot hold it.
            RunStoreError: The store cannot be used, or has a run with this id.
        """
        run = partial(self.run_async, tools=tools, tool_handler=tool_handler, run_id=run_id)
        return loop_thread.call(run, workflow, inputs)

    async def run_async(
        self,
        workflow: Workflow | Flow,
        inputs: RunInputs = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_handler: ToolHandler | None = None,
        run_id: str | None = None,
    ) -> WorkflowResult:
        """Run a workflow in the running event loop; otherwise like :meth:`execute`.

        Cancelling this cancels everything that the run has under way.
        """
        return await self._run(self._begin(workflow, inputs, tools, tool_handler, run_id))

    def execute_streaming(
        self,
        workflow: Workflow | Flow,
        inputs: RunInputs = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_handler: ToolHandler | None = None,
        run_id: str | None = None,
    ) -> EventStream:
        """Run a workflow and stream its events; the arguments are those of :meth:`execute`.

        Without a handler, tool calls arrive as a ToolCallsRequired event: answer it with
        ``await event.resume(tool_results=...)`` inside the loop.

        Returns:
            The events, for ``async for`` or ``for``. Afterwards, ``result`` is the outcome.
        """
        execution = self._begin(workflow, inputs, tools, tool_handler, run_id)

        async def run(models: Models, send: Send[StreamEvent]) -> WorkflowResult:
            with self._counting() as set_result:
                return set_result(await execution.stream(models, send))

        return EventStream(run, self._pools.get)

    def resume(
        self,
        workflow: Workflow | Flow,
        run: WorkflowResult | str,
        tool_results: Sequence[Mapping[str, Any]] | None = None,
        *,
        approvals: Mapping[str, ApprovalDecision] | None = None,
        tool_handler: ToolHandler | None = None,
        allow_edited: bool = False,
    ) -> WorkflowResult:
        """Continue a run that has failed, waits, or was interrupted, to its end or its next pause.

        Nodes and items of loops that are finished are not repeated. A run that has completed returns its
        result again.

        Args:
            workflow: The workflow of the run.
            run: Its id, if the executor has a store, or its result so far. What is in the store counts.
            tool_results: One for each tool call, if the run waits for some.
            approvals: Decisions by the name, id or path of the node that waits: True, False, or
                ``{"approved": ..., "comment": ..., "value": ...}`` with a value instead of the one that was
                asked about. Without them, the result has the open requests again.
            tool_handler: As in :meth:`execute`; it also answers the calls that the run waits for.
            allow_edited: Continue although the workflow has changed: nodes that have changed, and all
                nodes after them, run again.

        Raises:
            ValueError: The run waits for tool results, and none are given; or the other way round. A
                decision is not valid, or is not one that the run waits for.
            FlowExecutionError: The results do not match the calls.
            RunNotFoundError: The store has no such run.
            RunInProgressError: The run is under way, here or in another process.
            WorkflowChangedError: The workflow is not the one that the run began with.
        """
        resume = partial(
            self.resume_async,
            approvals=approvals,
            tool_handler=tool_handler,
            allow_edited=allow_edited,
        )
        return loop_thread.call(resume, workflow, run, tool_results)

    async def resume_async(
        self,
        workflow: Workflow | Flow,
        run: WorkflowResult | str,
        tool_results: Sequence[Mapping[str, Any]] | None = None,
        *,
        approvals: Mapping[str, ApprovalDecision] | None = None,
        tool_handler: ToolHandler | None = None,
        allow_edited: bool = False,
    ) -> WorkflowResult:
        """Continue a run in the running event loop; otherwise like :meth:`resume`."""
        journal: Journal | None = None
        waiting: list[ApprovalRequest] | None
        if self._store is not None:
            _check_workflow(workflow)
            run_id = run if isinstance(run, str) else run.run_id
            taken = await take(self._store, run_id, workflow.plan, allow_edited=allow_edited)
            journal, state, pause, waiting = (
                taken.journal,
                taken.state,
                taken.pause,
                taken.approvals,
            )
        elif isinstance(run, WorkflowResult):
            _check_workflow(workflow)
            state, pause, waiting = copy.deepcopy(run.run_state), run.pause, [*run.approvals]
        else:
            raise ValueError("a run is found by its id in a store: Executor(store='runs.db')")
        try:
            state.approvals = decisions_of(workflow.plan, approvals, waiting)
            execution = self._execution(
                workflow, state, state.parameters, tool_handler, journal=journal
            )
            if pause is None and tool_results is not None:
                raise ValueError("the run does not wait for tool results")
            if pause is not None:
                await execution.answer(pause, tool_results)
            return await self._run(execution)
        except BaseException:
            if journal is not None:
                await journal.give_up()
            raise

    def runs(self) -> list[RunInfo]:
        """Return the runs of the store, the latest first; none without a store.

        Raises:
            RunStoreError: The store cannot be used.
        """
        return [] if self._store is None else self._store.runs()

    def get_stats(self) -> dict[str, Any]:
        """Return the counters since the start or the last :meth:`reset_stats`.

        Returns:
            ``total_executions``, ``successful_executions``, ``failed_executions``,
            ``success_rate`` (0 to 1; 0 without executions), ``total_duration_ms``,
            ``average_duration_ms``, ``total_tokens`` and ``total_cost_usd`` (a decimal string, or
            None). A run that was cancelled counts as failed.
        """
        return self._stats.as_dict()

    def reset_stats(self) -> None:
        """Set all counters to zero."""
        self._stats = RunStats()

    def get_execution_mode(self) -> str:
        """Return ``"lightweight"``, ``"sequential"`` (``max_concurrency`` is 1) or ``"dataflow"``."""
        if self._settings.is_lightweight:
            return "lightweight"
        return "sequential" if self._settings.max_concurrency == 1 else "dataflow"

    def close(self) -> None:
        """Release the models of blocking calls, and the store. May be called more than once."""
        if self._store is not None:
            self._store.close()
        if loop_thread.is_running:
            loop_thread.call(self._pools.aclose)

    async def aclose(self) -> None:
        """Release the store and the models of the event loop; asyncio releases these as the loop ends."""
        if self._store is not None:
            self._store.close()
        await self._pools.aclose()

    def _counting(
        self, before: Collection[Usage] = ()
    ) -> AbstractContextManager[Callable[[WorkflowResult], WorkflowResult]]:
        return (
            self._stats.counting(before)
            if self._has_metrics
            else nullcontext(lambda result: result)
        )

    def _begin(
        self,
        workflow: Workflow | Flow,
        inputs: RunInputs,
        tools: Sequence[Mapping[str, Any]],
        tool_handler: ToolHandler | None,
        run_id: str | None,
    ) -> Execution:
        if run_id is not None:
            checks.of_type("run_id", run_id or None, str, "a str of one character or more")
        values = {"message": inputs} if isinstance(inputs, str) else inputs or {}
        checks.of_type("inputs", values, Mapping, "a mapping or a str")
        checks.of_type("tools", tools, list | tuple, "a list of tools in OpenAI's form")
        for tool in tools:
            checks.of_type("a tool", tool, Mapping, "a mapping in OpenAI's form")
        if tool_handler is not None:
            checks.of_type("tool_handler", tool_handler, Callable, "a function")
        state = RunState(
            execution_id=run_id or str(uuid.uuid4()),
            message=values.get("message"),
            messages=_history(values),
            parameters=dict(values),
            tools=[dict(tool) for tool in tools] or None,
        )
        execution = self._execution(workflow, state, values, tool_handler)
        if self._store is not None:
            name = workflow.name if isinstance(workflow, Workflow) else str(workflow)
            execution.journal = Journal(
                self._store, new_run(workflow.plan, name, state), workflow.plan.output_types
            )
        return execution

    def _execution(
        self,
        workflow: Workflow | Flow,
        state: RunState,
        inputs: Mapping[str, Any],
        tool_handler: ToolHandler | None,
        journal: Journal | None = None,
    ) -> Execution:
        _check_workflow(workflow)
        execution = Execution(
            plan=workflow.plan,
            state=state,
            inputs=inputs,
            settings=self._settings,
            timeout=self._timeout,
            tool_handler=tool_handler,
            journal=journal,
        )
        execution.check()
        return execution

    async def _run(self, execution: Execution) -> WorkflowResult:
        before = [Usage(usage) for usage in execution.state.usages.values()]
        with self._counting(before) as set_result:
            return set_result(await execution.run(await self._pools.get()))


def _store_of(store: str | PathLike[str] | RunStorage | None) -> RunStorage | None:
    if isinstance(store, str) and store.startswith(("postgres:", "postgresql:", "postgresql+")):
        from ..run_store.postgres import PostgresRunStore

        return PostgresRunStore(store)
    if isinstance(store, str | PathLike):
        from ..run_store.sqlite import RunStore

        return RunStore(store)
    if store is not None and not hasattr(store, "rewrite"):
        raise TypeError(f"store must be a path or a RunStore, not {type_name(store)}")
    return store


def _check_workflow(workflow: object) -> None:
    checks.of_type("workflow", workflow, Workflow | Flow, "a Workflow or a Flow")


def _one_of(name: str, value: Any, other_name: str, other: Any, *, unset: Any = _UNSET) -> Any:
    """Return the value of a setting that has two names."""
    if value is not unset and other is not unset:
        raise ValueError(f"pass {name}= or {other_name}=, not both")
    return value if other is unset else other


def _history(values: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return ``inputs["messages"]``, and the message behind them if there is one."""
    messages, message = values.get("messages"), values.get("message")
    if messages is None:
        return None
    is_list = isinstance(messages, list | tuple)
    if not is_list or not all(isinstance(t, Mapping) and "role" in t for t in messages):
        raise TypeError(
            "inputs['messages'] must be a list of turns, as in {'role': 'user', 'content': '...'}"
        )
    turns = [dict(turn) for turn in messages]
    if message is not None and turns:
        turns.append({"role": "user", "content": message})
    return turns or None
