"""Report the drift of tests: fail them, list it at the end of the run, or ignore it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..models.reports import ReplayReport

MODES = ("error", "warn", "ignore")

_lines: pytest.StashKey[list[str]] = pytest.StashKey()


def drift_mode(config: pytest.Config, options: Mapping[str, Any]) -> str:
    """Return what drift means for a test: the command line comes first, then its marker, then the file.

    Raises:
        ValueError: The marker's value is not a mode.
    """
    mode = (
        config.getoption("--noukai-drift") or options.get("drift") or config.getini("noukai_drift")
    )
    if mode not in MODES:
        raise ValueError(f"bad drift {mode!r}: use one of {', '.join(MODES)}")
    return str(mode)


def keep_drift(item: pytest.Item, report: ReplayReport, mode: str) -> None:
    """Keep the drift of a test's replay for the summary."""
    if report.drift and mode != "ignore":
        item.stash[_lines] = report.lines()


def drift_failure(report: ReplayReport) -> str:
    """Return the message of a test that drift fails."""
    lines = "\n".join(report.lines())
    return f"the calls differ from the cassette, and drift is an error here:\n{lines}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the drift into the test's last report: under pytest-xdist, that goes to another process."""
    report = yield
    if report.when == "teardown" and _lines in item.stash:
        report.noukai_drift = item.stash[_lines]  # type: ignore[attr-defined]  # pytest keeps unknown attributes
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests with drift: their calls, the call sites, and the recorded and sent values."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    drifted = [report for report in reports if getattr(report, "noukai_drift", None)]
    if drifted:
        terminalreporter.section("noukai drift")
        for report in drifted:
            terminalreporter.line(report.nodeid)
            for line in report.noukai_drift:
                terminalreporter.line(f"  {line}")
