"""``noukai dev`` twice on one SQLite file: the second is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.claim import DatabaseInUseError
from noukai_sdk.backend.store.database import open_database
from tests.support.servers import Server, serve_command

from .backends import ASKS_WEATHER, resume_body

HEADERS = {"Authorization": "Bearer nk_dev", "X-Session-Id": "two"}
DEV = ["python", "-m", "noukai_sdk.cli", "dev", "--port", "{port}", "--db"]


def dev(database: str) -> AbstractContextManager[Server]:
    return serve_command([*DEV, database], ready="/healthz")


def second(database: str) -> str:
    """Return the error message of a second backend on the database."""
    command = [sys.executable, *DEV[1:-2], "0", "--db", database]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr


def execute(server: Server, body: object) -> httpx.Response:
    url = f"{server.api}/seq/acme/samples/weather/execute"
    return httpx.post(url, json=body, headers=HEADERS)


def test_dev_second_process_is_rejected_until_the_first_dies(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/noukai.db"
    with dev(database) as server:
        pause = execute(server, ASKS_WEATHER).json()
        message = second(database)
        assert f"noukai (process {server.process.pid} on " in message
        assert "works on it" in message
        # The first one is not disturbed.
        session = httpx.get(f"{server.api}/seq/sessions/two", headers=HEADERS).json()
        assert [run["status"] for run in session["executions"]] == ["running"]
        server.kill()
    with dev(database) as server:
        assert execute(server, resume_body(pause)).json()["status"] == "completed"
        assert httpx.get(f"{server.api}/seq/sessions/other", headers=HEADERS).status_code == 404


@pytest.mark.anyio
async def test_claim_in_the_same_process_is_rejected_until_released(tmp_path: Path) -> None:
    url = Settings(tmp_path / "noukai.db").database_url
    first = await open_database(url)
    with pytest.raises(DatabaseInUseError, match=rf"noukai \(process {os.getpid()} on"):
        await open_database(url)
    await first.aclose()
    await (await open_database(url)).aclose()


@pytest.mark.anyio
async def test_claim_on_a_link_to_a_claimed_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    first = await open_database(Settings(tmp_path / "a.db").database_url)
    # Without the name of the holder, the message is a general one.
    (tmp_path / "a.db.holder").unlink()
    with pytest.raises(DatabaseInUseError, match="another backend works on it"):
        await open_database(Settings(tmp_path / "link.db").database_url)
    await first.aclose()


@pytest.mark.anyio
async def test_open_database_missing_module_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    with pytest.raises(ModuleNotFoundError, match="aiosqlite"):
        await open_database(Settings(tmp_path / "a.db").database_url)
