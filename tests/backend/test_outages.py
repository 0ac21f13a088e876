"""A database that is locked, full, read-only or gone: calls get 503 meanwhile, and nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from noukai_sdk.backend.store.database import StoreUnavailableError, outages
from noukai_sdk.backend.store.store import Store
from noukai_sdk.cli.commands import noukai
from tests.support.servers import wait_until

from .backends import ASKS_WEATHER, Backend, answered, code_of, lines, resume_body, serving

HELLO = "samples/hello-world"
UNAVAILABLE = (503, "STORE_UNAVAILABLE")
MESSAGE = {"message": "hello"}
CLOSE = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend over SQLite with a short busy timeout and a short retry interval."""
    monkeypatch.setattr("noukai_sdk.backend.store.database._BUSY_MS", 20)
    for module in ("store.writer", "runs", "jobs.job_runner"):
        monkeypatch.setattr(f"noukai_sdk.backend.{module}._RETRY_INTERVAL", 0.02)
    with serving(tmp_path) as backend:
        yield backend


@contextmanager
def locked(backend: Backend) -> Iterator[None]:
    """Hold the write lock of the database, as another process does."""
    with closing(sqlite3.connect(str(backend.settings.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def stored_run(backend: Backend, session: str, status: str) -> dict[str, Any]:
    """Return the one run of a session, when it has this status."""

    def look() -> dict[str, Any] | None:
        response = backend.get(f"/seq/sessions/{session}")
        runs = response.json()["executions"] if response.status_code == 200 else []
        return runs[0] if [run["status"] for run in runs] == [status] else None

    return wait_until(look, what=f"{session} is {status}") or {}


def test_outage_at_the_end_of_a_run_stores_it_later(
    impatient: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(impatient):
        response = impatient.post(f"{HELLO}/execute", MESSAGE, "late")
        assert code_of(response) == UNAVAILABLE
        assert "database is locked" in response.json()["detail"]["message"]
        # A run that cannot be stored does not begin, and calls no model.
        for verb in ("execute", "step", "jobs"):
            assert code_of(impatient.post(f"{HELLO}/{verb}", MESSAGE)) == UNAVAILABLE
        assert impatient.stats() == {"modelCalls": 1, "executions": 1}
    run = stored_run(impatient, "late", "completed")
    assert run["executionId"] == response.json()["detail"]["executionId"]
    assert run["events"][-1]["eventType"] == "flow_completed"
    assert [s["status"] for s in run["steps"]] == ["completed"]
    wait_until(lambda: "the database can be written again" in caplog.text)
    assert impatient.post(f"{HELLO}/execute", MESSAGE).status_code == 200


def test_repeated_call_after_a_lost_commit_begins_or_finds_the_run(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = Store.insert_checked
    key = {"Idempotency-Key": "k"}

    async def insert_and_break(self: Store, item: Any, check: Any) -> None:
        await insert(self, item, check)
        raise StoreUnavailableError(OSError("the connection is closed"))

    with monkeypatch.context() as broken:
        broken.setattr(Store, "insert_checked", insert_and_break)
        refused = fresh.post(f"{HELLO}/execute", MESSAGE, **key)
        unsure = fresh.post(f"{HELLO}/jobs", MESSAGE, **key)
    assert code_of(refused) == code_of(unsure) == UNAVAILABLE
    assert "the run did not begin" in refused.text
    assert "look whether it exists" in unsure.text

    def executed() -> httpx.Response | None:
        response = fresh.post(f"{HELLO}/execute", MESSAGE, **key)
        assert response.status_code in (200, 409), response.text
        return response if response.status_code == 200 else None

    run = wait_until(executed, what="the run") or refused
    assert run.json()["executionId"] != refused.json()["detail"]["executionId"]
    job = fresh.post(f"{HELLO}/jobs", MESSAGE, **key).json()["executionId"]
    assert job == unsure.json()["detail"]["executionId"]


def test_outage_at_a_resume_leaves_the_run_paused(impatient: Backend) -> None:
    pause = impatient.post("samples/weather/execute", ASKS_WEATHER, "p").json()
    resume = resume_body(pause)
    with locked(impatient):
        assert code_of(impatient.post("samples/weather/execute", resume)) == UNAVAILABLE
        assert code_of(impatient.post("samples/weather/execute", resume)) == UNAVAILABLE
    assert impatient.stats()["modelCalls"] == 1
    assert impatient.post("samples/weather/execute", resume).json()["status"] == "completed"
    run = stored_run(impatient, "p", "completed")
    assert run["toolRounds"][0]["toolResults"] == answered(pause)[-1:]


def test_outage_at_a_job_submission_does_not_run_it(impatient: Backend) -> None:
    with locked(impatient):
        response = impatient.post(f"{HELLO}/jobs", MESSAGE, "job")
        assert code_of(response) == UNAVAILABLE
    assert stored_run(impatient, "job", "failed")["errorAtStep"] is None
    assert impatient.stats()["modelCalls"] == 0


def test_outage_at_the_end_of_a_job_delays_its_live_trace(impatient: Backend) -> None:
    job = impatient.submit("tests/gated")
    wait_until(impatient.fakes.reached.is_set)
    path = f"/seq/acme/tests/gated/runs/{job}/trace/stream"
    with impatient.client.stream("GET", path) as live:
        events = lines(live)
        assert next(events)["eventType"] == "run_started"
        with locked(impatient):
            impatient.fakes.opened.set()
            assert next(e for e in events if e["eventType"] == "step_output")
        assert [e["eventType"] for e in events][-1] == "flow_completed"
    poll = f"/seq/acme/tests/gated/jobs/{job}"
    wait_until(lambda: impatient.get(poll).json()["status"] == "completed")


def test_outage_full_disk_stores_the_run_later(impatient: Backend) -> None:
    engine = impatient.service.store._database._thread._engine
    full = True

    @event.listens_for(engine, "checkout")
    def limit(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={1 if full else 1_000_000}")
        cursor.close()

    large = {"message": "x" * 300_000}
    response = impatient.post(f"{HELLO}/execute", large, "full")
    assert code_of(response) == UNAVAILABLE
    assert "database or disk is full" in response.json()["detail"]["message"]
    full = False
    assert stored_run(impatient, "full", "completed")["call"]["request"] == large


def test_outage_until_the_backend_stops_logs_lost_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.database._BUSY_MS", 20)
    with serving(tmp_path) as backend:
        other = sqlite3.connect(str(backend.settings.database), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert code_of(backend.post(f"{HELLO}/execute", MESSAGE)) == UNAVAILABLE
    other.close()
    assert "1 runs could not be stored and are lost" in caplog.text


def test_outage_missing_table_is_503_until_it_is_back(impatient: Backend) -> None:
    with closing(sqlite3.connect(str(impatient.settings.database))) as other:
        other.execute("ALTER TABLE events RENAME TO elsewhere")
    assert code_of(impatient.get("/seq/sessions/any")) == (404, "SESSION_NOT_FOUND")
    response = impatient.post(f"{HELLO}/execute", MESSAGE, "back")
    assert code_of(response) == UNAVAILABLE
    with closing(sqlite3.connect(str(impatient.settings.database))) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO events")
    run = stored_run(impatient, "back", "completed")["executionId"]
    with closing(sqlite3.connect(str(impatient.settings.database))) as other:
        other.execute("ALTER TABLE executions RENAME TO elsewhere")
    for path in ("/seq/sessions/back", f"/seq/acme/{HELLO}/runs/{run}/trace"):
        assert code_of(impatient.get(path)) == UNAVAILABLE
    assert code_of(impatient.post(f"{HELLO}/step", {"executionId": run})) == UNAVAILABLE


def test_dev_database_that_cannot_be_opened_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as backend:
        url = f"sqlite:///file:{backend.settings.database}?mode=ro&uri=true"
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for database, message in [
        (url, "attempt to write a readonly database"),
        ("postgresql://localhost/d", "needs asyncpg: pip install asyncpg"),
    ]:
        ended = CliRunner().invoke(noukai, ["dev", "--port", "0", "--db", database])
        assert ended.exit_code == 2
        assert message in ended.stderr


def close_all(url: URL) -> None:
    """End every connection to the database, as a restart of Postgres does."""

    async def close() -> None:
        engine = create_async_engine(url.set(database="postgres"))
        async with engine.connect() as connection:
            ended = await connection.execute(CLOSE, {"name": url.database})
            assert ended.scalars().all()
        await engine.dispose()

    asyncio.run(close())


def test_postgres_closed_connections_are_replaced(
    tmp_path: Path, new_database: Callable[[], URL]
) -> None:
    url = new_database()
    with serving(tmp_path, database=url.render_as_string(hide_password=False)) as backend:
        run = backend.step("tests/three", MESSAGE, "cut")[0]["executionId"]
        close_all(url)
        body = {"executionId": run, "stepIndex": 1, "runRemaining": True}
        assert backend.step("tests/three", body)[-1]["eventType"] == "flow_completed"
        assert backend.session("cut")[0]["status"] == "completed"


def test_outages_other_error_is_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="a bug"), outages():
        raise ValueError("a bug")
