"""Run ``noukai session`` in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from noukai_sdk.cli.commands import noukai


def run(*words: str, exit_code: int = 0) -> Result:
    """Run ``noukai session`` with these words, and check its exit code."""
    result = CliRunner().invoke(noukai, ["session", *words], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


def run_json(*words: str, exit_code: int = 0) -> Any:
    """Run it with ``--json``, and return what it prints."""
    return json.loads(run(*words, "--json", exit_code=exit_code).stdout)
