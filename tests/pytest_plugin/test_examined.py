"""``pytest --noukai-doctor``: a section that names the lines which make the replays of tests differ."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import QUICK, Suite
from tests.support.servers import ROOT

pytest_plugins = ["pytester"]

TESTS = """
import random

@pytest.mark.noukai_cassette
def test_random(flow):
    flow.execute(message=f"Choose {random.choice(['a', 'b'])}.")

def test_without_calls():
    pass
"""


def test_examined_tests_are_listed_and_fail_if_told_to(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    suite.write(TESTS)
    suite.record(passed=2)
    words = (*QUICK, "-p", "no:cacheprovider", "--noukai-doctor-fail")
    result = suite.pytester.runpytest_subprocess(*words)
    result.assert_outcomes(passed=2, errors=1)
    output = result.stdout.str()
    section = output[output.index("= noukai doctor =") :]
    assert "test_it.py::test_random: 1 line makes replays differ" in section
    assert "test_it.py:7  random  random.choice(['a', 'b'])" in section
    assert "test_without_calls" not in section
