"""Cassettes that no test uses are listed, and workers of pytest-xdist share the folders."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from noukai_sdk.pytest_plugin import orphans as pytest_orphans
from noukai_sdk.pytest_plugin.folders import safe_name
from tests.pytest_plugin.conftest import QUICK, Suite
from tests.support.redirect import dev_environment

pytest_plugins = ["pytester"]

TESTS = """
pytestmark = pytest.mark.noukai_cassette

def test_one(ask):
    ask("one")

def test_two(ask):
    ask("two")
"""
TITLE = "cassettes of no test"


@pytest.fixture
def orphan(suite: Suite) -> str:
    """A suite of two tests, with one cassette too many."""
    suite.write(TESTS)
    suite.record(passed=2)
    suite.cassette("test_it/test_three.jsonl").write_text("")
    suite.cassette("test_it/.test_one.jsonl.0123abcd.tmp").write_text("")
    return "cassettes/test_it/test_three.jsonl"


def listed(said: str) -> list[str]:
    _, _, after = said.partition(TITLE)
    return [line for line in after.splitlines() if line.endswith(".jsonl")]


def test_a_cassette_too_many_is_listed(suite: Suite, orphan: str) -> None:
    assert listed(suite.run(passed=2)) == [orphan]
    assert listed(suite.run("-k", "one", passed=1, deselected=1)) == [orphan]
    assert listed(suite.record(mode="all", passed=2)) == [orphan]


def test_a_run_of_single_tests_knows_no_orphans(suite: Suite, orphan: str) -> None:
    assert listed(suite.run("test_it.py::test_one", passed=1)) == []


def test_failed_tests_run_again_know_no_orphans(suite: Suite, orphan: str) -> None:
    suite.write(TESTS + "    assert False")
    for args in ((), ("--lf",)):
        result = suite.pytester.runpytest_inprocess(*QUICK, *args)
        assert result.parseoutcomes()["failed"] == 1
        assert listed(result.stdout.str()) == ([] if args else [orphan])


def test_folders_of_modules_that_are_gone_or_not_asked_for(suite: Suite) -> None:
    suite.write(TESTS, "test_kept")
    suite.write(TESTS, "test_gone")
    suite.write(TESTS, "test_other")
    suite.record(passed=6)
    (suite.path / "test_gone.py").unlink()
    gone = [f"cassettes/test_gone/test_{name}.jsonl" for name in ("one", "two")]
    assert listed(suite.run(passed=4)) == gone
    assert listed(suite.run("test_kept.py", passed=2)) == gone
    (suite.path / "test_other.py").write_text("def test_no_cassette(): pass")
    others = [f"cassettes/test_other/test_{name}.jsonl" for name in ("one", "two")]
    assert listed(suite.run("test_kept.py", passed=2)) == gone
    assert listed(suite.run(passed=3)) == [*gone, *others]


def test_without_cassettes_nothing_is_said(suite: Suite) -> None:
    suite.write("def test_one(): pass")
    assert TITLE not in suite.run(passed=1)


def test_four_workers(
    suite: Suite, running_service: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in dev_environment(running_service[1]).items():
        monkeypatch.setenv(name, value)
    suite.write(
        """
@pytest.mark.anyio
@pytest.mark.noukai_cassette
@pytest.mark.parametrize("number", range(24))
async def test_one(async_flow, number):
    for text in (f"a{number}", f"b{number}"):
        assert (await async_flow.execute(message=text)).result == text.upper() + "!"

def test_refused(ask, request):
    recording = request.config.getoption("--noukai-record")
    if recording:
        ask("live")
    else:
        with pytest.raises(Exception, match="was refused"):
            ask("live")
"""
    )
    command = (*QUICK, "-p", "no:cacheprovider", "-n", "4")
    recorded = suite.pytester.runpytest_subprocess(*command, "--noukai-record=once")
    recorded.assert_outcomes(passed=25)
    assert len(suite.cassettes()) == 24
    assert len(suite.service.calls) == 49
    suite.cassette("test_it/orphan.jsonl").write_text("")
    played = suite.pytester.runpytest_subprocess(*command)
    played.assert_outcomes(passed=25)
    assert listed(played.stdout.str()) == ["cassettes/test_it/orphan.jsonl"]
    assert len(suite.service.calls) == 49


def test_a_worker_that_crashed_has_told_nothing() -> None:
    pytest_orphans.pytest_testnodedown(SimpleNamespace())


@pytest.mark.parametrize(
    "name", ["a", "a/b", "a b", "../a", ".a", "[A]", "[a]", "\udc80", "x" * 101]
)
def test_safe_names(name: str) -> None:
    safe = safe_name(name)
    assert safe.isascii()
    assert not set(safe) & set('/\\:*?"<>| ')
    assert not safe.startswith(".")
    assert len(safe) <= 120
    assert (safe == name) == (name in ("a", "[a]"))
