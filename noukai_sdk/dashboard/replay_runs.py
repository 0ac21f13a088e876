"""Replays that the page has started: each sends a captured request to the app, and reports as it goes.

The report is stored by the API from the beginning on, so every replica shows it, and nobody needs to wait
for it in a browser.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import httpx

from ..errors import NoukaiError
from ..masking.values import Masker
from ..models.exchanges import Exchange
from ..models.session_lists import SentReplay, StoredReport
from ..replay.response_diff import ResponseDifference
from ..replay.verdicts import within_limit
from ..replaying.app_request import AppRequest
from ..replaying.outcome import Outcome
from ..replaying.sending import Limits, RequestSender
from ..replaying.targets import Target
from .api import Api, ApiError

logger = logging.getLogger("noukai_sdk.dashboard")

LIMITS = Limits(seconds=300.0, size=10_000_000)
WAIT = 30.0
"""Seconds to wait for the final report, after the response."""
LONGEST = (LIMITS.seconds or 0) + WAIT + 60
"""Seconds after which a replay that is not finished never will be: its process has ended."""
MOST_AT_ONCE = 4

# Seconds between two reports of a replay that runs: each counts as a request of the visitor's organisation.
_PAUSE = 1.0
# Seconds between two looks whether a page of another process has stopped the replay.
_LOOK = 5.0
_ATTEMPTS, _LONGEST_PAUSE = 5, 10.0
_MOST_DIFFERENCES = 200
_LONGEST_VALUE = 20_000
_MOST_CHARACTERS = 400_000


STOPPED = "stopped"
_BY_HAND = "the replay was stopped by hand before it had ended"
_WITH_SERVICE = "the replay was stopped with the service before it had ended"


class TooManyReplaysError(Exception):
    """This process has as many replays under way as it may have."""


@dataclass(frozen=True)
class Replay:
    """A replay to start.

    Attributes:
        target: The server, checked.
        request: The request, with the header that asks for the replay under ``replay_id``.
        exchange: The captured request and response.
        edits: What differs from the captured request, in words; no values.
        secrets: Values that the visitor has given: they are masked if the app repeats them.
        live_from: The number of calls that are replayed in a fork.
        process_id: This process.
    """

    replay_id: str
    session_id: str
    target: Target
    request: AppRequest
    exchange: Exchange
    edits: tuple[str, ...] = ()
    live_from: int | None = None
    secrets: tuple[str, ...] = ()
    process_id: str | None = None


@dataclass
class ReplayRuns:
    """The replays and what-ifs of this process. ``closing`` ends them."""

    closing: asyncio.Event
    most: int = MOST_AT_ONCE
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stops: dict[str, asyncio.Event] = field(default_factory=dict)

    async def start(self, run: StoredRun) -> None:
        """Store the report of a replay that begins, and run it in a task of its own.

        Raises:
            TooManyReplaysError: Others must end first.
            ApiError: The API refuses the report.
        """
        if len(self._tasks) >= self.most:
            raise TooManyReplaysError
        stop = self._stops[run.replay_id] = asyncio.Event()
        task = asyncio.create_task(self._run(run, stop))
        # Counted before anything is awaited, so that no more begin meanwhile.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._stops.pop(run.replay_id))
        await run.begun

    def stop(self, replay_id: str) -> bool:
        """End a replay; return False if this process does not run it."""
        stop = self._stops.get(replay_id)
        if stop is not None:
            stop.set()
        return stop is not None

    async def _run(self, run: StoredRun, stop: asyncio.Event) -> None:
        if not await run.begin():
            return
        work = asyncio.create_task(run.run())
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(end)
            for end in (self.closing.wait(), stop.wait(), run.stopped_elsewhere())
        ]
        try:
            await asyncio.wait([work, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped = not work.done() and not ends[-1].done()
            for task in (work, *ends):
                task.cancel()
            await asyncio.wait([work, *ends])
        if stopped:
            await run.fail(STOPPED, _BY_HAND if stop.is_set() else _WITH_SERVICE)


class StoredRun:
    """Work of the page on a session: what is known of it so far, and where it is stored.

    Args:
        api: The API with the visitor's key.
        report: The report at the beginning, with ``sent``.
    """

    def __init__(self, api: Api, report: StoredReport) -> None:
        assert report.sent is not None, "the page is the sender"
        self._api = api
        self._report = report
        self._sent: SentReplay = report.sent
        self.replay_id = report.replay_id
        self._session_id = report.session_id or ""
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def begin(self) -> bool:
        """Store the report for the first time; return whether it was stored."""
        try:
            await self._api.post_replay(self._session_id, self._report)
        except Exception as error:  # noqa: BLE001  # of the API, for who has started it
            if not self.begun.done():  # that one may have gone
                self.begun.set_exception(error)
            return False
        if not self.begun.done():
            self.begun.set_result(None)
        return True

    async def run(self) -> None:
        """Do the work, and store what comes of it."""
        raise NotImplementedError

    async def stopped_elsewhere(self) -> None:
        """Return when a page of another process has stopped the replay."""
        while True:
            await asyncio.sleep(_LOOK)
            for stored in await self._stored_reports():
                if stored.sent is not None and stored.sent.result == STOPPED:
                    return

    async def fail(self, result: str, message: str) -> None:
        """Store why there is no outcome."""
        await self._store(_failed(self._report, self._sent, result, message), is_final=True)

    async def _store(self, report: StoredReport, *, is_final: bool) -> bool:
        """Store a report; return False if the API does not take it."""
        update: dict[str, Any] = {
            "replay_id": self.replay_id,  # an app with an earlier version names another
            "session_id": self._session_id,
            "started_at": self._report.started_at,
            "sent": report.sent or self._sent,
        }
        if is_final:
            update |= {"state": "finished", "completed_at": report.completed_at or now()}
        stored = within_limit(report.model_copy(update=update))
        for _ in range(_ATTEMPTS if is_final else 1):
            try:
                await self._api.post_replay(self._session_id, stored)
            except ApiError as error:  # noqa: PERF203 - each attempt is a request
                logger.warning("the replay %s cannot be stored: %s", self.replay_id, error)
                if error.status not in (429, 503):
                    return False
                await asyncio.sleep(min(error.retry_after or 1.0, _LONGEST_PAUSE))
            else:
                return True
        return False

    async def _stored_reports(self) -> Sequence[StoredReport]:
        try:
            return [await self._api.replay(self.replay_id)]
        except (ApiError, httpx.HTTPError):
            return ()


class ReplayRun(StoredRun):
    """A replay: sends a captured request to its app."""

    def __init__(self, api: Api, replay: Replay) -> None:
        self._replay = replay
        request = replay.exchange.request
        self._next_note = 0.0
        sent = SentReplay(
            target=str(replay.target.origin),
            edits=replay.edits,
            live_from=replay.live_from,
            process_id=replay.process_id,
        )
        report = StoredReport(
            replay_id=replay.replay_id,
            session_id=replay.session_id,
            request_line=f"{request.method} {request.path}",
            started_at=now(),
            sent=sent,
        )
        super().__init__(api, report)

    async def run(self) -> None:
        """Send the request, and store what comes of it."""
        replay = self._replay
        sender = RequestSender(
            replay.request,
            transport=replay.target.transport,
            limits=LIMITS,
            stored_reports=self._stored_reports,
            replay_id=replay.replay_id,
            on_report=self._note,
        )
        try:
            outcome = await sender.replay(
                replay.session_id, lambda _: replay.exchange.response, wait=WAIT
            )
            await self._finish(outcome)
        except NoukaiError as error:
            # Without the query, which may hold what was masked at capture.
            reason = error.message.replace(replay.request.url, str(replay.target.origin))
            message = (
                f"the app could not be reached: {reason}. Start it, or name the server at which it runs "
                "under Edit and replay"
            )
            await self.fail("not sent", message)
        except Exception:
            logger.exception("the replay %s failed", replay.replay_id)
            await self.fail("not sent", "the replay failed: see the log of the service")

    async def _finish(self, outcome: Outcome) -> None:
        differences = shown_differences(outcome, self._replay.secrets)
        notes = list(outcome.notes)
        more = len(outcome.differences or ()) - len(differences or ())
        if more > 0:
            notes.append(f"and {more} more differences in the response")
        if outcome.error is not None and outcome.verdict is None:
            notes.append(str(outcome.error.get("message")))
        # Another response is what a fork is for.
        is_fork = self._replay.live_from is not None
        is_equal = outcome.result != "clean" or outcome.exit_code == 0 or is_fork
        sent = self._sent.model_copy(
            update={
                "session_id": outcome.session_id,
                "result": outcome.result if is_equal else "differs",
                "headline": outcome.headline,
                "notes": tuple(notes),
                "differences": differences,
            }
        )
        report = outcome.verdict or self._report.model_copy(
            update={"error": outcome.error, "status": outcome.status}
        )
        update = {"sent": sent, "status": report.status or outcome.status}
        if not await self._store(report.model_copy(update=update), is_final=True):
            await self.fail("unknown", "the report of the replay cannot be stored: see the log")

    async def _note(self, report: StoredReport) -> None:
        """Store a report of the app while the replay runs; the hits only as a number."""
        if report.state == "running" and time.monotonic() >= self._next_note:
            self._next_note = time.monotonic() + _PAUSE
            lists = {name: list(rows) for name, rows in report.report.items() if name != "hits"}
            await self._store(report.model_copy(update={"report": lists}), is_final=False)


def shown_differences(
    outcome: Outcome, secrets: Sequence[str]
) -> tuple[dict[str, Any], ...] | None:
    """Return the differences of a response as they are stored; None if there is no response to compare."""
    if outcome.differences is None:
        return None
    masker = Masker(secrets=sorted(secrets, key=len, reverse=True))
    shown = outcome.differences[:_MOST_DIFFERENCES]
    return tuple(_within(masker.value(_difference(each)) for each in shown))


def stopped_report(report: StoredReport, sent: SentReplay) -> StoredReport:
    """Return the report of a replay that another process sends, to stop it."""
    stopped = _failed(report, sent, STOPPED, _BY_HAND)
    return stopped.model_copy(update={"state": "finished", "completed_at": now()})


def _failed(report: StoredReport, sent: SentReplay, result: str, message: str) -> StoredReport:
    sent = sent.model_copy(update={"result": result, "headline": message})
    error = {"error": "replay_not_sent", "message": message}
    return report.model_copy(update={"sent": sent, "error": error, "verdict": "failed"})


def _difference(found: ResponseDifference) -> dict[str, Any]:
    """Return a difference with values that a page can show."""
    values: Mapping[str, Any] = found.as_dict()
    return {name: _cut(value) for name, value in values.items()}


def _within(differences: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the first differences that are short enough together: a report has a limit."""
    left = _MOST_CHARACTERS
    for each in differences:
        left -= len(json.dumps(each))
        if left < 0:
            return
        yield each


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()  # JSON can name halves of characters
        more = len(value) - _LONGEST_VALUE
        return value if more <= 0 else f"{value[:_LONGEST_VALUE]}… {more:,} more characters"
    text = json.dumps(value)
    if len(text) > _LONGEST_VALUE:
        return f"a value of {len(text):,} characters"
    try:
        # Apps send NaN, which JSON does not have, and values that are nested deeper than the API takes.
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        return text if _is_deep(value) else value
    except ValueError:
        return text


def _is_deep(value: Any, levels: int = 100) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deep(each, levels - 1) for each in value)


def now() -> str:
    """Return the time in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
