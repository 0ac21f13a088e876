"""Live calls of tests: with a cassette, without one, and with ``noukai_network = block``."""

from __future__ import annotations

from noukai_sdk.transport.live_calls import live_calls_allowed, live_calls_refused
from tests.pytest_plugin.conftest import Suite

pytest_plugins = ["pytester"]

PLAIN = """
def test_one(ask):
    ask()
"""


def test_call_of_a_test_without_a_cassette_goes_live(suite: Suite) -> None:
    suite.write(PLAIN)
    suite.run(passed=1)
    suite.pytester.makeini("[pytest]\nnoukai_network = allow")
    suite.run(passed=1)
    assert len(suite.service.calls) == 2


def test_call_of_a_test_without_a_cassette_is_refused_if_the_network_is_blocked(
    suite: Suite,
) -> None:
    suite.write(PLAIN)
    for word in ("block", "refuse"):
        suite.pytester.makeini(f"[pytest]\nnoukai_network = {word}")
        output = suite.run(failed=1)
        assert "ReplayDisabledError: a live request to /seq/acme/p/flow/execute was ref" in output
        assert "@pytest.mark.noukai_cassette" in output
    assert suite.service.calls == []
    for mode in ("once", "new_episodes", "all", "rewrite"):
        suite.record(mode=mode, passed=1)
    suite.record(mode="none", failed=1)
    assert len(suite.service.calls) == 4
    suite.write(f"@pytest.mark.noukai_network{PLAIN}\ndef test_two(ask):\n    ask()")
    suite.run(passed=1, failed=1)
    assert len(suite.service.calls) == 5


def test_call_in_a_wide_fixture_or_a_thread_is_refused_too(suite: Suite) -> None:
    suite.pytester.makeini("[pytest]\nnoukai_network = block")
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


def test_call_that_the_cassette_does_not_hold_is_refused_with_the_reason(suite: Suite) -> None:
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
    for network in ("allow", "block"):
        suite.pytester.makeini(f"[pytest]\nnoukai_network = {network}")
        output = suite.run(errors=1)
    assert "but this call comes from elsewhere: a fixture of a wider scope" in output
    assert suite.service.calls == ["wide", "x"]


def test_client_with_its_own_http_client_is_not_refused(suite: Suite) -> None:
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


def test_call_in_a_thread_that_lost_the_scope_is_refused(suite: Suite) -> None:
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
    output = suite.run(passed=1, failed=1)
    assert "carries no scope while a replay is under way" in output
    assert suite.service.calls == ["x"]


def test_rules_for_live_calls_can_end_in_any_order() -> None:
    outer, inner = live_calls_refused("same"), live_calls_allowed()
    again = live_calls_refused("same")
    for rule in (outer, inner, again):
        rule.__enter__()
    for rule in (inner, outer, again):
        rule.__exit__(None, None, None)
