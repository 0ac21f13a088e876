"""Start, drive, pause, resume and end runs.

A run is in memory only while a call drives it. When it pauses or ends, it is on disk before the caller
is told: the next call may come at once, and to another process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from ..local.engine.runner import check_run, run_flow
from ..local.engine.sizes import SizeLimits
from ..local.engine.state import RunState
from ..local.engine.stream import producer_stream
from ..local.workflow.plan import Flow
from ..models.events import RunStarted, StepCompleted, StepPaused, StreamEvent
from .admission import Admission, RepeatedCallError
from .bodies import Body
from .capture import Event
from .encoding import Clock
from .errors import RequestError
from .live_trace import Channels, NumberedEvent
from .model_usage import CountedModels, Stats
from .preconditions import check_first_call
from .resuming import already_running, resumed_run
from .run import Run, Trigger
from .run_spans import begin_run_span
from .store.database import StoreUnavailableError
from .store.idempotency import IdempotencyKey
from .store.store import Row, Store
from .store.writer import Saving, StaleOwnerError

logger = logging.getLogger("noukai_sdk.backend")

_RETRY_INTERVAL = 1.0
"""Seconds between two attempts of a job to store its progress in an outage."""

_ITEMS_INTERVAL = 0.5
"""Seconds until finished items of a job's loop are stored, if the state of the run is small."""


@dataclass
class _Driven:
    """A run that this process drives.

    Attributes:
        task: The task that waits for its next event; None before the first.
        saving: Its last save that nobody waited for.
        is_lost: It has another owner now, or has been ended from outside.
        items_timer: Set while finished items of a loop wait to be saved.
        recording: Held while an event is recorded.
    """

    run: Run
    task: asyncio.Task[Any] | None = None
    saving: Saving | None = None
    is_lost: bool = False
    items_timer: asyncio.TimerHandle | None = None
    recording: asyncio.Lock = field(default_factory=asyncio.Lock)

    def raise_if_lost(self) -> None:
        if self.is_lost or (self.saving is not None and self.saving.is_refused):
            raise StaleOwnerError(self.run.id)


