"""Drift in tests: a section at the end of the run, or a failure, with the recorded and the sent values."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import QUICK, Suite
from tests.support.servers import settings_of

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.mark.noukai_cassette
def test_edited(flow):
    flow.execute(message="The cat sat.")
    flow.execute(message="A dog ran.")

@pytest.mark.noukai_cassette
def test_same(flow):
    assert flow.execute(message="one").result == "ONE!"
"""
TITLE = "noukai drift"


def section(output: str) -> list[str]:
    _, _, after = output.partition(f" {TITLE} ===")
    lines = after.splitlines()[1:]
    end = next((n for n, line in enumerate(lines) if line.startswith("===")), len(lines))
    return lines[:end]


@pytest.fixture
def drifted(suite: Suite) -> Suite:
    """A suite with one test whose two prompts were edited since they were recorded."""
    suite.write(TESTS)
    suite.record(passed=2)
    suite.write(TESTS.replace("The cat sat", "The cat sits").replace("A dog", "One dog"))
    return suite


def test_drift_is_listed_at_the_end_with_its_diff_and_place(drifted: Suite) -> None:
    lines = section(drifted.run(passed=2))
    assert lines[0] == "test_it.py::test_edited"
    assert "  message of call 1 changed (flow, test_it.py:" in "\n".join(lines)
    place = next(number for number, line in enumerate(lines) if "flow [execute] call 2 at" in line)
    assert "test_it.py:" in lines[place]
    assert [line.strip() for line in lines[place + 1 : place + 4]] == [
        "message",
        "- A dog ran.",
        "+ One dog ran.",
    ]
    assert "test_same" not in "\n".join(lines)


def test_drift_is_an_error_or_ignored_by_option_marker_and_ini(drifted: Suite) -> None:
    output = drifted.run("--noukai-drift=error", passed=1, failed=1)
    failure = output[: output.index(TITLE)]
    for part in ("drift is an error here", "- The cat sat.", "+ The cat sits.", "test_it.py:"):
        assert part in failure
    assert section(output)
    assert TITLE not in drifted.run("--noukai-drift=ignore", passed=2)

    drifted.pytester.makeini("[pytest]\nnoukai_drift = error\n")
    drifted.run(passed=1, failed=1)
    path = drifted.pytester.path / "test_it.py"
    text = path.read_text()
    path.write_text(text.replace("noukai_cassette", "noukai_cassette(drift='ignore')"))
    drifted.run(passed=2)
    drifted.run("--noukai-drift=error", passed=1, failed=1)
    path.write_text(text.replace("noukai_cassette", "noukai_cassette(drift='never')"))
    assert "bad drift 'never': use one of error, warn, ignore" in drifted.run(errors=2)
    drifted.pytester.makeini("[pytest]\nnoukai_drift = never\n")
    result = drifted.pytester.runpytest_inprocess(*QUICK)
    result.stderr.fnmatch_lines(["*noukai_drift must be one of error, warn, ignore"])


def test_drift_of_failed_tests_and_of_workers_is_listed(
    drifted: Suite, running_service: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings_of(running_service[1]).items():
        monkeypatch.setenv(name, value)
    path = drifted.pytester.path / "test_it.py"
    path.write_text(path.read_text().replace('sits.")', 'sits.")\n    assert False'))
    result = drifted.pytester.runpytest_subprocess(*QUICK, "-p", "no:cacheprovider", "-n", "2")
    assert section(result.stdout.str())[0] == "test_it.py::test_edited"


def test_added_and_removed_calls_are_named_in_the_failure(suite: Suite) -> None:
    test = "@pytest.mark.noukai_cassette\ndef test(flow):\n    for t in '{}': flow.execute(message=t)\n"
    suite.write(test.format("abc"))
    suite.record(passed=1)
    suite.write(test.format("ac"))
    assert "the recorded call 2 ('b') was removed (flow)" in suite.run(failed=1)
    suite.write(test.format("axbc"))
    assert "call 2 was added (flow, test_it.py:" in suite.run(failed=1)
