"""One running backend: its parts, and what it does by itself: sweeps, and runs of processes that died."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..local.flow_files.catalog import FlowCatalog
from .access import Doorkeeper
from .admission import Limiter
from .bodies import BodyReceiver
from .encoding import Clock
from .jobs.job_runner import MAX_STRIKES
from .jobs.jobs import Jobs
from .live_trace import Channels
from .model_usage import Stats
from .published import Flows
from .queue_limit import QueueLimit
from .rows import can_continue, ended_changes, interrupted_changes
from .runs import Runs
from .session_bodies import ended_report
from .settings import Settings
from .store.database import StoreUnavailableError
from .store.notices import Notices
from .store.store import Row, Store
from .store.writer import Changes

logger = logging.getLogger("noukai_sdk.backend")

_DAY = 24 * 3600 * 1_000_000
_SWEEP_INTERVAL = 60.0
_WATCH_INTERVAL = 1.0

INTERRUPTED = "the process that ran this step has stopped"


@dataclass(frozen=True)
class Service:
    """The parts that the routes use."""

    settings: Settings
    catalog: FlowCatalog
    flows: Flows
    store: Store
    runs: Runs
    jobs: Jobs
    channels: Channels
    notices: Notices | None
    clock: Clock
    stats: Stats
    doorkeeper: Doorkeeper
    limiter: Limiter
    queue_limit: QueueLimit
    bodies: BodyReceiver
    process_id: str

    def expiry(self) -> int | None:
        """Return the time before which sessions are expired; None if sessions never expire.

        The start of a session's last run counts.
        """
        days = self.settings.retention_days
        return None if days is None else self.clock.now() - int(days * _DAY)

    async def end_run(self, row: Row, status: str, error: dict[str, Any]) -> bool:
        """End a run from outside, whichever process drives it.

        Args:
            row: The row as it was read. It must not have ended.
            status: ``"failed"`` or ``"cancelled"``.
            error: Its ``code`` and ``message``.

        Returns:
            False if the run has changed since its row was read: read it again.
        """
        now = self.clock.now()
        ended = await self.store.change([row], lambda row: ended_changes(row, status, error, now))
        for execution_id in ended:
            self.runs.lose(execution_id)
            self.channels.end(execution_id)
        return bool(ended)

    async def sweep(self) -> None:
        """Cancel runs that were left paused, and delete the data of expired sessions."""
        now = self.clock.now()
        error = {"code": "CANCELLED", "message": "the run was left paused"}
        before = now - int(self.settings.pause_seconds * 1_000_000)
        while rows := await self.store.runs_in(["paused"], before=before):
            ended = await self.store.change(
                rows, lambda row: ended_changes(row, "cancelled", error, now)
            )
            for execution_id in ended:
                self.channels.end(execution_id)
        await self.store.retention.delete_keys(now)
        expiry = self.expiry()
        if expiry is not None:
            await self.store.retention.delete_data(expiry)
        if self.settings.retention_bytes is not None:
            await self.store.retention.keep_size(self.settings.retention_bytes)
        await self.store.delete_blobs()

    async def recover(self, owner: str, chosen: Collection[str] | None = None) -> None:
        """Go on with the runs of a process that does not drive them, at their last finished step.

        Replays that a dead process has sent are over.

        Args:
            owner: The id of the process.
            chosen: The ids of the runs; None for all of a process that has died, with a strike for each.
        """
        now = self.clock.now()

        def changes(row: Row) -> Changes:
            error = {"code": "INTERNAL_ERROR", "message": INTERRUPTED}
            strikes = row["strikes"] + (chosen is None)
            if row["trigger"] == "job" and strikes < MAX_STRIKES:
                return interrupted_changes(row, "pending", error, now, strikes=strikes)
            if row["trigger"] == "job":
                error["message"] = (
                    f"{MAX_STRIKES} processes have died or did not respond while they ran this step"
                )
            elif row["trigger"] == "step" and can_continue(row):
                return interrupted_changes(row, "paused", error, now)
            return ended_changes(row, "failed", error, now)

        while rows := await self.store.runs_in(["running"], owner=owner, among=chosen):
            for execution_id in await self.store.change(rows, changes):
                self.channels.end(execution_id)
        if chosen is None:
            await self.store.sessions.end_replays(owner, partial(ended_report, owner, now), now)

    async def watch_forever(self) -> None:
        """Stop soon what another process has cancelled or taken over."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            try:
                await self.runs.drop_lost()
            except StoreUnavailableError:
                continue

    async def sweep_forever(self) -> None:
        """Sweep at regular intervals. After an error, the next sweep tries again."""
        while True:
            try:
                await self.sweep()
            # The service goes on, whatever the error is.
            except Exception:
                logger.exception("the sweep failed")
            await asyncio.sleep(_SWEEP_INTERVAL)
