"""Send a request that replays a session, and judge the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from ..adapters.responses import REPORT_HEADER, SESSION_HEADER
from ..errors import APIConnectionError
from .session_requests import ReplayRequest

# A request may run long in the app, even though no model does.
TIMEOUT = 300.0


@dataclass(frozen=True)
class Outcome:
    """How a replayed request went.

    Attributes:
        report: The summary of the answer's report header, None where it has none.
        replayed: The answer names the session that was asked for.
        problems: What the error answer's report says of misses, drift and leftovers.
        expected: The body that was captured, where it was given.
    """

    status: int
    body: str
    session_id: str | None
    report: str | None
    replayed: bool
    expected: str | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def body_differs(self) -> bool:
        """The answer is another one than was captured."""
        return self.expected is not None and not _equal(self.expected, self.body)

    @property
    def exit_code(self) -> int:
        """0 for a clean replay, 1 where something differs, 2 where nothing was replayed."""
        if not self.replayed:
            return 2
        clean = self.status < 500 and not self.body_differs and _is_clean(self.report)
        return 0 if clean else 1

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        if not self.replayed:
            return "not replayed: is NOUKAI_REPLAY_ENABLED set where the app runs?"
        if self.body_differs:
            return "the answer differs from the captured one"
        return "replayed as recorded" if self.exit_code == 0 else "replayed, and something differs"

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON values."""
        return {
            "status": self.status,
            "sessionId": self.session_id,
            "replayed": self.replayed,
            "report": self.report,
            "problems": self.problems,
            "bodyDiffers": self.body_differs,
            "body": self.body,
            "exitCode": self.exit_code,
        }


def send(request: ReplayRequest, expected: bytes | None) -> Outcome:
    """Send the request, and judge its answer by ``expected``, where that is known.

    Raises:
        APIConnectionError: The app cannot be reached.
        OSError: The body's file cannot be read.
    """
    content = request.content()
    try:
        answer = httpx.request(
            request.method,
            request.url,
            content=content,
            # As curl sends them: httpx itself takes nothing but ASCII.
            headers=[(name.encode(), value.encode()) for name, value in request.headers],
            timeout=TIMEOUT,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise APIConnectionError(f"{request.url}: {error or type(error).__name__}") from error
    return _outcome(answer, request.session_id, expected)


def _outcome(answer: httpx.Response, session_id: str, expected: bytes | None) -> Outcome:
    report = answer.headers.get(REPORT_HEADER)
    named = answer.headers.get(SESSION_HEADER)
    return Outcome(
        status=answer.status_code,
        body=answer.text,
        session_id=named,
        report=report,
        # A stream's answer goes out before there is a report; its session tells.
        replayed=report is not None or named == session_id,
        expected=None if expected is None else expected.decode("utf-8", "replace"),
        problems=_problems(answer.text),
    )


def _problems(body: str) -> list[str]:
    try:
        answer = json.loads(body)
    except ValueError:
        return []
    if not isinstance(answer, dict) or not str(answer.get("error", "")).startswith("replay_"):
        return []
    found = [str(answer.get("message"))]
    report = answer.get("report") or {}
    for kind in ("misses", "drift", "leftovers"):
        found += [
            f"{kind}: {entry['slug']} [{entry['kind']}] call {entry['position'] + 1}: "
            f"{entry['detail']} {entry['callSite'] or ''}".rstrip()
            for entry in report.get(kind, ())
        ]
    return found


def _is_clean(report: str | None) -> bool:
    counts = dict(part.strip().split("=", 1) for part in (report or "").split(";") if "=" in part)
    return all(counts.get(name, "0") == "0" for name in ("misses", "drift", "leftovers"))


def _equal(a: str, b: str) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return a == b
