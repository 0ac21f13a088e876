"""The life of runs: begun, driven event by event, paused, gone on with, ended.

A run lives in memory only while a call drives it. Whenever it stops, at its end or in a pause, it is
on disk before the caller hears of it: the next call may come at once, and to another process.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Literal

from ..local.engine.runner import check_run, run_steps
from ..local.engine.state import RunState
from ..local.workflow.plan import Flow
from ..models.events import RunStarted, StepCompleted, StepPaused, StreamEvent
from .bodies import Body
from .capture import Event
from .channels import Channels
from .clock import Clock
from .model_usage import CountedModels, Stats
from .preconditions import check_fresh
from .resuming import already_running, resumed, unknown_run
from .rows import execution_row, new_rows
from .run import Run, Trigger
from .store.store import Store
from .store.writer import Changes

logger = logging.getLogger("noukai_sdk.backend")

INTERRUPTED = "the backend was stopped while this run was in progress"


class Runs:
    """Every run that is in progress.

    A job that was pending or running when the backend stopped is marked failed, not run again: nobody
    can tell how much of it was paid for already. So is any other run that was cut off like that.
    """

    def __init__(
        self, store: Store, models: CountedModels, channels: Channels, clock: Clock, stats: Stats
    ) -> None:
        self._store = store
        self._models = models
        self._channels = channels
        self._clock = clock
        self._stats = stats
        self._active: dict[str, Run | None] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    def begin(
        self,
        flow: Flow,
        version: int | None,
        body: Body,
        *,
        trigger: Trigger,
        session_id: str | None,
        started_at: int,
    ) -> Run:
        """Start a run for a first call; refuses one that cannot start."""
        check_fresh(flow, body.call, trigger)
        self._store.require_working()
        name = str(uuid.uuid4())
        run = Run(
            id=name,
            flow=flow,
            version=version,
            session_id=session_id,
            trigger=trigger,
            started_at=started_at,
            request=body.fresh,
            state=_first_state(name, body),
            status="pending" if trigger == "job" else "running",
        )
        check_run(flow, run.state)
        self._stats.executions += 1
        self._active[run.id] = run
        self._store.save(run)
        return run

    async def go_on(self, flow: Flow, version: int | None, body: Body, *, trigger: Trigger) -> Run:
        """Take up a paused run again; refuses a call that does not fit where it stands."""
        name = body.call.execution_id or ""
        if name in self._active:
            driven = self._active[name]
            other = driven is not None and str(driven.flow) != str(flow)
            raise unknown_run(flow, name) if other else already_running(name)
        self._store.require_working()
        # Taken before the row is read: of two calls at once, the second must find it taken.
        self._active[name] = None
        try:
            row = await self._store.execution(name)
            run, results = resumed(row, flow, version, body.call, trigger)
            run.go_on(results)
            check_run(flow, run.state)
        except BaseException:
            del self._active[name]
            raise
        self._active[name] = run
        self._store.save(run)
        return run

    async def advance(self, run: Run, max_steps: int | None = None) -> AsyncGenerator[Event, None]:
        """Drive the run on; gives its events until it ends or pauses.

        Args:
            run: From :meth:`begin` or :meth:`go_on`.
            max_steps: Pause after so many completed steps.
        """
        with self._held(run):
            async with aclosing(self._happenings(run, max_steps)) as events:
                async for event in events:
                    yield await self._record(run, event)

    async def _happenings(
        self, run: Run, max_steps: int | None
    ) -> AsyncGenerator[StreamEvent, None]:
        if run.log.next_event == 0:
            yield RunStarted(
                run_id=run.id,
                execution_id=run.id,
                flow_id=run.flow_id,
                step_count=len(run.flow.steps),
            )
        last: StreamEvent | None = None
        steps = run_steps(run.flow, run.state, models=self._models, max_steps=max_steps)
        async with aclosing(steps) as events:
            async for last in events:
                yield last
        if isinstance(last, StepCompleted):
            yield StepPaused(step_id=last.step_id, step_index=last.step_index, execution_id=run.id)

    async def _record(self, run: Run, event: StreamEvent) -> Event:
        number = run.log.next_event
        noted = run.note(event, self._clock.now())
        if run.status != "running":
            await self._store.save(run).committed()
            self._active.pop(run.id, None)
        elif isinstance(event, StepCompleted):
            self._store.save(run)
        self._channels.publish(run.id, number, noted)
        if run.has_ended:
            self._channels.end(run.id)
        return noted

    @contextmanager
    def _held(self, run: Run) -> Iterator[None]:
        run.status = "running"
        try:
            yield
        except Exception:
            logger.exception("run %s failed", run.id)
            self._stop(run, "failed", "the backend failed; its log says why")
            raise
        finally:
            self.release(run)

    def release(self, run: Run) -> None:
        """Nobody drives the run any more. One that is still in progress ends here."""
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
        """Drive the run in the background. Returns once it is on disk."""
        try:
            await self._store.save(run).committed()
        except BaseException:
            self.release(run)
            raise
        job = asyncio.create_task(self._work(run))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _work(self, run: Run) -> None:
        # What goes wrong is logged where it happens, and stands in the job's own record.
        with suppress(Exception):
            async for _ in self.advance(run):
                pass

    async def aclose(self) -> None:
        """Stop every job, and everything else that still runs."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for run in [run for run in self._active.values() if run is not None]:
            self.release(run)

    def active(self, execution_id: str) -> Run | None:
        """The run, where it is in progress here."""
        return self._active.get(execution_id)

    async def settle(self, execution_id: str) -> list[tuple[int, Event]]:
        """Put on disk what the run has done so far; gives its numbered events that must still wait."""
        run = self.active(execution_id)
        if run is None:
            return []
        await self._store.save(run).committed()
        return run.log.waiting()


def changes_of(run: Run, now: int) -> Changes:
    """The rows of a run that is saved, for the store's writer."""
    steps, events = new_rows(run)
    return Changes([execution_row(run, now)], steps, events)


def _first_state(execution_id: str, body: Body) -> RunState:
    call = body.call
    return RunState(
        execution_id=execution_id,
        message=call.message,
        messages=call.messages,
        parameters=call.parameters or {},
        attachments=call.attachments or [],
        block_overrides=call.block_overrides or {},
        input_overrides=call.input_overrides or {},
        tools=call.tools,
        tool_choice=call.tool_choice,
    )
