"""``noukai serve`` and ``noukai worker``: their errors. What they do is in tests/faults."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from noukai_sdk.cli.commands import noukai


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--db'"),
        (["--db", "some.db"], "needs Postgres: postgresql://user@host/name"),
        (["--db", "sqlite:///some.db"], "For a SQLite file, run noukai dev instead"),
        (["--db", "mysql://x:nope@h/d"], "mysql://x:***@h/d is neither a file nor in Postgres"),
        (
            ["--db", "postgresql://x:nope@127.0.0.1:1/d"],
            "cannot open the database postgresql://x:***",
        ),
        (["--db", "postgresql://h/d", "--flows", "nowhere"], "'nowhere' does not exist"),
    ],
)
def test_service_with_invalid_setting_reports_it_without_secrets(
    command: str, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(noukai, [command, *arguments])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert "nope" not in result.stderr
    assert not Path("some.db").exists()


def test_service_without_driver_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    result = CliRunner().invoke(noukai, ["serve", "--db", "postgresql://localhost/d"])
    assert result.exit_code == 2
    assert "needs asyncpg: pip install asyncpg" in result.stderr
