"""Run a what-if several times: through an app in this process, through a running app, or without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ..client import AsyncNoukai
from ..replay.cassette_file import CassetteFile
from ..replay.player import ReplayOptions
from ..whatif.changes import WhatIfOptions
from ..whatif.compared_calls import LiveCall
from .app_runner import RunningApp
from .outcome import Outcome
from .rerun import RerunScope, rerun

MOST_AT_ONCE = 4


@dataclass
class WhatIfRun:
    """One run of a what-if.

    Attributes:
        number: From 1.
        session_id: The session of its live calls; None if it did not begin.
        calls: The live calls.
        outcome: What came of the request; None without an app.
        problem: Why it could not be done; None if it was.
    """

    number: int
    session_id: str | None = None
    calls: list[LiveCall] = field(default_factory=list)
    outcome: Outcome | None = None
    problem: str | None = None

    @property
    def is_bad(self) -> bool:
        """Return whether a live call failed, or a call had no recording."""
        failed = any(call.live.status in ("failed", "running") for call in self.calls)
        misses = self.outcome is not None and bool(self.outcome.details.get("misses"))
        return failed or misses or self.problem is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {
            "number": self.number,
            "sessionId": self.session_id,
            "calls": [call.as_dict() for call in self.calls],
            "response": None if self.outcome is None else self.outcome.as_dict(),
            "problem": self.problem,
        }


Once = Callable[[WhatIfRun], Awaitable[None]]
"""Does one run, and fills it in as it goes."""


def without_app(
    client: AsyncNoukai, file: CassetteFile, options: WhatIfOptions, *, is_stored: bool
) -> Once:
    """Return what makes the named calls alone, with their recorded inputs."""

    async def once(run: WhatIfRun) -> None:
        scope = RerunScope(file, options, is_stored=is_stored)
        run.session_id, run.calls = scope.session_id, scope.what_if.calls
        run.problem = await rerun(client, scope, file)

    return once


def in_app(app: RunningApp, file: CassetteFile, options: ReplayOptions) -> Once:
    """Return what sends the captured request through an app in this process."""

    async def once(run: WhatIfRun) -> None:
        fill(run, await app.replay(file, options=options))

    return once


def fill(run: WhatIfRun, outcome: Outcome) -> None:
    """Fill in a run from what came of its request."""
    run.outcome = outcome
    run.session_id = outcome.session_id
    run.calls = [LiveCall.from_dict(each) for each in outcome.details.get("whatIf") or ()]
    if not outcome.replayed or outcome.timed_out is not None:
        run.problem = outcome.headline
    elif not run.calls and outcome.error is not None:
        run.problem = str(outcome.error.get("message"))
    elif not run.calls:
        run.problem = "no call went live: the app did not make it"


async def run_all(
    once: Once,
    count: int,
    *,
    most: int = MOST_AT_ONCE,
    on_end: Callable[[WhatIfRun], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> list[WhatIfRun]:
    """Run a what-if ``count`` times, at most ``most`` at once.

    Args:
        once: Does one run.
        count: How many runs.
        most: How many at once.
        on_end: Called with each run that has ended.
        stop: Ends all when it is set.

    Returns:
        The runs that have begun, by their numbers. Those that were stopped have a ``problem``.
    """
    places, begun = asyncio.Semaphore(most), []

    async def run_one(number: int) -> None:
        async with places:
            run = WhatIfRun(number)
            begun.append(run)
            try:
                await once(run)
            except asyncio.CancelledError:
                run.problem = "stopped"
                raise
            except Exception as error:  # noqa: BLE001 - of one run, of many
                run.problem = str(error) or type(error).__name__
            on_end(run)

    work = [asyncio.ensure_future(run_one(number)) for number in range(1, count + 1)]
    stopping = asyncio.ensure_future((stop or asyncio.Event()).wait())
    try:
        pending: set[asyncio.Future[Any]] = {*work, stopping}
        while stopping in pending and len(pending) > 1:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*work, stopping):
            task.cancel()
        await asyncio.gather(*work, stopping, return_exceptions=True)
    return sorted(begun, key=lambda run: run.number)
