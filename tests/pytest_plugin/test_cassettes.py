"""Tests on cassettes: recorded once, then replayed strictly."""

from __future__ import annotations

import pytest

from noukai_sdk.replay.cassette_file import read_cassette
from tests.pytest_plugin.conftest import QUICK, Suite

pytest_plugins = ["pytester"]

KINDS = {
    "marker": """
@pytest.mark.noukai_cassette
def test_one(ask):
    assert ask() == "X!"
""",
    "called marker": """
@pytest.mark.noukai_cassette()
def test_one(ask):
    assert ask() == "X!"
""",
    "fixture": """
def test_one(ask, noukai_cassette):
    assert ask() == "X!"
    assert noukai_cassette.mode in ("capture", "replay")
""",
    "fixture of a fixture": """
@pytest.fixture
def scope(noukai_cassette):
    return noukai_cassette

def test_one(ask, scope):
    assert ask() == "X!"
""",
    "usefixtures": """
@pytest.mark.usefixtures("noukai_cassette")
def test_one(ask):
    assert ask() == "X!"
""",
    "module": """
pytestmark = pytest.mark.noukai_cassette
def test_one(ask):
    assert ask() == "X!"
""",
    "async": """
from noukai_sdk import current_session_id

@pytest.mark.anyio
@pytest.mark.noukai_cassette
async def test_one(async_flow, noukai_cassette):
    assert (await async_flow.execute(message="x")).result == "X!"
    assert current_session_id() == noukai_cassette.session_id
""",
    "async without marker": """
@pytest.mark.anyio
async def test_one(async_flow, noukai_cassette):
    assert (await async_flow.execute(message="x")).result == "X!"
""",
    "async on trio": """
@pytest.fixture
def anyio_backend():
    return "trio"

@pytest.mark.anyio
async def test_one(async_flow, noukai_cassette):
    assert (await async_flow.execute(message="x")).result == "X!"
""",
}


@pytest.mark.parametrize("kind", KINDS)
def test_cassette_is_recorded_once_and_replayed_from_then_on(suite: Suite, kind: str) -> None:
    suite.write(KINDS[kind])
    suite.record(passed=1)
    assert suite.service.calls == ["x"]
    assert suite.cassettes() == ["test_it/test_one.jsonl"]
    before = suite.cassette("test_it/test_one.jsonl").read_bytes()
    suite.run(passed=1)
    suite.record(passed=1)
    suite.record(mode="none", passed=1)
    assert suite.service.calls == ["x"]
    assert suite.cassette("test_it/test_one.jsonl").read_bytes() == before


UNITTEST = {
    "sync": """
class TestCase(unittest.TestCase):
    @pytest.mark.noukai_cassette
    def test_one(self):
        with Noukai() as client:
            assert client.flow("a/b/c").execute(message="x").result == "X!"

    @pytest.mark.noukai_cassette
    def test_two(self):
        with Noukai() as client:
            client.flow("a/b/c").execute(message="x")
        self.fail("no")
""",
    "async": """
class TestCase(unittest.IsolatedAsyncioTestCase):
    @pytest.mark.noukai_cassette
    async def test_one(self):
        async with AsyncNoukai() as client:
            assert (await client.flow("a/b/c").execute(message="x")).result == "X!"

    @pytest.mark.noukai_cassette
    async def test_two(self):
        async with AsyncNoukai() as client:
            await client.flow("a/b/c").execute(message="x")
        self.fail("no")
""",
}


@pytest.mark.parametrize("kind", UNITTEST)
def test_unittest_case_uses_cassettes(suite: Suite, kind: str) -> None:
    suite.write(f"import unittest\nfrom noukai_sdk import *\n{UNITTEST[kind]}")
    suite.record(passed=1, failed=1)
    assert suite.cassettes() == ["test_it/TestCase.test_one.jsonl"]
    suite.run("-k", "test_one", passed=1, deselected=1)
    assert len(suite.service.calls) == 2


def test_call_in_a_teardown_is_warned_of_when_recording_and_refused_in_a_replay(
    suite: Suite,
) -> None:
    suite.write(
        """
@pytest.fixture
def tidy(ask):
    yield
    ask("tidy")

@pytest.mark.noukai_cassette
def test_one(tidy, ask):
    ask()
"""
    )
    output = suite.record("-W", "default", passed=1)
    assert "LateCallWarning: a call of flow acme/p/flow came after the recording to" in output
    assert suite.service.calls == ["x", "tidy"]
    assert len(read_cassette(suite.cassette("test_it/test_one.jsonl")).recordings) == 1
    output = suite.run(passed=1, errors=1)
    assert "The replay's scope has ended already." in output


