"""Run one test in this process, by pytest, and note what came out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ..replay.cassette import Cassette
from ..replay.player import ReplayOptions
from ..replay.redaction import Redactor
from ..session.replay_scope import ReplayScope
from .completion import AS_RECORDED, ranked_pace
from .observation import Observer, Response
from .source_reads import Sources

if TYPE_CHECKING:
    from .run_program import Orders


class _Outcome:
    """Notes whether the test passed: a plugin of pytest."""

    def __init__(self, sources: Sources) -> None:
        self.failures: list[str] = []
        self.passed = False
        self.skipped = False
        self._sources = sources

    def pytest_runtest_setup(self) -> None:
        """Note that what follows is no part of the imports."""
        self._sources.in_request = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a part of the test."""
        if report.failed:
            lines = report.longreprtext.strip().splitlines()
            self.failures.append(f"{report.when}: {lines[-1] if lines else 'failed'}")
        self.passed |= report.when == "call" and report.passed
        self.skipped |= report.skipped


@contextmanager
def _other_completions(orders: Orders) -> Iterator[None]:
    """Let the calls of all scopes complete in another order, if the plan says so."""
    plan = orders.plan
    if plan.factor != "completion" or plan.variant == AS_RECORDED:
        yield
        return
    scope: Any = ReplayScope
    original = scope.__init__

    def init(self: Any, cassette: Cassette, options: ReplayOptions | None = None) -> None:
        pace = ranked_pace(cassette.recordings, plan.variant)
        original(self, cassette, replace(options or ReplayOptions(), pace=pace))

    scope.__init__ = init
    try:
        yield
    finally:
        scope.__init__ = original


def run_test(orders: Orders, sources: Sources) -> dict[str, Any]:
    """Run the test that the orders name, and return what came out."""
    observer = Observer(Redactor())
    outcome = _Outcome(sources)
    with observer.watching(), _other_completions(orders):
        # Rewritten assertions would take the place of instrumented code.
        code = pytest.main(["--assert=plain", *orders.pytest], plugins=[outcome])
    observation = observer.observation
    if not (outcome.passed or outcome.failures or outcome.skipped):
        observation.problem = f"pytest ended with code {int(code)} and ran no test"
    observation.response = Response(200)
    if outcome.failures:
        observation.failure = outcome.failures[0]
    return observation.as_dict()
