"""Examine tests with cassettes by the doctor, and list at the end of the run what it found."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

from ..doctor.diagnosis import Diagnosis
from ..doctor.examination import Examination
from ..doctor.run_processes import Processes
from ..doctor.run_program import Orders
from ..doctor.source_reads import Plan
from .marker import has_cassette

_RUNS = 3
# Seconds that one run of a test may take.
_LONGEST = 120.0

_has_passed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Examine a test that has passed; its last report takes the result to the end of the run."""
    report = yield
    if report.when == "call":
        item.stash[_has_passed] = report.passed
    if report.when != "teardown" or not has_cassette(item) or not report.passed:
        return report
    is_recorded = (item.config.getoption("--noukai-record") or "none") != "none"
    if is_recorded or not item.stash.get(_has_passed, False):
        return report
    diagnosis = _examine(item)
    lines = [line for finding in diagnosis.findings for line in finding.lines()]
    kept: Any = report
    kept.noukai_doctor = [diagnosis.headline, *lines, *(f"note: {n}" for n in diagnosis.notes)]
    kept.noukai_doctor_found = len(diagnosis.findings)
    if diagnosis.findings and item.config.getoption("--noukai-doctor-fail"):
        report.outcome = "failed"
        report.longrepr = "\n".join(["noukai doctor: this test is not deterministic", *lines])
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the examined tests, and the lines that make their replays differ."""
    reports = [each for reports in terminalreporter.stats.values() for each in reports]
    examined = [each for each in reports if getattr(each, "noukai_doctor", None)]
    if not examined:
        return
    terminalreporter.section("noukai doctor")
    for report in examined:
        headline, *lines = report.noukai_doctor
        terminalreporter.line(f"{report.nodeid}: {headline}")
        for line in lines:
            terminalreporter.line(f"  {line}")


def _examine(item: pytest.Item) -> Diagnosis:
    orders = Orders(Plan(), pytest=_arguments(item), timeout=_LONGEST)
    with Processes(orders, without=("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")) as processes:
        diagnosis = Examination(
            processes.run, clock=time.time(), runs=_RUNS, of_app=False
        ).examine()
        diagnosis.runs = processes.runs
    return diagnosis


def _arguments(item: pytest.Item) -> list[str]:
    """Return the arguments by which pytest runs this test alone, in this process or another."""
    config = item.config
    _, colons, name = item.nodeid.partition("::")
    arguments = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
    arguments += [f"--rootdir={config.rootpath}", f"--import-mode={config.option.importmode}"]
    if config.inipath is not None:
        arguments += ["-c", str(config.inipath)]
    for plugin in config.option.plugins:
        if plugin not in ("no:cacheprovider", "no:xdist", "xdist"):
            arguments += ["-p", plugin]
    if config.getoption("--noukai-drift") is not None:
        arguments.append(f"--noukai-drift={config.getoption('--noukai-drift')}")
    return [*arguments, f"{item.path}{colons}{name}"]