def test_cassette_error_fails_the_test_with_what_to_do(suite: Suite) -> None:
    suite.write(KINDS["marker"])
    output = suite.run(errors=1)
    assert "no such cassette: record it first: run the test with --noukai-record=once" in output
    assert suite.service.calls == []
    suite.write("@pytest.mark.noukai_cassette(redact=lambda kept: None)\ndef test_one(ask): ask()")
    output = suite.record(failed=1)
    assert "the redact hook must return the dict to keep, not NoneType" in output
    assert suite.cassettes() == []
    suite.write(KINDS["marker"])
    suite.cassette("test_it").mkdir(parents=True)
    suite.cassette("test_it/test_one.jsonl").write_text("<<<<<<< HEAD\n")
    output = suite.run(errors=1)
    assert "test_one.jsonl:1: a git merge conflict is not resolved here" in output
    assert "record it first" not in output


TWO_CALLS = """
@pytest.mark.noukai_cassette
def test_one(ask):
    ask("a")
    ask("b")
"""


def test_replay_with_a_leftover_or_a_caught_miss_fails_the_test(suite: Suite) -> None:
    suite.write(TWO_CALLS)
    suite.record(passed=1)
    suite.write(TWO_CALLS.replace('ask("b")', "pass"))
    output = suite.run(failed=1)
    assert "ReplayLeftoverError: the replay ended with 1 recording unplayed: flow #2." in output
    assert "wrapping.py" not in output
    suite.write(TWO_CALLS + "    with pytest.raises(Exception):\n        ask('more')")
    output = suite.run(failed=1)
    assert "ReplayMissError: no recording answers execute call 3 of flow 'flow' at " in output
    assert suite.service.calls == ["a", "b"]


FAILING = {
    "the test fails": ("def test_one(ask):\n    ask()\n    assert False", "failed"),
    "the test is skipped": ("def test_one(ask):\n    ask()\n    pytest.skip()", "skipped"),
    "the test is expected to fail": (
        "@pytest.mark.xfail\ndef test_one(ask):\n    ask()\n    assert False",
        "xfailed",
    ),
    "a fixture fails": (
        """
@pytest.fixture
def broken(ask):
    ask()
    assert False

def test_one(broken):
    pass
""",
        "errors",
    ),
    "an async test fails": (
        """
@pytest.mark.anyio
async def test_one(async_flow):
    await async_flow.execute(message="x")
    assert False
""",
        "failed",
    ),
}


@pytest.mark.parametrize("reason", FAILING)
def test_test_that_fails_writes_no_cassette(suite: Suite, reason: str) -> None:
    text, outcome = FAILING[reason]
    suite.write(f"pytestmark = pytest.mark.noukai_cassette\n{text}")
    for mode in ("once", "new_episodes", "all", "rewrite"):
        suite.record(mode=mode, **{outcome: 1})
        assert suite.cassettes() == []
    assert suite.service.calls == ["x"] * 4


def test_test_that_fails_keeps_the_old_cassette(suite: Suite) -> None:
    suite.write(KINDS["marker"])
    suite.record(passed=1)
    before = suite.cassette("test_it/test_one.jsonl").read_bytes()
    suite.write(KINDS["marker"] + "    ask('more')\n    assert False")
    for mode in ("new_episodes", "all", "rewrite"):
        suite.record(mode=mode, failed=1)
        assert suite.cassette("test_it/test_one.jsonl").read_bytes() == before


def test_record_mode_of_the_command_line_overrides_the_marker(suite: Suite) -> None:
    suite.write(
        """
@pytest.mark.noukai_cassette(record_mode="new_episodes")
def test_one(ask):
    ask("a")
"""
    )
    suite.run(passed=1)
    assert suite.service.calls == ["a"]
    suite.record(mode="none", passed=1)
    suite.write(
        '@pytest.mark.noukai_cassette(record_mode="rewrite")\ndef test_one(ask):\n  ask("b")'
    )
    suite.record(mode="none", passed=1)
    assert suite.service.calls == ["a"]
    suite.run(passed=1)
    assert suite.service.calls == ["a", "b"]


def test_marker_options_are_used(suite: Suite) -> None:
    suite.write(
        """
def hide(recording):
    recording["request"]["parameters"] = {}
    return recording

@pytest.mark.noukai_cassette(redact=hide, redact_paths=["execution_id"], strict_inputs=True)
def test_one(ask):
    assert ask(parameters={"a": 1}) == "X!"
"""
    )
    suite.record(passed=1)
    (recording,) = read_cassette(suite.cassette("test_it/test_one.jsonl")).recordings
    assert recording.request == {"message": "x", "parameters": {}}
    assert recording.execution_id == "[redacted]"
    suite.run(passed=1)
    suite.write(
        """
@pytest.mark.noukai_cassette(strict_inputs=True)
def test_one(ask):
    assert ask(parameters={"a": 1}) == "X!"
"""
    )
    assert "inputs are strict" in suite.run(failed=1)


