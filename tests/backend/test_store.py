"""The database: migrations, the writer, what a crash leaves."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Connection, create_engine, inspect, text
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from noukai_sdk.backend.encoding import Clock, encode, from_column, iso, to_column
from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.database import (
    ForeignDatabaseError,
    StoreUnavailableError,
    configuration,
    migrate,
    open_database,
)
from noukai_sdk.backend.store.store import Store
from noukai_sdk.backend.store.tables import metadata
from noukai_sdk.backend.store.writer import Changes

from .conftest import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The database drivers are asyncio's."""
    return "asyncio"


@pytest.fixture
def url(database: str) -> URL:
    """An empty database of each kind."""
    return Settings(database).database_url


async def test_the_migrations_make_the_tables(url: URL) -> None:
    def there_and_back(connection: Connection) -> None:
        migrate(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrate(connection)
        command.downgrade(configuration(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(there_and_back)
    await engine.dispose()


def test_migrations_work_below_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alembic's configuration takes % for its own."""
    from noukai_sdk.backend.store import database

    odd = tmp_path / "100% mine"
    odd.symlink_to(database._MIGRATIONS)
    monkeypatch.setattr(database, "_MIGRATIONS", odd)
    engine = create_engine(f"sqlite:///{tmp_path}/m.db")
    with engine.begin() as connection:
        migrate(connection)
        assert "executions" in inspect(connection).get_table_names()
    engine.dispose()


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look at " * 10)
    with pytest.raises(DatabaseError, match="file is not a database"):
        await open_database(Settings(path).database_url)


async def test_tables_that_are_not_ours_are_refused(url: URL) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
    await engine.dispose()
    with pytest.raises(ForeignDatabaseError, match=r"of a newer noukai: .*9999"):
        await open_database(url)


async def test_sqlite_keeps_a_log_that_readers_do_not_wait_for(tmp_path: Path) -> None:
    database = await open_database(Settings(tmp_path / "m.db").database_url)
    await database.aclose()
    with sqlite3.connect(tmp_path / "m.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@dataclass
class Item:
    """Something to save."""

    id: str
    status: str | None = "running"
    events: int = 0


def changes(item: Item) -> Changes:
    names = ["version", "session_id", "completed_at", "error_at_step", "request"]
    empty = dict.fromkeys([*names, "tool_rounds", "result", "error", "state"])
    row = {
        **empty,
        "id": item.id,
        "org": "o",
        "project": "p",
        "slug": "s",
        "flow_id": "f",
        "block_count": 1,
        "trigger": "execute",
        "status": item.status,
        "capture_mode": "full",
        "started_at": 1,
        "updated_at": 1,
    }
    events = [{"execution_id": item.id, "first": item.events, "body": "[]"}]
    return Changes([row], [], events)


async def test_what_is_saved_twice_is_written_once_as_it_is_then(url: URL) -> None:
    written: list[Item] = []

    def counted(item: Item) -> Changes:
        written.append(item)
        return changes(item)

    store = await Store.open(url, counted)
    item, other = Item("a"), Item("b")
    store.save(item)
    store.save(other)
    item.status = "completed"
    await store.save(item).committed()
    assert written == [item, other]
    row = await store.execution("a")
    assert row is not None
    assert row["status"] == "completed"
    item.status, item.events = "failed", 1
    await store.save(item).committed()
    row = await store.execution("a")
    assert row is not None
    assert row["status"] == "failed"
    assert [r["first"] for r in (await store.events(["a"]))["a"]] == [0, 1]
    await store.aclose()


async def test_what_was_saved_is_found_at_once(url: URL) -> None:
    store = await Store.open(url, changes)
    for number in range(20):
        store.save(Item(f"early {number}"))
        # The writer may be at work on the one before, or not have begun.
        await asyncio.sleep(0)
        store.save(Item(f"late {number}"))
        assert await store.execution(f"early {number}") is not None
        assert await store.execution(f"late {number}") is not None
    await store.aclose()


async def test_what_is_saved_last_is_written_before_the_store_closes(url: URL) -> None:
    store = await Store.open(url, changes)
    store.save(Item("a"))
    await store.aclose()
    again = await Store.open(url, changes)
    assert await again.execution("a") is not None
    await again.aclose()


async def test_a_write_that_fails_is_told_and_the_writer_goes_on(
    url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    store = await Store.open(url, changes)
    item = Item("a")
    await store.save(item).committed()
    item.status = None
    waiting = store.save(item)
    with pytest.raises(IntegrityError):
        await waiting.committed()
    assert "cannot store the run a" in caplog.text
    await store.save(Item("b")).committed()
    assert await store.execution("b") is not None
    await store.aclose()


async def test_a_waiter_that_is_cancelled_disturbs_no_other(url: URL) -> None:
    store = await Store.open(url, changes)
    batch = store.save(Item("a"))
    waiters = [asyncio.ensure_future(batch.committed()) for _ in range(2)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await waiters[1]
    assert waiters[0].cancelled()
    await store.aclose()


async def test_more_runs_than_a_statement_takes(url: URL) -> None:
    store = await Store.open(url, changes)
    names = [f"run-{number}" for number in range(1200)]
    for name in names:
        store.save(Item(name))
    await store.save(Item("last")).committed()
    found = await store.events(names)
    assert list(found) == names
    assert all(len(rows) == 1 for rows in found.values())
    await store.aclose()


def test_times_only_go_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    now = clock.now()
    monkeypatch.setattr("time.time_ns", lambda: (now - 5_000_000) * 1000)
    assert [clock.now(), clock.now()] == [now + 1, now + 2]
    monkeypatch.setattr("time.time_ns", lambda: (now + 5_000_000) * 1000)
    assert clock.now() == now + 5_000_000
    assert iso(None) is None


def test_json() -> None:
    assert encode({"a": float("nan"), "b": "ü"}) == '{"a":null,"b":"ü"}'.encode()
    assert encode(["half a pair: \ud800"]) == b'["half a pair: ?"]'
    assert (to_column(None), from_column(None), from_column(to_column([1]))) == (None, None, [1])


def test_a_sweep_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.support.servers import wait_until

    monkeypatch.setattr("noukai_sdk.backend.service._SWEEP_INTERVAL", 0.001)
    failed: list[str] = []
    real = Store.end_runs

    async def end_runs(self: Store, statuses: Any, *values: Any, **more: Any) -> list[str]:
        if statuses == ["paused"] and not failed:
            failed.append("once")
            raise OSError("disk full")
        swept.append("again")
        return await real(self, statuses, *values, **more)

    swept: list[str] = []
    monkeypatch.setattr(Store, "end_runs", end_runs)
    with serving(tmp_path):
        wait_until(lambda: len(swept) > 2)
    assert "the sweep failed" in caplog.text


async def test_one_that_cannot_be_written_takes_no_other_with_it(
    url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    store = await Store.open(url, changes)
    await store.save(Item("a")).committed()
    bad, good = store.save(Item("a", status=None)), store.save(Item("b"))
    await good.committed()
    with pytest.raises(IntegrityError):
        await bad.committed()
    assert await store.execution("b") is not None
    assert "cannot store the run a" in caplog.text
    store.raise_if_unavailable()
    await store.aclose()


async def test_one_that_cannot_be_made_into_rows_takes_no_other_with_it(url: URL) -> None:
    def picky(item: Item) -> Changes:
        if item.id == "bad":
            raise TypeError("no row")
        return changes(item)

    store = await Store.open(url, picky)
    bad, good = store.save(Item("bad")), store.save(Item("good"))
    await good.committed()
    with pytest.raises(TypeError, match="no row"):
        await bad.committed()
    await store.aclose()


async def test_an_outage_in_the_middle_of_a_batch_keeps_what_is_left(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.writer._RETRY_INTERVAL", 0.01)
    store = await Store.open(url, changes)
    await store.save(Item("a")).committed()
    writer, calls = store._writer, []
    put = writer.put

    async def failing(connection: Any, rows: Any) -> None:
        calls.append(rows)
        if len(calls) == 3:
            raise OSError("the network is down")
        await put(connection, rows)

    monkeypatch.setattr(writer, "put", failing)
    # Together, then a alone, then b alone.
    bad, good = store.save(Item("a", status=None)), store.save(Item("b"))
    with pytest.raises(StoreUnavailableError, match="the network is down") as caught:
        await good.committed()
    assert caught.value.execution_id == "b"
    with pytest.raises(StoreUnavailableError):
        store.raise_if_unavailable()
    with pytest.raises(IntegrityError):
        await bad.committed()
    while await store.execution("b") is None:
        await asyncio.sleep(0.01)
    store.raise_if_unavailable()
    await store.aclose()


async def test_what_was_saved_twice_in_an_outage_is_all_there_after_it(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.writer._RETRY_INTERVAL", 0.01)
    store = await Store.open(url, changes)
    put = store._writer.put

    async def down(*_: Any) -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(store._writer, "put", down)
    item = Item("a")
    for item.events, item.status in enumerate(["running", "completed"]):
        with pytest.raises(StoreUnavailableError):
            await store.save(item).committed()
    monkeypatch.setattr(store._writer, "put", put)
    while (row := await store.execution("a")) is None:
        await asyncio.sleep(0.01)
    assert row["status"] == "completed"
    assert [r["first"] for r in (await store.events(["a"]))["a"]] == [0, 1]
    await store.aclose()
