"""Test that the sample test suite passes without a service, and can be recorded again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.servers import ROOT, serve_backend, settings_of

SAMPLE = ROOT / "example_apps" / "cassette_tests"


def run_pytest(folder: Path, *args: str, **env: str) -> str:
    """Run the tests of a folder as its user does, and return the output."""
    command = [sys.executable, "-m", "pytest", str(folder), "-q", "-p", "no:cacheprovider", *args]
    # The settings of our own test run do not apply to a user's.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def cassette_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jsonl"))


def test_sample_passes_without_service() -> None:
    output = run_pytest(SAMPLE)
    assert "12 passed" in output
    assert "no test uses" not in output


def test_sample_recorded_again_passes(tmp_path: Path) -> None:
    copy = tmp_path / "cassette_tests"
    shutil.copytree(SAMPLE, copy, ignore=shutil.ignore_patterns("cassettes", "__pycache__"))
    with serve_backend(tmp_path) as server:
        run_pytest(copy, "--noukai-record=once", **settings_of(server.api))
    assert cassette_names(copy) == cassette_names(SAMPLE)
    run_pytest(copy)
