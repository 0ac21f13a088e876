"""Start, drive, pause, resume and end runs.

A run is in memory only while a call drives it. When it pauses or ends, it is on disk before the caller
is told: the next call may come at once, and to another process.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Literal

from ..local.engine.runner import check_run, run_steps
from ..local.engine.sizes import SizeLimits
from ..local.engine.state import RunState
from ..local.workflow.plan import Flow
from ..models.events import RunStarted, StepCompleted, StepPaused, StreamEvent
from .admission import Admission
from .bodies import Body
from .capture import Event
from .encoding import Clock
from .live_trace import Channels, NumberedEvent
from .model_usage import CountedModels, Stats
from .preconditions import check_first_call
from .resuming import already_running, resumed_run, unknown_run
from .run import Run, Trigger
from .store.store import Store

logger = logging.getLogger("noukai_sdk.backend")

INTERRUPTED = "the backend was stopped while this run was in progress"


class Runs:
    """The runs in progress in this process.

    Runs in progress are marked failed when the backend stops or starts again, because we cannot know
    how far they got. They are not run again: some of their model calls may have been paid for.
    """

    def __init__(
        self,
        store: Store,
        models: CountedModels,
        channels: Channels,
        clock: Clock,
        stats: Stats,
        sizes: SizeLimits | None = None,
    ) -> None:
        self._sizes = sizes
        self._store = store
        self._models = models
        self._channels = channels
        self._clock = clock
        self._stats = stats
        # None reserves the id of a run that is being read from the store.
        self._active: dict[str, Run | None] = {}
        self._jobs: set[asyncio.Task[None]] = set()

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
                tools=call.tools,
                tool_choice=call.tool_choice,
            ),
            status="pending" if trigger == "job" else "running",
            keeps_result=admission is not None and admission.key is not None,
        )
        check_run(flow, run.state)
        if admission is not None:
            await self._store.insert_checked(run, admission.check)
        self._stats.executions += 1
        self._active[run.id] = run
        if admission is None:
            self._store.save(run)
        return run

    async def resume(self, flow: Flow, version: int | None, body: Body, trigger: Trigger) -> Run:
        """Resume a paused run.

        Raises:
            RequestError: The call does not fit the run's position.
        """
        execution_id = body.call.execution_id or ""
        if execution_id in self._active:
            active = self._active[execution_id]
            if active is not None and str(active.flow) != str(flow):
                raise unknown_run(flow, execution_id)
            raise already_running(execution_id)
        self._store.raise_if_unavailable()
        # Reserved before the row is read: of two calls at once, the second must find it active.
        self._active[execution_id] = None
        try:
            row = await self._store.execution(execution_id)
            run, results = resumed_run(row, flow, version, body.call, trigger)
            run.resume(results)
            check_run(flow, run.state)
        except BaseException:
            del self._active[execution_id]
            raise
        self._active[execution_id] = run
        self._store.save(run)
        return run

    async def advance(self, run: Run, max_steps: int | None = None) -> AsyncGenerator[Event, None]:
        """Execute the run, and yield its events until it ends or pauses.

        Args:
            run: From :meth:`begin` or :meth:`resume`.
            max_steps: Pause after this number of completed steps.
        """
        run.status = "running"
        try:
            if run.log.next_event == 0:
                started = RunStarted(
                    run_id=run.id,
                    execution_id=run.id,
                    flow_id=run.flow_id,
                    step_count=len(run.flow.steps),
                )
                yield await self._record(run, started)
            last: StreamEvent | None = None
            steps = run_steps(
                run.flow,
                run.state,
                models=self._models.of(run.flow.org),
                max_steps=max_steps,
                sizes=self._sizes,
            )
            async with aclosing(steps) as events:
                async for last in events:
                    yield await self._record(run, last)
            if isinstance(last, StepCompleted):
                paused = StepPaused(
                    step_id=last.step_id, step_index=last.step_index, execution_id=run.id
                )
                yield await self._record(run, paused)
        except Exception:
            logger.exception("run %s failed", run.id)
            self._stop(run, "failed", "the backend failed; its log says why")
            raise
        finally:
            self.release(run)

    async def _record(self, run: Run, event: StreamEvent) -> Event:
        number = run.log.next_event
        wire_event = run.record(event, self._clock.now())
        if run.status != "running":
            await self._store.save(run).committed()
            self._active.pop(run.id, None)
        elif isinstance(event, StepCompleted):
            self._store.save(run)
        self._channels.publish(run.id, number, wire_event)
        if run.has_ended:
            self._channels.end(run.id)
        return wire_event

    def release(self, run: Run) -> None:
        """Stop driving the run. If it is still in progress, it ends here."""
        if run.trigger == "job":
            self._stop(run, "failed", INTERRUPTED)
        else:
            self._stop(run, "cancelled", "the caller went away before the run had ended")

    def _stop(self, run: Run, status: Literal["failed", "cancelled"], message: str) -> None:
        if run.status in ("pending", "running"):
            run.stop(status, message, self._clock.now())
            self._store.save(run)
        if run.has_ended:
            self._channels.end(run.id)
        self._active.pop(run.id, None)

    async def submit(self, run: Run) -> None:
        """Execute the run in the background. Returns when the run is on disk."""
        try:
            await self._store.save(run).committed()
        except BaseException:
            self.release(run)
            raise

        async def work() -> None:
            # Errors are logged in advance(), and stored with the run.
            with suppress(Exception):
                async for _ in self.advance(run):
                    pass

        job = asyncio.create_task(work())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def aclose(self) -> None:
        """Stop every run in progress."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for run in [run for run in self._active.values() if run is not None]:
            self.release(run)

    def active(self, execution_id: str) -> Run | None:
        """Return the run if it is in progress in this process."""
        return self._active.get(execution_id)

    async def flush(self, execution_id: str) -> list[NumberedEvent]:
        """Write the run's progress to disk; return its events that cannot be stored yet."""
        run = self.active(execution_id)
        if run is None:
            return []
        await self._store.save(run).committed()
        return run.log.pending()
