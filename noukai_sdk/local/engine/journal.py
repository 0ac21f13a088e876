"""Write what a run finishes to its store, and read it back.

The fields of the state that grow while a run goes on are parts in the store: ``outputs`` under the path "",
``inner`` under its own paths, and the others under paths that begin with "#", which no node's path does.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from ...models.events import ToolCallsRequired
from ..run_store.json_text import Types, from_text, plain, to_text
from ..run_store.storage import (
    Part,
    RunStorage,
    RunStoreError,
    StoredRun,
    WorkflowChangedError,
)
from ..runtime.uninterrupted import uninterrupted
from ..workflow.fingerprint import Shape, changes, still_fitting
from .approval import ApprovalRequest
from .for_each import ItemError
from .state import RunState

if TYPE_CHECKING:
    from ..workflow.plan import Plan
    from .result import WorkflowResult
    from .stats import Usage

logger = logging.getLogger("noukai_sdk.local")

_INPUTS = (
    "message",
    "messages",
    "parameters",
    "attachments",
    "block_overrides",
    "input_overrides",
    "tools",
    "tool_choice",
)
_USAGES, _FAILED = "#usages", "#failed"


@dataclass
class _Batch:
    parts: list[Part] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    is_begun: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    error: RunStoreError | None = None


class Journal:
    """One run in its store, while this process owns it.

    Parts that are written at the same time are committed together.

    Args:
        store: The store.
        run: The run, as it is stored at first.
        types: The types of the outputs of its nodes.
        is_own: The run has been taken from the store already.
    """

    def __init__(
        self, store: RunStorage, run: StoredRun, types: Types, *, is_own: bool = False
    ) -> None:
        self._store = store
        self._types = types
        self._run = run
        self._is_new = not is_own
        self._is_own = is_own

    async def open(self) -> None:
        """Own the run; do nothing if it is owned already.

        Raises:
            RunStoreError: The store cannot be used, or somebody else owns the run.
        """
        # Here and not in the constructor, which may be called outside of an event loop.
        self._next, self._lock = _Batch(), anyio.Lock()
        # The commits do not wait for the threads of others.
        self._limiter = anyio.CapacityLimiter(1)
        if self._is_own:
            return
        if self._is_new:
            await _own(self._store, self._begin)
        else:  # an event stream that goes on after a pause
            await _own(self._store, lambda: self._store.take(self._run.id))
        self._is_own, self._is_new = True, False

    def _begin(self) -> tuple[StoredRun, list[Part]]:
        self._store.begin(self._run)
        return self._run, []

    def checked(self, what: str, output: Any) -> Any:
        """Return an output as the store will return it.

        Raises:
            OutputNotStorableError: The store cannot hold it.
        """
        return plain(what, output, self._types)

    async def write(
        self,
        path: str,
        name: str,
        output: Any,
        *,
        usage: Usage | None = None,
        failed: Mapping[str, Sequence[int]] | None = None,
        drop: str | None = None,
        waits: bool = True,
    ) -> None:
        """Store an output, and what the run's node has used so far.

        Args:
            path: Where in the run the output belongs to: "", or the path of the node that it is a part of.
            name: Its name there.
            output: From :meth:`checked`.
            usage: What the node has used that it is a part of.
            failed: Indexes of failed items, by the path of the loop.
            drop: The path whose parts nobody needs any more.
            waits: Return when the output is durable.

        Raises:
            RunStoreError: It cannot be stored.
        """
        batch = self._next
        batch.parts.append(Part(path, name, to_text("the output", output, self._types)))
        if usage is not None and usage.root.is_used:
            root = usage.root
            batch.parts.append(Part(_USAGES, root.node_id, json.dumps(root.as_dict)))
        for loop, indexes in (failed or {}).items():
            batch.parts.append(Part(_FAILED, loop, json.dumps(indexes)))
        if drop is not None:
            batch.drop.append(drop)
        if waits:
            await self._commit(batch)

    async def _commit(self, batch: _Batch) -> None:
        # The first who waits for a batch writes it, after the one before it. Others join until then.
        if batch.is_begun:
            with anyio.CancelScope(shield=True):
                await batch.done.wait()
        else:
            batch.is_begun = True
            await uninterrupted(partial(self._write_batch, batch))
        if batch.error is not None:
            raise batch.error

    async def _write_batch(self, batch: _Batch) -> None:
        async with self._lock:
            if self._next is batch:
                self._next = _Batch()
            write = partial(self._store.write, self._run.id, batch.parts, batch.drop)
            try:
                await to_thread.run_sync(write, limiter=self._limiter)
            except RunStoreError as error:
                batch.error = error
            finally:
                batch.done.set()

    async def end(self, state: RunState, result: WorkflowResult | None) -> None:
        """Store how the run has stopped, and give it up.

        Args:
            state: The state of the run.
            result: Its result, None if it was cancelled.
        """
        run = self._run
        if result is not None:
            run.status, run.position, run.error = result.state(), None, None
            if result.pause is not None:
                pause = result.pause.model_dump(mode="json", exclude={"accumulated_outputs"})
                kept = {"iterations": state.iterations_used, "messages": state.tool_messages}
                run.position = json.dumps({"pause": pause, **kept})
            elif result.approvals:
                asked = {"approvals": [dict(vars(request)) for request in result.approvals]}
                run.position = to_text("what is to be approved", asked, self._types)
            if result.errors:
                run.error = str(result.errors[0])
        else:
            run.status, run.error = "interrupted", None
            if (
                state.tool_messages is None
            ):  # else it still waits in the node that has asked for them
                run.position = None
        batch = self._next
        for name, usage in state.usages.items():
            batch.parts.append(Part(_USAGES, name, json.dumps(usage)))
        try:
            with suppress(RunStoreError):  # said by the write that needed it, or below
                if batch.parts or batch.drop:
                    await self._commit(batch)
        finally:
            await self.give_up()

    async def give_up(self) -> None:
        """Give the run up. An error is logged: whatever was to be durable is so, or has raised one."""
        if not self._is_own:
            return
        self._is_own = False
        run, end = self._run, self._store.end
        status = "interrupted" if run.status == "running" else run.status

        def call() -> None:
            end(run.id, status, position=run.position, error=run.error)

        try:
            await uninterrupted(partial(to_thread.run_sync, call))
        except RunStoreError as error:
            logger.error("the end of run %s is not stored: %s", run.id, error)


def new_run(plan: Plan, workflow: str, state: RunState) -> StoredRun:
    """Return the row of a run that begins.

    Raises:
        OutputNotStorableError: JSON cannot hold an input.
    """
    inputs = {name: getattr(state, name) for name in _INPUTS}
    shape = json.dumps(plan.shape)
    return StoredRun(state.execution_id, workflow, shape, to_text("an input of the run", inputs))


async def _own(
    store: RunStorage, acquire: Callable[[], tuple[StoredRun, list[Part]]]
) -> tuple[StoredRun, list[Part]]:
    """Begin or take a run in a thread. Give it up if the event loop ends before the thread does."""
    guard, owned, is_left = threading.Lock(), list[StoredRun](), False

    def give_up(run: StoredRun) -> None:
        status = "interrupted" if run.status == "running" else run.status
        with suppress(RunStoreError):
            store.end(run.id, status, position=run.position, error=run.error)

    def call() -> tuple[StoredRun, list[Part]]:
        run, parts = acquire()
        with guard:
            owned.append(run)
            nobody_waits = is_left
        if nobody_waits:
            give_up(run)
        return run, parts

    try:
        taken = await uninterrupted(partial(to_thread.run_sync, call))
    except BaseException:
        with guard:
            is_left = True
            runs = [*owned]
        for run in runs:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(give_up, run)
        raise
    return taken


@dataclass
class TakenRun:
    """A run that was taken from its store.

    Attributes:
        state: Its state, to go on from.
        pause: The tool calls that it waits for, None if it does not wait.
        approvals: The decisions that it waits for, None if that is not known: its process has died.
    """

    journal: Journal
    state: RunState
    pause: ToolCallsRequired | None
    approvals: list[ApprovalRequest] | None


async def take(
    store: RunStorage, run_id: str, plan: Plan, *, allow_edited: bool = False
) -> TakenRun:
    """Take a run from its store, to go on with it.

    Raises:
        RunNotFoundError: There is no such run.
        RunInProgressError: It is under way.
        WorkflowChangedError: ``plan`` is not the one that it began with.
        RunStoreError: The store cannot be used.
    """
    run, parts = await _own(store, lambda: store.take(run_id))
    journal = Journal(store, run, plan.output_types, is_own=True)
    try:
        await journal.open()
        return await _taken(store, run, parts, plan, journal, allow_edited=allow_edited)
    except BaseException:
        await journal.give_up()
        raise


async def _taken(
    store: RunStorage,
    run: StoredRun,
    parts: list[Part],
    plan: Plan,
    journal: Journal,
    *,
    allow_edited: bool,
) -> TakenRun:
    try:
        before, now = json.loads(run.shape), plan.shape
        edits = changes(before, now)
        position = from_text(run.position, plan.output_types) if run.position else None
        state = RunState(run.id, **json.loads(run.inputs))
        if edits:
            parts = _fitting(parts, before, now, plan)
        _fill(state, parts, plan.output_types)
        pause = None
        approvals: list[ApprovalRequest] | None = None if run.status == "running" else []
        if position is not None and "approvals" in position:
            approvals = [ApprovalRequest(**request) for request in position["approvals"]]
        elif position is not None:
            pause = ToolCallsRequired(**position["pause"], accumulated_outputs=dict(state.outputs))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunStoreError(f"the run {run.id!r} is damaged in its store: {error!r}") from error
    if edits and not allow_edited:
        raise WorkflowChangedError(run.id, edits)
    for node in plan.nodes:
        if node.id not in state.outputs:
            break
        state.step_index += 1
    if pause is not None and position is not None:
        at = state.step_index
        if at < len(plan.nodes) and plan.nodes[at].id == pause.step_id:
            state.iterations_used = position["iterations"]
            state.tool_messages = position["messages"]
        else:  # the node that has asked for tools was edited, and asks again
            pause = None
    if edits:
        run.shape, run.position = json.dumps(now), run.position if pause else None
        await uninterrupted(partial(to_thread.run_sync, store.rewrite, run, parts))
    return TakenRun(journal, state, pause, approvals)


def _fitting(parts: list[Part], before: Shape, now: Shape, plan: Plan) -> list[Part]:
    """Return the parts of nodes that still fit. What the others have used still counts."""
    fitting = still_fitting(before, now, plan)

    def fits(part: Part) -> bool:
        if part.path == _USAGES:
            return part.name in now["nodes"]
        path = part.name if part.path in ("", _FAILED) else part.path
        top = path if part.path == "" else node_id_of(path)
        return top in fitting

    return [part for part in parts if fits(part)]


def node_id_of(path: str) -> str:
    """Return the id of the run's node that a path leads into."""
    name = path.split("/")[0].split("[")[0].split("|")[0]
    for code, sign in (("%5B", "["), ("%7C", "|"), ("%2F", "/"), ("%23", "#"), ("%25", "%")):
        name = name.replace(code, sign)
    return name


def _fill(state: RunState, parts: Sequence[Part], types: Types) -> None:
    for path, name, text in parts:
        value = from_text(text, types)
        if path == "":
            state.outputs[name] = value
        elif path == _USAGES:
            state.usages[name] = value
        elif path == _FAILED:
            state.failed_items[name] = value
        else:
            state.inner.setdefault(path, {})[name] = value
    for loop, indexes in state.failed_items.items():
        outer, _, last = loop.rpartition("/")
        of_loop = state.inner.get(outer, {}) if outer else state.outputs
        output = of_loop.get(node_id_of(last))
        items = state.inner.get(loop, {})
        for index in indexes:
            if isinstance(output, list):
                output[index] = ItemError(output[index])
            if str(index) in items:
                items[str(index)] = ItemError(items[str(index)])
