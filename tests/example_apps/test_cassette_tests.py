"""The sample test suite: it passes with no service, and can be recorded again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.redirect import dev_environment
from tests.support.servers import ROOT, serve_backend

# tests/redirect imports the SDK before pytest can look at it.
REDIRECTED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
SAMPLE = ROOT / "example_apps" / "cassette_tests"


def run(folder: Path, *args: str, **env: str) -> str:
    """Run the tests of a folder as its user does; gives what pytest said."""
    command = [sys.executable, "-m", "pytest", str(folder), "-q", "-p", "no:cacheprovider", *args]
    # What our own suite is measured with is not for that of a user.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**own, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_sample_passes_with_no_service() -> None:
    said = run(SAMPLE)
    assert "12 passed" in said
    assert "cassettes of no test" not in said


def test_the_sample_can_be_recorded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "cassette_tests"
    shutil.copytree(SAMPLE, copy, ignore=shutil.ignore_patterns("cassettes", "__pycache__"))
    with serve_backend(tmp_path) as server:
        run(copy, "--noukai-record=once", *REDIRECTED, **dev_environment(server.api))
    assert names(copy) == names(SAMPLE)
    run(copy)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jsonl"))
