"""What came of a replayed request: its response, the report of its calls, and the verdict on both."""

from __future__ import annotations

import json
import sysconfig
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.reports import CallSite
from ..models.session_lists import StoredReport
from ..replay.response_diff import ResponseDifference

_PROBLEMS = ("misses", "drift", "leftovers", "lost", "unread")
_LAST_LINES = 12
# Where code is that is not the application's: the standard library, packages, this one.
_NOT_APP = tuple(
    str(Path(path).resolve())
    for path in (
        *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
        str(Path(__file__).parent.parent),
    )
)


@dataclass(frozen=True)
class AppException:
    """An exception that an app did not handle.

    Attributes:
        type: The name of its class.
        message: Its text.
        site: The last line of the application's own code that it passed.
        lines: The last lines of the traceback.
    """

    type: str
    message: str
    site: CallSite | None
    lines: tuple[str, ...]

    @classmethod
    def of(cls, error: BaseException) -> AppException:
        """Describe an exception."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames if not each.filename.startswith((*_NOT_APP, "<"))]
        last = (own or frames)[-1:]
        site = CallSite(last[0].filename, last[0].lineno or 0, last[0].name) if last else None
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
        return cls(type(error).__name__, str(error), site, tuple(lines[-_LAST_LINES:]))

    def as_dict(self) -> dict[str, Any]:
        """Return the exception as plain JSON values."""
        return {
            "type": self.type,
            "message": self.message,
            "site": None if self.site is None else str(self.site),
            "traceback": list(self.lines),
        }


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
        exception: What an app in this process raised and did not handle.
        timed_out: After how many seconds an app in this process was given up.
        headers: Those of the response of an app in this process.
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
    exception: AppException | None = None
    timed_out: float | None = None
    headers: Sequence[tuple[str, str]] = ()

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
        """``clean``, ``differs``, ``failed``, ``timed out``, ``unknown`` or ``not replayed``."""
        if self.timed_out is not None:
            return "timed out"
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
            if self.session_id is None:
                return (
                    "not replayed: the response names no session. Is this the app, and has it the "
                    "middleware of Noukai? The request ran live, if the app took it"
                )
            return (
                "not replayed: set NOUKAI_REPLAY_ENABLED=true where the app runs. The request ran live, in "
                f"a new session, {self.session_id}"
            )
        if self.result == "unknown":
            state = "the replay is still running" if self.verdict else "its report was not found"
            return f"replayed, with an unknown result: {state}"
        if self.timed_out is not None:
            return f"the app did not respond within {self.timed_out:g} seconds"
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
        lines += _problem_lines(self.details)
        if self.exception is not None:
            lines += self.exception.lines
        return [*lines, *self.notes]

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        differences = None
        if self.differences is not None:
            differences = [difference.as_dict() for difference in self.differences]
        known = {} if self.exception is None else {"exception": self.exception.as_dict()}
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
            **known,
            "exitCode": self.exit_code,
        }


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


def body_text(content: bytes, encoding: str) -> str:
    """Return a body as text, whatever its encoding is called."""
    try:
        return content.decode(encoding, "replace")
    except (LookupError, ValueError):  # Python has "encodings" that are none of text, such as "hex"
        return content.decode("utf-8", "replace")


def replay_error(body: bytes) -> dict[str, Any] | None:
    """Return the body of a response by which an adapter reports an error of the replay."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(content, dict) and str(content.get("error", "")).startswith("replay_")
    return content if is_ours else None
