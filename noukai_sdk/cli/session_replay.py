"""Send a request that replays a session, wait for the replay's report, and judge both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import ValidationError

from ..adapters.responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
)
from ..errors import APIConnectionError
from ..models.exchanges import CapturedResponse
from ..models.session_lists import StoredReport
from ..replay.response_diff import (
    ReceivedResponse,
    ResponseDifference,
    compare_responses,
    without_ignored,
)
from .app_request import AppRequest

# The app may work for long, even though no model is called.
_TIMEOUT = 300.0
_REPORT_TIMEOUT = 10.0
# Between two questions for the report of a replay that is still running, or that another process has.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

_PROBLEMS = ("misses", "drift", "leftovers", "lost", "unread")

StoredReports = Callable[[], Sequence[StoredReport]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a replayed request.

    Attributes:
        session_id: The session that the response names.
        summary_line: The summary in the response's report header, None without one.
        replay_id: The id of the replay, None if the app names none.
        verdict: The final report, None if it is not known.
        error: The body of an error response of the replay.
        differences: Between the captured response and this one; None if the captured one is not known.
        notes: What else to say.
    """

    status: int
    body: str
    session_id: str | None
    summary_line: str | None
    replayed: bool
    replay_id: str | None = None
    verdict: StoredReport | None = None
    error: Mapping[str, Any] | None = None
    differences: Sequence[ResponseDifference] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str | None:
        """The summary of the calls: that of the final report, if it is known."""
        return self.verdict.summary if self.verdict is not None else self.summary_line

    @property
    def details(self) -> Mapping[str, Any]:
        """The report with all its calls; empty if the app sent none."""
        if self.verdict is not None:
            return self.verdict.report
        report = (self.error or {}).get("report")
        return report if isinstance(report, dict) else {}

    @property
    def result(self) -> str:
        """The result: ``clean``, ``differs``, ``failed``, ``unknown`` or ``not replayed``."""
        if not self.replayed:
            return "not replayed"
        if self.verdict is not None and self.verdict.state == "finished":
            return self.verdict.verdict or "unknown"
        if self.replay_id is not None:
            return "unknown"
        # An app with an earlier version: all it says is in the header and in the error's body.
        if self.error is not None or (self.differences is None and self.status >= 500):
            return "failed"
        counts = dict(
            part.strip().split("=", 1) for part in (self.summary or "").split(";") if "=" in part
        )
        return "clean" if all(counts.get(name, "0") == "0" for name in _PROBLEMS) else "differs"

    @property
    def exit_code(self) -> int:
        """The exit code: 0 if nothing differs, 1 if something does, 2 if that is not known."""
        if self.result in ("not replayed", "unknown"):
            return 2
        is_same = not self.differences if self.differences is not None else self.status < 500
        return 0 if self.result == "clean" and is_same else 1

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        if not self.replayed:
            if self.error is not None:
                return "not replayed: the app refused it"
            return "not replayed: is NOUKAI_REPLAY_ENABLED set in the app's environment?"
        if self.result == "unknown":
            state = "the replay is still running" if self.verdict else "its report was not found"
            return f"replayed, with an unknown result: {state} (--wait SECONDS waits longer)"
        if self.result == "failed":
            return "the replay failed"
        if self.differences:
            return "the response differs from the captured one"
        return "replayed as recorded" if self.exit_code == 0 else "replayed, with differences"

    @property
    def problems(self) -> list[str]:
        """The lines that say what is wrong with the calls."""
        error: Mapping[str, Any] | None = self.error
        if self.verdict is not None and self.verdict.error is not None:
            error = self.verdict.error
        message = str((error or {}).get("message") or "")
        lines = [message] if message else []
        # A message may hold the findings already.
        for finding in self.details.get("findings") or ():
            text = str(finding.get("text"))
            if text not in message:
                lines.append(f"probably: {text}")
        return [*lines, *_problem_lines(self.details), *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        differences = None
        if self.differences is not None:
            differences = [difference.as_dict() for difference in self.differences]
        return {
            "status": self.status,
            "sessionId": self.session_id,
            "replayId": self.replay_id,
            "replayed": self.replayed,
            "result": self.result,
            "report": self.summary,
            "calls": self.details or None,
            "problems": self.problems,
            "differences": differences,
            "bodyDiffers": bool(self.differences),
            "body": self.body,
            "exitCode": self.exit_code,
        }


def replay_request(
    request: AppRequest,
    session_id: str | None,
    expected: Callable[[ReceivedResponse], CapturedResponse | None],
    *,
    ignore: Sequence[str] = (),
    wait: float,
    stored_reports: StoredReports,
) -> Outcome:
    """Send the request, wait for the final report, and compare the response with the captured one.

    Args:
        request: The request, with the header that asks for the replay.
        session_id: The session to replay, None if the app may not name one.
        expected: Returns what to compare a response with, None for nothing.
        ignore: The paths of what may differ.
        wait: How many seconds to wait for the report, at most.
        stored_reports: Returns the reports that the service has of replays of this session.

    Raises:
        APIConnectionError: The app cannot be reached.
        OSError: The file of the body cannot be read.
    """
    response, content = _send(request, expected)
    received = ReceivedResponse(
        response.status_code, tuple(response.headers.multi_items()), content
    )
    captured = expected(received)
    summary = response.headers.get(HEADER_REPLAY_REPORT)
    named = response.headers.get(HEADER_RESPONSE_SESSION)
    replay_id = response.headers.get(HEADER_REPLAY_ID)
    error = _replay_error(content)
    # An app that refuses the replay names the session too, but reports nothing about its calls.
    replayed = summary is not None or (named is not None and named == session_id and error is None)
    verdict = None
    if replayed and replay_id is not None:
        verdict = _wait_for_report(request, replay_id, wait, stored_reports)
    differences = None
    if captured is not None:
        differences = without_ignored(compare_responses(captured, received), ignore)
        if error is not None:  # it stands in place of the app's response
            differences = [each for each in differences if each.where == "status"]
    return Outcome(
        status=response.status_code,
        body=content.decode(response.encoding or "utf-8", "replace"),
        session_id=named,
        summary_line=summary,
        replayed=replayed,
        replay_id=replay_id,
        verdict=verdict,
        error=error,
        differences=differences,
    )


def _send(
    request: AppRequest, expected: Callable[[ReceivedResponse], CapturedResponse | None]
) -> tuple[httpx.Response, bytes]:
    content = request.body()
    parts: list[bytes] = []
    received = 0
    try:
        with (
            httpx.Client(timeout=_TIMEOUT) as client,
            client.stream(
                request.method, request.url, content=content, headers=_raw(request.headers)
            ) as response,
        ):
            enough = _size_of_part(expected(ReceivedResponse(response.status_code)))
            # An app that fails within a stream breaks the connection: the report says why.
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                for part in response.iter_bytes():
                    parts.append(part)
                    received += len(part)
                    # The captured client left here, and the stream may have no end.
                    if enough is not None and received >= enough:
                        break
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise APIConnectionError(f"{request.url}: {error or type(error).__name__}") from error
    return response, b"".join(parts)


def _size_of_part(captured: CapturedResponse | None) -> int | None:
    """Return how many bytes the captured client received, None if it received all."""
    if captured is None or captured.body is None or captured.body.complete:
        return None
    return captured.body.size


def _raw(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    # As bytes: httpx encodes text as ASCII, curl as UTF-8.
    return [(name.encode(), value.encode()) for name, value in headers]


def _replay_error(body: bytes) -> dict[str, Any] | None:
    """Return the body of a response by which an adapter reports an error of the replay."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    is_ours = isinstance(content, dict) and str(content.get("error", "")).startswith("replay_")
    return content if is_ours else None


def _wait_for_report(
    request: AppRequest, replay_id: str, seconds: float, stored_reports: StoredReports
) -> StoredReport | None:
    """Return the final report of a replay; the unfinished one, or None, if there is none in time."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    latest: StoredReport | None = None
    while True:
        report = _report_of_app(request, replay_id)
        if report is None:  # another process of the server may have it
            reports = stored_reports() if pause >= _LONGEST_PAUSE / 4 else ()
            report = next((each for each in reports if each.replay_id == replay_id), None)
        latest = report or latest
        left = deadline - time.monotonic()
        if (latest is not None and latest.state == "finished") or left <= 0:
            return latest
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _report_of_app(request: AppRequest, replay_id: str) -> StoredReport | None:
    """Ask the app for a report; None if it has none, or if another of its processes was asked."""
    headers = [
        *(each for each in request.headers if each[0].lower() not in _NOT_ASKED_WITH),
        (HEADER_REPLAY_REPORT, replay_id),
    ]
    try:
        # On a new connection, which may reach another process.
        response = httpx.get(request.url, headers=_raw(headers), timeout=_REPORT_TIMEOUT)
        report = StoredReport.model_validate_json(response.content)
    except (httpx.HTTPError, ValidationError):
        return None
    return report if response.status_code == 200 and report.replay_id == replay_id else None


_NOT_ASKED_WITH = frozenset({HEADER_REPLAY.lower(), "content-type", "content-encoding", "accept"})


def _problem_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Describe the calls of a report that did not replay as recorded."""
    for name in _PROBLEMS:
        for entry in report.get(name) or ():
            if entry.get("kind") is None and entry.get("slug") is None:
                yield f"{name}: {entry.get('detail')}"  # of a client that the replay does not know
                continue
            flow = f"{entry.get('slug')} [{entry.get('kind')}]"
            detail = str(entry.get("detail")).removeprefix(f"{flow} ")
            line = f"{name}: {flow} call {entry.get('position', 0) + 1}: {detail}"
            yield f"{line} {entry.get('callSite') or ''}".rstrip()
            for change in entry.get("changes") or ():
                yield f"  {change.get('path')}"
                for text in str(change.get("diff")).splitlines():
                    yield f"    {text}"
