"""Build a request that replays a session in an app, send it, and evaluate the response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ..adapters.responses import HEADER_REPLAY, HEADER_REPLAY_REPORT, HEADER_RESPONSE_SESSION
from ..errors import APIConnectionError

Header = tuple[str, str]

# The app may work for long, even though no model is called.
_TIMEOUT = 300.0
_PROBLEMS = ("misses", "drift", "leftovers", "lost")


@dataclass(frozen=True)
class AppRequest:
    """A request to an app, with the header that replays ``session_id``.

    Attributes:
        given_method: The HTTP method; None for POST if there is ``data``, else GET.
        data: The body; ``@FILE`` for the content of a file.
        given_headers: The headers of the command line.
    """

    session_id: str
    url: str
    given_method: str | None
    data: str | None
    given_headers: Sequence[Header]

    @property
    def method(self) -> str:
        """The HTTP method."""
        return self.given_method or ("GET" if self.data is None else "POST")

    @property
    def headers(self) -> list[Header]:
        """The headers to send. A body is JSON unless the given headers have a Content-Type."""
        given = [each for each in self.given_headers if each[0].lower() != HEADER_REPLAY.lower()]
        headers = [(HEADER_REPLAY, self.session_id)]
        if self.data is not None and not any(n.lower() == "content-type" for n, _ in given):
            headers.append(("Content-Type", "application/json"))
        return headers + given

    def content(self) -> bytes | None:
        """Return the body.

        Raises:
            OSError: The file cannot be read.
        """
        if self.data is None:
            return None
        return Path(self.data[1:]).read_bytes() if self.data[:1] == "@" else self.data.encode()

    def curl(self) -> list[str]:
        """Return the words of the curl command that sends the same request."""
        words = ["curl", "-i"]
        if set(self.url) & set("[]{}"):
            words.append("-g")  # without it, curl expands brackets to a list of URLs
        for name, value in self.headers:
            words += ["-H", f"{name}: {value}"]
        if self.given_method:
            words += ["-X", self.given_method]
        if self.data is not None:
            # -d would remove the line breaks of a file.
            words += ["--data-binary" if self.data[:1] == "@" else "-d", self.data]
        return [*words, self.url]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a replayed request.

    Attributes:
        session_id: The session that the response names.
        report: The summary in the response's report header, None without one.
        replayed: The app replayed the session.
        problems: What the body of an error response says: its message, misses, drift and so on.
        expected: The body of the captured response, None if it is not known.
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
        """Whether the body differs from the captured one. JSON is compared by value."""
        if self.expected is None:
            return False
        try:
            return bool(json.loads(self.expected) != json.loads(self.body))
        except ValueError:
            return self.expected != self.body

    @property
    def exit_code(self) -> int:
        """The exit code: 0 for a clean replay, 1 for differences, 2 if the app did not replay."""
        if not self.replayed:
            return 2
        counts = dict(
            part.strip().split("=", 1) for part in (self.report or "").split(";") if "=" in part
        )
        clean_report = all(counts.get(name, "0") == "0" for name in _PROBLEMS)
        return 0 if self.status < 500 and not self.body_differs and clean_report else 1

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        if not self.replayed:
            if self.problems:
                return "not replayed: the app refused it"
            return "not replayed: is NOUKAI_REPLAY_ENABLED set in the app's environment?"
        if self.body_differs:
            return "the response differs from the captured one"
        return "replayed as recorded" if self.exit_code == 0 else "replayed, with differences"

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
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


def send(request: AppRequest, expected: bytes | None) -> Outcome:
    """Send the request and compare the response with the ``expected`` body, if there is one.

    Raises:
        APIConnectionError: The app cannot be reached.
        OSError: The file of the body cannot be read.
    """
    content = request.content()
    try:
        response = httpx.request(
            request.method,
            request.url,
            content=content,
            # As bytes: httpx encodes text as ASCII, curl as UTF-8.
            headers=[(name.encode(), value.encode()) for name, value in request.headers],
            timeout=_TIMEOUT,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise APIConnectionError(f"{request.url}: {error or type(error).__name__}") from error
    report = response.headers.get(HEADER_REPLAY_REPORT)
    session_id = response.headers.get(HEADER_RESPONSE_SESSION)
    problems = _read_problems(response.text)
    return Outcome(
        status=response.status_code,
        body=response.text,
        session_id=session_id,
        report=report,
        # An app that refuses the replay names the session too, but reports nothing about its calls.
        replayed=report is not None or (session_id == request.session_id and not problems),
        expected=None if expected is None else expected.decode("utf-8", "replace"),
        problems=problems,
    )


def _read_problems(body: str) -> list[str]:
    try:
        content = json.loads(body)
    except ValueError:
        return []
    if not isinstance(content, dict) or not str(content.get("error", "")).startswith("replay_"):
        return []
    report = content.get("report") or {}
    problems = [str(content.get("message"))]
    for name in _PROBLEMS:
        for entry in report.get(name, ()):
            call = f"{entry['slug']} [{entry['kind']}] call {entry['position'] + 1}"
            call_site = entry["callSite"] or ""
            problems.append(f"{name}: {call}: {entry['detail']} {call_site}".rstrip())
    return problems