class Runs:
    """The runs that this process drives.

    A run is driven by its owner: whoever wants to drive, end or continue it takes it first (see
    :meth:`Store.take`), and the writes of its former owner are refused from then on.

    Args:
        process_id: The owner of the runs of this process.

    Attributes:
        is_shared: Other processes can continue the runs of this one.
    """

    def __init__(
        self,
        store: Store,
        models: CountedModels,
        channels: Channels,
        clock: Clock,
        stats: Stats,
        process_id: str,
        sizes: SizeLimits | None = None,
    ) -> None:
        self._sizes = sizes
        self._store = store
        self._models = models
        self._channels = channels
        self._clock = clock
        self._stats = stats
        self._process_id = process_id
        self._active: dict[str, _Driven] = {}
        self.is_shared = False
        self._returns: set[asyncio.Task[None]] = set()

    async def begin(
        self,
        flow: Flow,
        version: int | None,
        body: Body,
        *,
        trigger: Trigger,
        session_id: str | None,
        started_at: int,
        admission: Admission | None = None,
        traceparent: str | None = None,
    ) -> Run:
        """Begin a run for a first call.

        Raises:
            RequestError: The call cannot start a run.
            RepeatedCallError: The call's idempotency key has started one before.
        """
        call = body.call
        check_first_call(flow, call, trigger)
        self._store.raise_if_unavailable()
        execution_id = str(uuid.uuid4())
        run = Run(
            id=execution_id,
            flow=flow,
            version=version,
            session_id=session_id,
            trigger=trigger,
            started_at=started_at,
            request=body.request,
            content_hash=flow.content_hash,
            state=RunState(
                execution_id=execution_id,
                message=call.message,
                messages=call.messages,
                parameters=call.parameters or {},
                attachments=call.attachments or [],
                block_overrides=call.block_overrides or {},
                input_overrides=call.input_overrides or {},
                step_outputs=call.step_outputs or {},
                tools=call.tools,
                tool_choice=call.tool_choice,
            ),
            status="pending" if trigger == "job" else "running",
            keeps_result=admission is not None and admission.key is not None,
            owner=None if trigger == "job" else self._process_id,
            epoch=0 if trigger == "job" else 1,
            traceparent=traceparent,
        )
        check_run(flow, run.state)
        if admission is not None or trigger != "execute":
            await self._insert(run, admission)
        self._stats.executions += 1
        if trigger != "job":
            self._active[run.id] = _Driven(run)
        if admission is None and trigger == "execute":
            self._store.save(run)
        return run

    async def _insert(self, run: Run, admission: Admission | None) -> None:
        """Write a new run at once: a job is on disk before its caller is told, and no stream has begun."""
        try:
            if admission is not None:
                async with admission.turn:
                    await self._store.insert_checked(run, admission.check)
            else:
                await self._store.save(run).committed()
        except (RequestError, RepeatedCallError):
            raise
        except BaseException as error:
            # The commit may have succeeded all the same. A job with a key then waits for its turn, and the
            # same call finds it. Any other run is ended, because nobody drives it or knows of it.
            key = None if admission is None else admission.key
            outcome = "the job may have been accepted: look whether it exists"
            if run.trigger != "job" or key is None:
                run.stop("failed", "the run was stopped as it began", self._clock.now())
                outcome = "the run did not begin"
                if run.trigger == "job":
                    outcome = "the job was not accepted, and will not run"
                if key is None:
                    self._store.save(run)
                else:
                    self._in_background(self._free_key(key, run))
            if isinstance(error, StoreUnavailableError):
                error.execution_id, error.outcome = run.id, outcome
            raise

    async def _free_key(self, key: IdempotencyKey, run: Run) -> None:
        """Let the call of a run that did not begin be repeated, and store that it has ended."""
        while True:
            try:
                await self._store.free_key(key, run.id)
                break
            except StoreUnavailableError:
                await asyncio.sleep(_RETRY_INTERVAL)
        self._store.save(run)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    async def resume(self, flow: Flow, version: int | None, body: Body, trigger: Trigger) -> Run:
        """Resume a paused run.

        Raises:
            RequestError: The call does not fit the run's position.
        """
        execution_id = body.call.execution_id or ""
        self._store.raise_if_unavailable()
        row = await self._store.execution(execution_id)
        run, results = resumed_run(row, flow, version, body.call, trigger)
        run.resume(results)
        check_run(flow, run.state)
        # Of two calls at once, in whichever process, one takes the run.
        if row is None or not await self.take(run, row):
            raise already_running(execution_id)
        self._store.save(run)
        return run

    async def take(self, run: Run, row: Row, **values: Any) -> bool:
        """Become the owner of a run that was read from ``row``; return False if it has changed since."""
        try:
            epoch = await self._store.take(row, self._process_id, self._clock.now(), **values)
        except StoreUnavailableError as error:
            # The commit may have succeeded all the same, and nobody would drive the run.
            self._in_background(self._give_back(row))
            error.execution_id = run.id
            error.outcome = f"the run is still {row['status']}: call again later"
            raise
        if epoch is None:
            return False
        run.status, run.owner, run.epoch = "running", self._process_id, epoch
        self.adopt(run)
        return True

    def adopt(self, run: Run) -> None:
        """Begin to drive a run that this process owns."""
        self._active[run.id] = _Driven(run)

    async def _give_back(self, row: Row) -> None:
        while True:
            try:
                return await self._store.give_back(row, self._process_id)
            except StoreUnavailableError:  # noqa: PERF203 - it tries again
                await asyncio.sleep(_RETRY_INTERVAL)

    def advance(self, run: Run, max_steps: int | None = None) -> AsyncGenerator[Event, None]:
        """Drive the run, and yield its events. It does not run ahead of who reads them."""
        return producer_stream(lambda send: self.drive(run, max_steps, send))

    async def drive(
        self,
        run: Run,
        max_steps: int | None = None,
        emit: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        """Execute the run until it ends or pauses.

        Args:
            run: From :meth:`begin` or :meth:`resume`.
            max_steps: Pause after this number of completed steps.
            emit: Receives the events, if somebody wants them.
        """
        driven = self._active[run.id]
        driven.task = asyncio.current_task()
        last: StreamEvent | None = None
        end_span = begin_run_span(run)

        async def record(event: StreamEvent) -> None:
            nonlocal last
            last = event
            # Steps that run at once wait for each other here: events are published in their order.
            async with driven.recording:
                wire_event = await self._record(driven, event)
                if emit is not None:
                    await emit(wire_event)

        try:
            if run.log.next_event == 0:
                started = RunStarted(
                    run_id=run.id,
                    execution_id=run.id,
                    flow_id=run.flow_id,
                    step_count=len(run.flow.steps),
                )
                await record(started)
            await run_flow(
                run.flow,
                run.state,
                models=self._models.of(run.flow.org),
                emit=record,
                max_steps=max_steps,
                sizes=self._sizes,
            )
            if isinstance(last, StepCompleted):
                paused = StepPaused(
                    step_id=last.step_id, step_index=last.step_index, execution_id=run.id
                )
                await record(paused)
        except StaleOwnerError:
            driven.is_lost = True
            raise
        except asyncio.CancelledError:
            if not driven.is_lost:
                raise
            if sys.version_info >= (3, 11) and driven.task is not None:
                driven.task.uncancel()
            raise StaleOwnerError(run.id) from None
        except StoreUnavailableError:
            self._stop(driven, "failed", "the database could not be used")
            raise
        except Exception:
            logger.exception("run %s failed", run.id)
            self._stop(driven, "failed", "the backend failed; its log says why")
            raise
        finally:
            driven.task = None
            self.release(run)
            end_span()

    async def _record(self, driven: _Driven, event: StreamEvent) -> Event:
        driven.raise_if_lost()
        run = driven.run
        number = run.log.next_event
        wire_event = run.record(event, self._clock.now())
        if run.status != "running":
            await self._commit(run)
            del self._active[run.id]
        elif isinstance(event, StepCompleted):
            run.strikes = 0
            if run.trigger == "job" and run.state.step_index < len(run.flow.plan.nodes):
                # The next step begins when this one is on disk: no finished step runs twice.
                await self._commit(run)
            else:
                driven.saving = self._store.save(run)
        elif run.trigger == "job" and getattr(event, "loop_index", None) is not None:
            self._save_items_soon(driven)
        self._channels.publish(run.id, number, wire_event)
        if run.has_ended or (self.is_shared and run.status != "running"):
            # Another process may continue a paused run.
            self._channels.end(run.id)
        return wire_event

    def _save_items_soon(self, driven: _Driven) -> None:
        """Save the finished items of a loop, so that they are not repeated if this process dies."""

        def save() -> None:
            driven.items_timer = None
            if self._active.get(driven.run.id) is driven and not driven.is_lost:
                driven.saving = self._store.save(driven.run)

        if driven.items_timer is None:
            # The whole state is written each time: the larger it is, the less often.
            delay = _ITEMS_INTERVAL * (1 + driven.run.state.stored_bytes / 1_000_000)
            driven.items_timer = asyncio.get_running_loop().call_later(delay, save)

    async def _commit(self, run: Run) -> None:
        """Wait until the run is on disk. A job, for which no caller waits, outlasts an outage."""
        while True:
            try:
                return await self._store.save(run).committed()
            except StoreUnavailableError as error:  # noqa: PERF203 - it tries again
                if run.trigger != "job":
                    error.outcome = (
                        f"the run is {run.status}, and is stored as soon as the database can be used: "
                        "do not repeat the call, read the run's trace"
                    )
                    raise
                await asyncio.sleep(_RETRY_INTERVAL)

    def release(self, run: Run) -> None:
        """Stop driving the run. If it is still in progress, it ends here; a job is pending again."""
        driven = self._active.get(run.id)
        if driven is None or driven.run is not run:
            return
        if run.trigger == "job" and run.status == "running":
            run.status = "pending"
            if not driven.is_lost:
                self._store.save(run)
        self._stop(driven, "cancelled", "the caller went away before the run had ended")

    def _stop(self, driven: _Driven, status: Literal["failed", "cancelled"], message: str) -> None:
        run = driven.run
        if run.status == "running":
            run.stop(status, message, self._clock.now())
            if not driven.is_lost:
                self._store.save(run)
        if run.has_ended:
            self._channels.end(run.id)
        self._active.pop(run.id, None)

    def lose(self, execution_id: str) -> None:
        """Stop driving a run that has another owner now, or has been ended from outside."""
        driven = self._active.get(execution_id)
        if driven is not None:
            driven.is_lost = True
            if driven.task is not None:
                driven.task.cancel()

    async def drop_lost(self) -> None:
        """Stop driving the runs that another process has taken or ended."""
        epochs = {run.id: run.epoch for run in self.all_active()}
        # A run that begins or is taken meanwhile is not in the dict; one that ends is not active.
        for execution_id in await self._store.taken(epochs):
            run = self.active(execution_id)
            if run is not None and run.epoch == epochs[execution_id]:
                self.lose(execution_id)

    async def aclose(self) -> None:
        """Stop every run in progress."""
        for run in self.all_active():
            self.release(run)
        if self._returns:
            await asyncio.wait(self._returns, timeout=_RETRY_INTERVAL)
        for task in self._returns:
            task.cancel()

    def active(self, execution_id: str) -> Run | None:
        """Return the run if this process drives it."""
        driven = self._active.get(execution_id)
        return None if driven is None else driven.run

    def all_active(self) -> list[Run]:
        """Return the runs that this process drives."""
        return [driven.run for driven in self._active.values()]

    async def store_progress(self, execution_id: str) -> bool:
        """Write the run's progress to disk; return False if this process does not drive it."""
        if execution_id not in self._active:
            return False
        await self.flush(execution_id)
        return True

    async def flush(self, execution_id: str) -> list[NumberedEvent]:
        """Write the run's progress to disk; return its events that cannot be stored yet."""
        run = self.active(execution_id)
        if run is None:
            return []
        try:
            await self._store.save(run).committed()
        except StaleOwnerError:
            self.lose(execution_id)
            return []
        return run.log.pending()
