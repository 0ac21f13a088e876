"""Deleting expired data: in batches, without holding writers up, and giving space back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import URL, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store import retention
from noukai_sdk.backend.store.store import Store
from noukai_sdk.backend.store.tables import executions, sessions, steps

from .test_store import opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(database: str) -> URL:
    """The URL of an empty database, of each kind."""
    return Settings(database).database_url


async def put_runs(url: URL, count: int, *, pinned: bool = False, size: int = 10_000) -> None:
    """Store runs of one step that began at 1, 2, 3..., each in a session of its own."""
    run = {"org": "o", "project": "p", "slug": "s", "flow_id": "f", "block_count": 1, "result": "1"}
    run |= {"trigger": "execute", "status": "completed", "capture_mode": "full", "updated_at": 1}
    step = {"number": 0, "step_id": "one", "attempt": 1, "status": "completed", "truncated": False}
    numbers = range(1, count + 1)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for table, rows in (
            (executions, [{**run, "id": f"e{n}", "session_id": f"s{n}"} for n in numbers]),
            (steps, [{**step, "execution_id": f"e{n}", "output": "x" * size} for n in numbers]),
            (sessions, [{"session_id": f"s{n}", "org": "o", "pinned": pinned} for n in numbers]),
        ):
            await connection.execute(
                insert(table),
                [{**row, "started_at": n} for n, row in zip(numbers, rows, strict=True)],
            )
    await engine.dispose()


async def steps_left(url: URL) -> int:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        count = (await connection.execute(select(func.count()).select_from(steps))).scalar_one()
    await engine.dispose()
    return int(count)


async def writers_during(store: Store, before: int) -> int:
    """Delete old data; return how often a writer had its turn meanwhile."""
    sweep = asyncio.create_task(store.retention.delete_data(before))
    turns = 0
    while not sweep.done():
        async with store._writer.lock:
            turns += 1
        await asyncio.sleep(0)
    await sweep
    return turns


async def test_retention_deletes_old_data_in_batches_between_writers(url: URL) -> None:
    async with opened(url) as store:
        await put_runs(url, 300)
        assert await writers_during(store, before=201) > 3
        assert await steps_left(url) == 100
        assert (await store.sessions.state("s200", "o")).is_deleted is True
        assert (await store.sessions.state("s201", "o")).is_deleted is False
        row = await store.execution("e200")
        assert row is not None
        assert (row["status"], row["result"]) == ("completed", None)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_retention_on_busy_postgres_takes_few_batches_without_reading_all_sessions(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[str] = []

    async def note_deleted(connection: AsyncConnection, *_: object) -> None:
        plan = await connection.exec_driver_sql(
            "EXPLAIN SELECT 1 FROM executions e WHERE NOT EXISTS (SELECT 1 FROM sessions s WHERE"
            " s.session_id = e.session_id AND s.pinned) ORDER BY started_at LIMIT 50"
        )
        plans.append("\n".join(plan.scalars()))

    monkeypatch.setattr(retention, "mark_deleted", note_deleted)
    # Every batch takes long.
    monkeypatch.setattr(retention, "_LONG", 0.0)
    monkeypatch.setattr(retention, "_SHORT", 0.0)
    async with opened(url) as store:
        await put_runs(url, 2000, size=1)
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.exec_driver_sql("ANALYZE")
        await engine.dispose()
        await store.retention.delete_data(501)
        assert await steps_left(url) == 1500
    assert len(plans) <= 500 // 50 + 1
    assert "Seq Scan on sessions" not in plans[0]


async def test_retention_keeps_the_data_of_runs_that_have_not_ended(url: URL) -> None:
    async with opened(url) as store:
        await put_runs(url, 3)
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            paused = update(executions).where(executions.c.id == "e2").values(status="paused")
            await connection.execute(paused)
        await engine.dispose()
        await store.retention.delete_data(10)
        assert await steps_left(url) == 1
        assert len((await store.steps(["e2"]))["e2"]) == 1


async def test_retention_keeps_pinned_sessions(url: URL) -> None:
    async with opened(url) as store:
        await put_runs(url, 30, pinned=True)
        await store.retention.delete_data(1000)
        assert await steps_left(url) == 30


async def test_retention_gives_space_back_to_the_file_system(tmp_path: Path) -> None:
    url = Settings(tmp_path / "n.db").database_url
    async with opened(url) as store:
        await put_runs(url, 200, size=50_000)
        await store.retention.delete_data(1000)
    assert (tmp_path / "n.db").stat().st_size < 1_000_000


async def test_retention_by_size_deletes_the_oldest(tmp_path: Path) -> None:
    url = Settings(tmp_path / "n.db").database_url
    async with opened(url) as store:
        await put_runs(url, 100, size=50_000)
        await store.retention.keep_size(3_000_000)
        left = await steps_left(url)
        assert 0 < left < 60
        assert (await store.sessions.state("s100", "o")).is_deleted is False
        await store.retention.keep_size(
            1
        )  # less than the tables need: everything goes, and it ends
        assert await steps_left(url) == 0


def test_retention_by_size_on_postgres_is_rejected() -> None:
    with pytest.raises(ValueError, match="use retention_days"):
        Settings("postgresql://user@localhost/db", retention_bytes=1)
