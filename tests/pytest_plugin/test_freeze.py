"""Hold the clock in tests with a cassette, by marker, command line and configuration."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import Suite

pytest_plugins = ["pytester"]

# Recorded today, replayed tomorrow.
CONFTEST = """
import os
from datetime import timedelta

import time_machine

@pytest.fixture(autouse=True)
def later():
    with time_machine.travel(timedelta(days=int(os.environ["LATER"]))):
        yield
"""

TESTS = """
import random
import unittest
import uuid
from datetime import datetime

from noukai_sdk import Noukai

SEEN = []

@pytest.mark.noukai_cassette
def test_sync(flow):
    flow.execute(message=f"{datetime.now():%Y-%m-%d}")

@pytest.mark.anyio
@pytest.mark.noukai_cassette(freeze=True)
async def test_async(async_flow, anyio_backend):
    await async_flow.execute(message=f"{datetime.now():%Y-%m-%d}")

@pytest.mark.noukai_cassette(freeze=False)
def test_not_held(flow):
    flow.execute(message=f"{datetime.now():%Y-%m-%d}")

class TestCase(unittest.TestCase):
    @pytest.mark.noukai_cassette(freeze=True)
    def test_unittest(self):
        with Noukai() as client:
            client.flow("acme/p/flow").execute(message=f"{datetime.now():%Y-%m-%d}")

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.noukai_cassette("same", freeze=True)
def test_uuids(flow, number):
    flow.execute(message="x")
    with open("uuids.txt", "a") as file:
        print(number, uuid.uuid4(), random.random(), file=file)
"""

MISSING = """
import sys

@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "time_machine", None)

@pytest.mark.noukai_cassette(freeze=True)
def test(flow, missing): ...
"""


@pytest.fixture
def recorded(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Suite:
    suite.write(TESTS)
    conftest = suite.path / "conftest.py"
    conftest.write_text(conftest.read_text() + CONFTEST)
    monkeypatch.setenv("LATER", "0")
    suite.record(passed=6)
    assert len(set((suite.path / "uuids.txt").read_text().splitlines())) == 2  # of the real clock
    monkeypatch.setenv("LATER", "1")
    return suite


def test_clock_is_held_by_marker_ini_and_command_line(recorded: Suite) -> None:
    drift = "--noukai-drift=error"
    output = recorded.run(drift, passed=4, failed=2)
    for name in ("test_sync", "test_not_held"):
        assert f"FAILED test_it.py::{name}" in output
    recorded.pytester.makeini("[pytest]\nnoukai_freeze = true\n")
    assert "FAILED test_it.py::test_not_held" in recorded.run(drift, passed=5, failed=1)
    recorded.run(drift, "--noukai-freeze", passed=6)
    lines = (recorded.path / "uuids.txt").read_text().splitlines()[2:]
    assert len(lines) == 6
    assert len(set(lines)) == 2  # of each test, equal in each run


def test_bad_value_and_missing_library_fail_the_test(suite: Suite) -> None:
    suite.write("@pytest.mark.noukai_cassette\ndef test(flow):\n    flow.execute(message='x')\n")
    suite.record(passed=1)
    suite.write("@pytest.mark.noukai_cassette(freeze=1)\ndef test(flow): ...\n")
    assert "bad freeze 1: use True or False" in suite.run(errors=1)
    suite.write(MISSING)
    assert "freeze needs time-machine: pip install time-machine" in suite.run(failed=1)
