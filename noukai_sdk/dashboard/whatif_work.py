"""What-ifs that the page has started: their runs, which are stored as they end."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from ..client import AsyncNoukai
from ..models.exchanges import Exchange
from ..models.session_lists import SentReplay, StoredReport
from ..replay.cassette_file import CassetteFile
from ..replaying.app_request import AppRequest
from ..replaying.sending import RequestSender
from ..replaying.targets import Target
from ..replaying.whatif_runs import Once, WhatIfRun, fill, run_all, without_app
from ..whatif.changes import WhatIfOptions
from .api import Api, ApiError
from .replay_runs import LIMITS, WAIT, StoredRun, now, shown_differences

# Of the runs of one what-if.
_AT_ONCE = 2


@dataclass(frozen=True)
class ThroughApp:
    """How the captured request goes through the app.

    Attributes:
        target: The server, checked.
        request: Returns the request, with the header that asks for a replay under an id.
        exchange: The captured request and response.
        secrets: Values that the visitor has given: they are masked if the app repeats them.
    """

    target: Target
    request: Callable[[str], AppRequest]
    exchange: Exchange
    secrets: tuple[str, ...] = ()


class WhatIfWork(StoredRun):
    """A what-if of a session.

    Args:
        api: The API with the visitor's key.
        key: The visitor's key, for the live calls.
        file: The recorded session.
        options: The calls that run live, and what is changed in them.
        runs: How often.
        app: How the request goes through the app; None to make the calls alone.
        base_url: The base URL of the API, as ``api.client`` knows it.
        process_id: This process.
    """

    def __init__(
        self,
        api: Api,
        key: str | None,
        file: CassetteFile,
        options: WhatIfOptions,
        *,
        runs: int,
        app: ThroughApp | None,
        base_url: str,
        process_id: str | None,
    ) -> None:
        self._key = key
        self._file = file
        self._options = options
        self._count = runs
        self._app = app
        self._base_url = base_url
        self._runs: dict[int, dict[str, Any]] = {}
        request = None if file.exchange is None else file.exchange.request
        what_if = {
            "live": [str(target) for target in options.targets],
            "changes": options.changes.as_dict(),
            "runs": runs,
            "app": app is not None,
        }
        sent = SentReplay(
            target="" if app is None else str(app.target.origin),
            edits=(str(options.changes),),
            what_if=what_if,
            process_id=process_id,
        )
        report = StoredReport(
            replay_id=str(uuid.uuid4()),
            session_id=file.session_id,
            request_line=None if request is None else f"{request.method} {request.path}",
            started_at=now(),
            sent=sent,
        )
        super().__init__(api, report)

    async def run(self) -> None:
        """Do all runs, and store each when it has ended."""
        if self._app is not None:
            await self._run_all(self._through(self._app))
            return
        address = self._api.address
        host = self._api.headers.get("host", "")

        async def from_visitor(request: httpx.Request) -> None:
            request.headers["host"] = host
            request.extensions = {**request.extensions, "client": address}

        transport = self._api.client._transport  # in this process
        hooks = {"request": [from_visitor]}
        http = httpx.AsyncClient(transport=transport, event_hooks=hooks, trust_env=False)
        client = AsyncNoukai(
            api_key=self._key, base_url=self._base_url, http_client=http, otel=False
        )
        await self._run_all(without_app(client, self._file, self._options, is_stored=True))

    async def _run_all(self, once: Once) -> None:
        async def noted(run: WhatIfRun) -> None:
            try:
                await once(run)
            finally:
                self._runs[run.number] = self._stored_run(run)
            if len(self._runs) < self._count:
                await self._store(self._as_report(), is_final=False)

        done = await run_all(noted, self._count, most=_AT_ONCE)
        for run in done:
            self._runs[run.number] = self._stored_run(run)
        is_bad = any(run.is_bad for run in done)
        result = "failed" if is_bad else "clean"
        sent = self._sent.model_copy(update={"result": result, "headline": self._summary()})
        report = self._as_report().model_copy(update={"sent": sent, "verdict": result})
        if not await self._store(report, is_final=True):
            await self.fail("unknown", "the runs cannot be stored: see the log of the service")

    def _as_report(self) -> StoredReport:
        runs = [self._runs[number] for number in sorted(self._runs)]
        return self._report.model_copy(
            update={"report": {"runs": runs}, "summary": self._summary()}
        )

    def _summary(self) -> str:
        return f"{len(self._runs)} of {self._count} runs"

    def _stored_run(self, run: WhatIfRun) -> dict[str, Any]:
        outcome = run.outcome
        response = None
        if outcome is not None:
            secrets = () if self._app is None else self._app.secrets
            response = {
                "status": outcome.status,
                "headline": outcome.headline,
                "summary": outcome.summary,
                "problems": outcome.problems[:20],
                "differences": shown_differences(outcome, secrets),
            }
        return {
            "number": run.number,
            "sessionId": run.session_id,
            "calls": [call.as_dict() for call in run.calls],
            "problem": run.problem,
            "response": response,
        }

    def _through(self, app: ThroughApp) -> Once:
        async def once(run: WhatIfRun) -> None:
            replay_id = str(uuid.uuid4())

            async def stored_reports() -> Sequence[StoredReport]:
                try:
                    return [await self._api.replay(replay_id)]
                except (ApiError, httpx.HTTPError):
                    return ()

            sender = RequestSender(
                app.request(replay_id),
                transport=app.target.transport,
                limits=replace(LIMITS),
                stored_reports=stored_reports,
                replay_id=replay_id,
            )
            session_id = self._file.session_id
            outcome = await sender.replay(session_id, lambda _: app.exchange.response, wait=WAIT)
            fill(run, outcome)

        return once


def is_what_if(report: StoredReport) -> Mapping[str, Any] | None:
    """Return what a stored what-if is about; None for a replay."""
    return None if report.sent is None else report.sent.what_if
