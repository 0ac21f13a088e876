"""``noukai dev`` twice on one database, as processes, over SQLite and over Postgres."""

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

from .streams import WEATHER, answered

HEADERS = {"Authorization": "Bearer nk_dev", "X-Session-Id": "two"}
DEV = ["python", "-m", "noukai_sdk.cli", "dev", "--port", "{port}", "--db"]


def dev(database: str) -> AbstractContextManager[Server]:
    return serve_command([*DEV, database], ready="/healthz")


def second(database: str) -> str:
    """What a second one says before it ends."""
    command = [sys.executable, *DEV[1:-2], "0", "--db", database]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def execute(server: Server, body: object) -> httpx.Response:
    url = f"{server.api}/seq/acme/samples/weather/execute"
    return httpx.post(url, json=body, headers=HEADERS)


def test_a_second_one_is_refused_and_after_a_crash_the_next_goes_on(database: str) -> None:
    with dev(database) as server:
        pause = execute(server, {"message": "Paris?", "tools": WEATHER}).json()
        said = second(database)
        assert f"noukai (process {server.process.pid} on " in said
        assert "works on it" in said
        # The first one did not notice.
        session = httpx.get(f"{server.api}/seq/sessions/two", headers=HEADERS).json()
        assert [run["status"] for run in session["executions"]] == ["running"]
        server.kill()
    with dev(database) as server:
        resume = {
            "executionId": pause["executionId"],
            "pausedAtStep": pause["pausedAtStep"],
            "toolCallMessages": answered(pause),
        }
        assert execute(server, resume).json()["status"] == "completed"
        assert httpx.get(f"{server.api}/seq/sessions/other", headers=HEADERS).status_code == 404


@pytest.fixture
def anyio_backend() -> str:
    """The database drivers are asyncio's."""
    return "asyncio"


@pytest.mark.anyio
async def test_one_at_a_time_within_a_process_too(database: str) -> None:
    url = Settings(database).database_url
    first = await open_database(url)
    with pytest.raises(DatabaseInUseError, match=rf"noukai \(process {os.getpid()} on"):
        await open_database(url)
    await first.aclose()
    await (await open_database(url)).aclose()


@pytest.mark.anyio
async def test_claim_without_a_readable_holder_names_another_backend(tmp_path: Path) -> None:
    url = Settings(tmp_path / "a.db").database_url
    first = await open_database(url)
    (tmp_path / "a.db.holder").unlink()
    with pytest.raises(DatabaseInUseError, match="another backend works on it"):
        await open_database(url)
    await first.aclose()


@pytest.mark.anyio
async def test_the_same_file_by_another_name(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    first = await open_database(Settings(tmp_path / "a.db").database_url)
    with pytest.raises(DatabaseInUseError):
        await open_database(Settings(tmp_path / "link.db").database_url)
    await first.aclose()


@pytest.mark.anyio
async def test_another_module_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    with pytest.raises(ModuleNotFoundError, match="aiosqlite"):
        await open_database(Settings(tmp_path / "a.db").database_url)


def test_a_driver_that_is_missing_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "sys.argv = ['noukai', 'dev', '--port', '0', '--db', 'postgresql://localhost/d']\n"
        "from noukai_sdk.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs asyncpg: pip install 'noukai-sdk[postgres]'" in ended.stderr
    assert "Traceback" not in ended.stderr
