"""What notebooks show of results, traces and reports."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from noukai_sdk import ExecuteResult, JobStatus, PausedResult, ReplayReport, Trace
from noukai_sdk.models.reports import CallSite, ReportEntry
from tests.support.service import DONE, PAUSED

EVIL = "<script>alert(1)</script> & \ud800"
USED = {
    "stepId": EVIL,
    "durationMs": 5,
    "tokens": {"total": 3},
    "costUsd": "0.01",
    "status": "completed",
}
RUN = {"id": "e", "status": "failed", "error": {"code": "X", "message": EVIL}}


class Balanced(HTMLParser):
    """Checks that every tag is closed, and that there are no others than those of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("table", "tr", "th", "td", "pre", "p")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report() -> ReplayReport:
    entry = ReportEntry("grade-3", "execute", 0, EVIL, CallSite("a.py", 3, "<module>"))
    return ReplayReport(hits=[entry], misses=[entry], drift=[entry] * 200)


@pytest.mark.parametrize(
    ("shown", "parts"),
    [
        (
            ExecuteResult.model_validate(
                {**DONE, "result": EVIL, "steps": [USED], "durationMs": 7}
            ),
            ["completed", "7", "0.01"],
        ),
        (
            ExecuteResult.model_validate({**DONE, "result": {"a": [EVIL] * 3_000}}),
            [" characters)"],
        ),
        (PausedResult.model_validate({**PAUSED, "pausedAtStep": EVIL}), ["get_weather", "Paris"]),
        (JobStatus(status="failed", error={"code": EVIL}), ["failed"]),
        (Trace.model_validate({"flowRun": RUN, "steps": [USED]}), ["failed", "0.01", "X"]),
        (report(), ["hits=1; misses=1; drift=200", "a.py:3", "and 101 more"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_notebooks_show_small_escaped_tables(shown: Any, parts: list[str]) -> None:
    html = shown._repr_html_()
    Balanced(html)
    html.encode()
    assert len(html) < 60_000
    assert [part for part in parts if part not in html] == []


def test_tables_are_loaded_when_one_is_shown() -> None:
    program = (
        "import sys; from noukai_sdk import ExecuteResult; name = 'noukai_sdk.models.notebooks'; "
        "assert name not in sys.modules; ExecuteResult(status='failed')._repr_html_(); "
        "assert name in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
