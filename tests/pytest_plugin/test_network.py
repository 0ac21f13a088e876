"""Live calls outside of a cassette: refused, unless somebody has allowed them in writing."""

from __future__ import annotations

import pytest

from noukai_sdk.transport.live_calls import live_calls_allowed, live_calls_refused
from tests.pytest_plugin.conftest import QUICK, Suite

pytest_plugins = ["pytester"]

PLAIN = """
def test_one(ask):
    ask()
"""


def test_a_call_outside_of_a_cassette_is_refused(suite: Suite) -> None:
    suite.write(PLAIN)
    said = suite.run(failed=1)
    assert "ReplayDisabledError: a live request to /seq/acme/p/flow/execute was refused" in said
    assert "@pytest.mark.noukai_cassette" in said
    assert suite.service.calls == []


def test_every_mode_that_records_allows_it(suite: Suite) -> None:
    suite.write(PLAIN)
    for mode in ("once", "new_episodes", "all", "rewrite"):
        suite.record(mode=mode, passed=1)
    suite.record(mode="none", failed=1)
    assert len(suite.service.calls) == 4


def test_a_marker_allows_it(suite: Suite) -> None:
    suite.write(f"@pytest.mark.noukai_network{PLAIN}\ndef test_two(ask):\n    ask()")
    suite.run(passed=1, failed=1)
    assert len(suite.service.calls) == 1


def test_the_configuration_allows_it(suite: Suite) -> None:
    suite.write(PLAIN)
    suite.pytester.makeini("[pytest]\nnoukai_network = allow")
    suite.run(passed=1)


def test_a_bad_configuration_is_refused(suite: Suite) -> None:
    suite.pytester.makeini("[pytest]\nnoukai_network = perhaps")
    result = suite.pytester.runpytest_inprocess(*QUICK)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*noukai_network must be refuse or allow*"])


def test_fixtures_of_every_scope_and_threads_are_refused_too(suite: Suite) -> None:
    suite.write(
        """
import threading

@pytest.fixture(scope="module")
def prepared(flow):
    return flow.execute(message="x")

def test_one(prepared):
    pass

def test_two(ask):
    refused = []
    def run():
        with pytest.raises(Exception) as caught:
            ask()
        refused.append(caught.type.__name__)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert refused == ["ReplayDisabledError"]
"""
    )
    suite.run(errors=1, passed=1)
    assert suite.service.calls == []


def test_what_a_cassette_does_not_reach_is_said(suite: Suite) -> None:
    suite.write(
        """
@pytest.fixture(scope="module")
def prepared(flow):
    return flow.execute(message="wide")

@pytest.mark.noukai_cassette
def test_one(prepared, ask):
    ask()
"""
    )
    suite.record(passed=1)
    said = suite.run(errors=1)
    assert "but this call comes from elsewhere: a fixture of a wider scope" in said
    assert suite.service.calls == ["wide", "x"]


def test_a_client_with_http_of_its_own_may_go_on(suite: Suite) -> None:
    suite.write(
        """
import httpx
from noukai_sdk import Noukai

def test_one():
    answer = lambda request: httpx.Response(200, json={"status": "completed"})
    http = httpx.Client(transport=httpx.MockTransport(answer))
    Noukai(http_client=http).flow("a/b/c").execute(message="x")
"""
    )
    suite.run(passed=1)


def test_a_thread_that_lost_the_scope_is_refused(suite: Suite) -> None:
    suite.write(
        """
from concurrent.futures import ThreadPoolExecutor
from noukai_sdk import ContextThreadPoolExecutor

@pytest.mark.noukai_cassette
def test_one(ask):
    with ContextThreadPoolExecutor() as pool:
        assert pool.submit(ask).result() == "X!"

@pytest.mark.noukai_cassette("test_one")
def test_two(ask):
    with ThreadPoolExecutor() as pool:
        pool.submit(ask).result()
"""
    )
    suite.record("-k", "test_one", passed=1, deselected=1)
    said = suite.run(passed=1, failed=1)
    assert "carries no scope while a replay is under way" in said
    assert suite.service.calls == ["x"]


def test_rules_end_in_any_order() -> None:
    outer, inner = live_calls_refused("same"), live_calls_allowed()
    again = live_calls_refused("same")
    for rule in (outer, inner, again):
        rule.__enter__()
    for rule in (inner, outer, again):
        rule.__exit__(None, None, None)
