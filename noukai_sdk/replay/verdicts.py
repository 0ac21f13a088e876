"""The results of the replays of this process, by the ids in ``X-Noukai-Replay-Id``.

A replay has its id before the application runs, so the response names it even if it is a stream. The result
can be asked for while the replay runs, and afterwards.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from datetime import datetime, timezone

from ..errors import (
    NoukaiError,
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayNoSnapshotsError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
)
from ..models.reports import ReplayReport
from ..models.session_lists import StoredReport
from ..protocol.call import Service
from ..protocol.program import Program
from ..protocol.session_extensions import post_report

MOST_KEPT = 1_000
MOST_ENTRIES = 200_000  # of all kept reports together: some 40 MB
MOST_BYTES = 3_500_000  # of a report that is posted; our backend takes 4 MiB

# The first class that matches decides.
_CODES: tuple[tuple[type[NoukaiError], str], ...] = (
    (ReplayForbiddenError, "replay_forbidden"),
    (ReplaySessionNotFoundError, "replay_not_found"),
    (ReplaySessionExpiredError, "replay_expired"),
    (ReplayInvalidSessionError, "replay_invalid_session"),
    (ReplayNoSnapshotsError, "replay_no_snapshots"),
    (ReplayError, "replay_error"),
    (NoukaiError, "replay_unavailable"),
)

_lock = threading.Lock()
_kept: OrderedDict[str, Verdict] = OrderedDict()
_entries = 0


def error_code(error: NoukaiError) -> str:
    """Return the code of an error in responses and reports, such as ``replay_not_found``."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def stored_report(replay_id: str) -> StoredReport | None:
    """Return the report of a replay so far; None if the id is unknown, or the replay long past."""
    with _lock:
        verdict = _kept.get(replay_id)
    return None if verdict is None else verdict.stored()


class Verdict:
    """The result of one replay, from its beginning on.

    Args:
        session_id: The session that is replayed, as the replay was asked for.
        report: The report of the replay, which grows while it runs.
        request_line: Such as ``POST /grade``; None outside of a request.
        allow_leftovers: The replay may leave recordings unplayed.
        replay_id: The id that was asked for. A new one is taken in its place if it is in use.

    Attributes:
        replay_id: The id in ``X-Noukai-Replay-Id``.
        error: The replay's error, as ``{"error": code, "message": text}``. Set it before the end.
        status: The status of the response. Set it before the end.
        allow_leftovers: The replay may leave recordings unplayed.
    """

    def __init__(
        self,
        session_id: str | None,
        report: ReplayReport | None = None,
        *,
        request_line: str | None = None,
        allow_leftovers: bool = False,
        replay_id: str | None = None,
    ) -> None:
        self.replay_id = replay_id or str(uuid.uuid4())
        self.session_id = session_id
        self.error: dict[str, str] | None = None
        self.status: int | None = None
        self.size = 0
        self._report = report or ReplayReport()
        self._request_line = request_line
        self.allow_leftovers = allow_leftovers
        self._started = _now()
        self._completed: str | None = None
        self._verdict: str | None = None
        self._summary = ""
        with _lock:
            if self.replay_id in _kept:
                self.replay_id = str(uuid.uuid4())
            _kept[self.replay_id] = self
            _forget_oldest()

    @property
    def is_finished(self) -> bool:
        """Whether the replay has ended."""
        return self._completed is not None

    def fail(self, error: NoukaiError, note: str = "") -> None:
        """Set the replay's error, with ``note`` appended to its message."""
        self.error = {"error": error_code(error), "message": error.message + note}

    def finish(self) -> None:
        """End the replay. What comes later changes nothing."""
        if self._completed is not None:
            return
        global _entries  # noqa: PLW0603 - one count for the process
        # A copy: calls that are refused after the end are in the scope's report only.
        lists = {name: list(entries) for name, entries in vars(self._report).items()}
        report = self._report = ReplayReport(**lists)
        failed = self.error or report.misses or report.lost or report.unread
        if failed or (report.leftovers and not self.allow_leftovers):
            self._verdict = "failed"
        else:
            self._verdict = "differs" if report.drift or report.unordered else "clean"
        self._summary = report.summary()
        self._completed = _now()
        # The values of a change take as much as about ten entries.
        size = sum(map(len, lists.values())) + 10 * sum(len(e.changes) for e in report.drift)
        size += 500 * len(report.what_if)  # with what they returned
        with _lock:
            if self.replay_id in _kept:
                self.size = size
                _entries += size
                _forget_oldest()

    def stored(self) -> StoredReport:
        """Return the report as it is now."""
        running = self._completed is None
        return StoredReport(
            replay_id=self.replay_id,
            session_id=self.session_id,
            state="running" if running else "finished",
            verdict=self._verdict,
            summary=self._report.summary() if running else self._summary,
            report=self._report.as_dict(),
            error=self.error,
            status=self.status,
            request_line=self._request_line,
            started_at=self._started,
            completed_at=self._completed,
        )


def send_verdict(service: Service, _session_id: str, verdict: Verdict) -> Program[bool]:
    """Post the report to the session that was replayed, which a fork's own session is not."""
    assert verdict.session_id is not None  # only replays of sessions are posted
    return post_report(service, verdict.session_id, within_limit(verdict.stored()))


def within_limit(stored: StoredReport) -> StoredReport:
    """Return a report that is short enough to be posted.

    Of one that is too long, the first entries of each list are kept. Its summary has the counts.
    """
    for most in (500, 50, 5):
        if len(stored.model_dump_json(by_alias=True)) <= MOST_BYTES:
            break
        lists = {name: entries[:most] for name, entries in stored.report.items()}
        stored = stored.model_copy(update={"report": lists})
    return stored


def _forget_oldest() -> None:
    """Forget the oldest reports if there are too many; those of replays that run only if all do."""
    global _entries  # noqa: PLW0603 - one count for the process
    while len(_kept) > MOST_KEPT or (_entries > MOST_ENTRIES and len(_kept) > 1):
        ended = (verdict for verdict in _kept.values() if verdict.is_finished)
        oldest = next(ended, None) or next(iter(_kept.values()))
        del _kept[oldest.replay_id]
        _entries -= oldest.size


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
