"""A database that is locked, full, read-only or gone for a while: 503 meanwhile, and nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from noukai_sdk.backend.store.database import outages
from noukai_sdk.cli.commands import noukai
from tests.support.servers import wait_until

from .conftest import Backend, serving
from .streams import WEATHER, answered, lines, step
from .test_bad_input import code_of

HELLO = "samples/hello-world"
UNAVAILABLE = (503, "STORE_UNAVAILABLE")
MESSAGE = {"message": "hello"}
CLOSE = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend over SQLite that gives up soon, and tries again soon."""
    monkeypatch.setattr("noukai_sdk.backend.store.database._BUSY_MS", 20)
    monkeypatch.setattr("noukai_sdk.backend.store.writer._RETRY_INTERVAL", 0.02)
    with serving(tmp_path) as backend:
        yield backend


@contextmanager
def locked(backend: Backend) -> Iterator[None]:
    """Another process writes to the database, and takes its time."""
    with closing(sqlite3.connect(str(backend.settings.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def stored(backend: Backend, session: str, status: str) -> dict[str, Any]:
    """The one run of a session, once it stands there like that."""

    def look() -> dict[str, Any] | None:
        response = backend.get(f"/seq/sessions/{session}")
        runs = response.json()["executions"] if response.status_code == 200 else []
        return runs[0] if [run["status"] for run in runs] == [status] else None

    return wait_until(look, what=f"{session} is {status}")  # type: ignore[return-value]  # it waits


def test_a_run_whose_outcome_cannot_be_stored_is_stored_later(
    impatient: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(impatient):
        answer = impatient.post(f"{HELLO}/execute", MESSAGE, **{"X-Session-Id": "late"})
        assert code_of(answer) == UNAVAILABLE
        assert "database is locked" in answer.json()["detail"]["message"]
        # What cannot be stored is not begun, and pays for no model.
        for verb in ("execute", "step", "jobs"):
            assert code_of(impatient.post(f"{HELLO}/{verb}", MESSAGE)) == UNAVAILABLE
        assert impatient.stats() == {"modelCalls": 1, "executions": 1}
    run = stored(impatient, "late", "completed")
    assert run["executionId"] == answer.json()["detail"]["executionId"]
    assert run["events"][-1]["eventType"] == "flow_completed"
    assert [s["status"] for s in run["steps"]] == ["completed"]
    wait_until(lambda: "the database can be written again" in caplog.text)
    assert impatient.post(f"{HELLO}/execute", MESSAGE).status_code == 200


def test_a_pause_that_cannot_be_stored_goes_on_later(impatient: Backend) -> None:
    body = {"message": "Paris?", "tools": WEATHER}
    pause = impatient.post("samples/weather/execute", body, **{"X-Session-Id": "p"}).json()
    resume = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "toolCallMessages": answered(pause),
    }
    with locked(impatient):
        assert code_of(impatient.post("samples/weather/execute", resume)) == UNAVAILABLE
        assert code_of(impatient.post("samples/weather/execute", resume)) == UNAVAILABLE
    run = stored(impatient, "p", "completed")
    assert run["toolRounds"][0]["toolResults"] == answered(pause)[-1:]


def test_a_job_that_cannot_be_stored_is_not_begun(impatient: Backend) -> None:
    with locked(impatient):
        job = impatient.post(f"{HELLO}/jobs", MESSAGE, **{"X-Session-Id": "job"})
        assert code_of(job) == UNAVAILABLE
    assert stored(impatient, "job", "failed")["errorAtStep"] is None
    assert impatient.stats()["modelCalls"] == 0


def test_a_live_trace_ends_with_a_run_that_cannot_be_stored(impatient: Backend) -> None:
    job = impatient.post("tests/gated/jobs", MESSAGE).json()["executionId"]
    wait_until(impatient.fakes.reached.is_set)
    path = f"/seq/acme/tests/gated/runs/{job}/trace/stream"
    with impatient.client.stream("GET", path) as live:
        events = lines(live)
        assert next(events)["eventType"] == "run_started"
        with locked(impatient):
            impatient.fakes.opened.set()
            assert [e["eventType"] for e in events][-1] == "step_completed"
    poll = f"/seq/acme/tests/gated/jobs/{job}"
    wait_until(lambda: impatient.get(poll).json()["status"] == "completed")


def test_a_full_disk(impatient: Backend) -> None:
    engine: AsyncEngine = impatient.service.store._engine
    full = True

    @event.listens_for(engine.sync_engine, "checkout")
    def limit(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={1 if full else 1_000_000}")
        cursor.close()

    large = {"message": "x" * 300_000}
    answer = impatient.post(f"{HELLO}/execute", large, **{"X-Session-Id": "full"})
    assert code_of(answer) == UNAVAILABLE
    assert "database or disk is full" in answer.json()["detail"]["message"]
    full = False
    assert stored(impatient, "full", "completed")["call"]["request"] == large


def test_what_is_still_unwritten_at_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.database._BUSY_MS", 20)
    with serving(tmp_path) as backend:
        other = sqlite3.connect(str(backend.settings.database), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert code_of(backend.post(f"{HELLO}/execute", MESSAGE)) == UNAVAILABLE
    other.close()
    assert "1 runs could not be stored and are lost" in caplog.text


def test_a_table_that_is_gone(impatient: Backend) -> None:
    with closing(sqlite3.connect(str(impatient.settings.database))) as other:
        other.execute("ALTER TABLE events RENAME TO elsewhere")
    assert code_of(impatient.get("/seq/sessions/any")) == (404, "SESSION_NOT_FOUND")
    answer = impatient.post(f"{HELLO}/execute", MESSAGE, **{"X-Session-Id": "back"})
    assert code_of(answer) == UNAVAILABLE
    with closing(sqlite3.connect(str(impatient.settings.database))) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO events")
    run = stored(impatient, "back", "completed")["executionId"]
    with closing(sqlite3.connect(str(impatient.settings.database))) as other:
        other.execute("ALTER TABLE executions RENAME TO elsewhere")
    for path in ("/seq/sessions/back", f"/seq/acme/{HELLO}/runs/{run}/trace"):
        assert code_of(impatient.get(path)) == UNAVAILABLE
    assert code_of(impatient.post(f"{HELLO}/step", {"executionId": run})) == UNAVAILABLE


def test_a_database_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    with serving(tmp_path) as backend:
        url = f"sqlite:///file:{backend.settings.database}?mode=ro&uri=true"
    ended = CliRunner().invoke(noukai, ["dev", "--port", "0", "--db", url])
    assert ended.exit_code == 1
    assert "attempt to write a readonly database" in ended.stderr


def close_all(url: URL) -> None:
    """End every connection to the database, as a Postgres does that is started anew."""

    async def close() -> None:
        engine = create_async_engine(url.set(database="postgres"))
        async with engine.connect() as connection:
            ended = await connection.execute(CLOSE, {"name": url.database})
            assert ended.scalars().all()
        await engine.dispose()

    asyncio.run(close())


def test_connections_that_postgres_closed_are_made_anew(
    tmp_path: Path, new_database: Callable[[], URL]
) -> None:
    url = new_database()
    with serving(tmp_path, database=url.render_as_string(hide_password=False)) as backend:
        headers = {"X-Session-Id": "cut"}
        run = step(backend, "tests/three", MESSAGE, **headers)[0]["executionId"]
        close_all(url)
        body = {"executionId": run, "stepIndex": 1, "runRemaining": True}
        assert step(backend, "tests/three", body)[-1]["eventType"] == "flow_completed"
        assert backend.session("cut")[0]["status"] == "completed"


def test_a_mistake_of_ours_is_no_outage() -> None:
    with pytest.raises(ValueError, match="a bug"), outages():
        raise ValueError("a bug")