def test_options_fixture_applies_to_the_whole_suite(suite: Suite) -> None:
    suite.write(
        """
@pytest.fixture(scope="module")
def noukai_cassette_options():
    return {"redact_paths": ["request.message"], "record_mode": "once"}

@pytest.mark.noukai_cassette
def test_one(ask):
    assert ask("private") == "PRIVATE!"
"""
    )
    suite.run(passed=1)
    assert suite.service.calls == ["private"]
    assert '"message": "private"' not in suite.cassette("test_it/test_one.jsonl").read_text()
    suite.record(mode="none", passed=1)


BAD_MARKERS = [
    ("colour=1, replay_session_id='s'", "got unknown options colour, replay_session_id"),
    ("record_mode='sometimes'", "bad record_mode 'sometimes'"),
    ("redact_paths=['a[']", "bad JSON path"),
    ("redact_paths=5", "redact_paths must be a list of JSON paths, not 5"),
    ("redact_paths='a.b'", "redact_paths must be a list of JSON paths, not 'a.b'"),
    ("redact='a.b'", "redact must be a function, not 'a.b'"),
    ("''", "noukai_cassette takes one name, a non-empty string, not ''"),
    ("name=1", "noukai_cassette takes one name, a non-empty string, not 1"),
    ("'a', 'b'", "noukai_cassette takes one name, a non-empty string, not 'a', 'b'"),
]


def test_bad_marker_or_fixture_use_fails_the_test_with_the_reason(suite: Suite) -> None:
    for number, (options, _) in enumerate(BAD_MARKERS):
        suite.write(
            f"@pytest.mark.noukai_cassette({options})\ndef test_one(ask):\n    ask()",
            f"test_bad_{number}",
        )
    suite.write("def test_one(request):\n    request.getfixturevalue('noukai_cassette')")
    output = suite.run(errors=len(BAD_MARKERS), failed=1)
    for _, problem in BAD_MARKERS:
        assert problem in output
    assert "name noukai_cassette as an argument" in output
    assert suite.service.calls == []


def test_bad_command_line_or_configuration_is_a_usage_error(suite: Suite) -> None:
    suite.write(KINDS["marker"])
    result = suite.pytester.runpytest_inprocess(*QUICK, "--noukai-record=sometimes")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--noukai-record: invalid choice: 'sometimes'*"])
    suite.pytester.makeini("[pytest]\nnoukai_network = perhaps")
    result = suite.pytester.runpytest_inprocess(*QUICK)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*noukai_network must be allow or block*"])


def test_replay_is_enabled_during_the_test_only(suite: Suite) -> None:
    suite.write(
        """
import os
from noukai_sdk.session.options import GATE

def test_before():
    assert GATE not in os.environ

@pytest.mark.noukai_cassette
def test_one(ask):
    ask()
    assert os.environ[GATE] == "true"

def test_after():
    assert GATE not in os.environ
"""
    )
    suite.record(passed=3)
    suite.run(passed=3)


def test_test_that_runs_again_starts_a_new_scope(suite: Suite) -> None:
    """pytest-rerunfailures does this."""
    suite.pytester.syspathinsert()
    suite.pytester.makepyfile(
        again="""
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=nextitem, log=False)
    item._initrequest()
    runtestprotocol(item, nextitem=nextitem)
    return True
"""
    )
    suite.write(
        """
@pytest.mark.noukai_cassette
def test_one(ask, tries=[]):
    ask()
    tries.append(1)
    assert len(tries) % 2 == 0
"""
    )
    suite.record("-p", "again", passed=1)
    assert suite.service.calls == ["x", "x"]
    suite.run("-p", "again", passed=1)


def test_cassette_names_are_safe_and_unique(suite: Suite) -> None:
    suite.write(
        """
pytestmark = pytest.mark.noukai_cassette

@pytest.mark.parametrize("text", ["a", "A", "a/b", "a:b", "", "ü", "x" * 300, "."])
def test_one(ask, text):
    assert ask(text) == text.upper() + "!"

class TestGrades:
    def test_one(self, ask):
        ask("class")

    class TestNested:
        def test_one(self, ask):
            ask("nested")

@pytest.mark.noukai_cassette("by name")
@pytest.mark.parametrize("text", ["a", "b"])
def test_named(ask, text):
    assert ask(text) == text.upper() + "!"

@pytest.mark.noukai_cassette("shared")
def test_shared(ask):
    ask("shared")

@pytest.mark.noukai_cassette(name="shared")
def test_shared_too(ask):
    ask("shared")
"""
    )
    suite.record(passed=14)
    suite.run(passed=14)
    names = suite.cassettes("cassettes/test_it")
    assert len(names) == len({name.lower() for name in names}) == 13
    assert {"test_one[a].jsonl", "TestGrades.test_one.jsonl", "shared.jsonl"} <= set(names)
    assert "TestGrades.TestNested.test_one.jsonl" in names
    assert all(name.isascii() and len(name) < 130 for name in names)
