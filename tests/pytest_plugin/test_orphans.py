"""Orphans: cassettes that no test uses are listed, also under pytest-xdist."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from noukai_sdk.pytest_plugin import orphans
from noukai_sdk.pytest_plugin.folders import safe_name
from tests.pytest_plugin.conftest import QUICK, Suite
from tests.support.servers import settings_of

pytest_plugins = ["pytester"]

TESTS = """
pytestmark = pytest.mark.noukai_cassette

def test_one(ask):
    ask("one")

def test_two(ask):
    ask("two")
"""
TITLE = "Noukai cassettes that no test uses"


@pytest.fixture
def orphan(suite: Suite) -> str:
    """A suite of two tests, with one cassette too many."""
    suite.write(TESTS)
    suite.record(passed=2)
    suite.cassette("test_it/test_three.jsonl").write_text("")
    suite.cassette("test_it/.test_one.jsonl.0123abcd.tmp").write_text("")
    return "cassettes/test_it/test_three.jsonl"


def listed(output: str) -> list[str]:
    _, _, after = output.partition(TITLE)
    return [line for line in after.splitlines() if line.endswith(".jsonl")]


def test_cassette_of_no_test_is_listed(suite: Suite, orphan: str) -> None:
    assert listed(suite.run(passed=2)) == [orphan]
    assert listed(suite.run("-k", "one", passed=1, deselected=1)) == [orphan]
    assert listed(suite.record(mode="all", passed=2)) == [orphan]
    # A run of single tests, or of failed ones, does not know all tests of a module.
    assert listed(suite.run("test_it.py::test_one", passed=1)) == []
    suite.write(TESTS + "    assert False")
    for args in ((), ("--lf",)):
        result = suite.pytester.runpytest_inprocess(*QUICK, *args)
        assert result.parseoutcomes()["failed"] == 1
        assert listed(result.stdout.str()) == ([] if args else [orphan])


def test_cassettes_of_deleted_modules_are_listed_and_of_modules_not_run_are_not(
    suite: Suite,
) -> None:
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


def test_suite_without_cassettes_lists_nothing(suite: Suite) -> None:
    suite.write("def test_one(): pass")
    assert TITLE not in suite.run(passed=1)
    orphans.pytest_testnodedown(SimpleNamespace())  # a worker that crashed sends no list


def test_workers_of_xdist_share_the_folders_and_list_orphans_once(
    suite: Suite, running_service: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings_of(running_service[1]).items():
        monkeypatch.setenv(name, value)
    suite.pytester.makeini("[pytest]\nnoukai_network = block")
    suite.write(
        """
@pytest.mark.anyio
@pytest.mark.noukai_cassette
@pytest.mark.parametrize("number", range(12))
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
    command = (*QUICK, "-p", "no:cacheprovider", "-n", "2")
    recorded = suite.pytester.runpytest_subprocess(*command, "--noukai-record=once")
    recorded.assert_outcomes(passed=13)
    assert len(suite.cassettes()) == 12
    assert len(suite.service.calls) == 25
    suite.cassette("test_it/orphan.jsonl").write_text("")
    played = suite.pytester.runpytest_subprocess(*command)
    played.assert_outcomes(passed=13)
    assert listed(played.stdout.str()) == ["cassettes/test_it/orphan.jsonl"]
    assert len(suite.service.calls) == 25


@pytest.mark.parametrize(
    "name", ["a", "a/b", "a b", "../a", ".a", "[A]", "[a]", "\udc80", "x" * 101]
)
def test_safe_name_is_ascii_and_has_no_separators(name: str) -> None:
    safe = safe_name(name)
    assert safe.isascii()
    assert not set(safe) & set('/\\:*?"<>| ')
    assert not safe.startswith(".")
    assert len(safe) <= 120
    assert (safe == name) == (name in ("a", "[a]"))
