"""The database and its writer: migrations, batches, errors; and the values of its columns."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Connection, create_engine, insert, inspect, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from noukai_sdk.backend.encoding import Clock, encode, from_column, iso, to_column
from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store import database as database_module
from noukai_sdk.backend.store.database import (
    ForeignDatabaseError,
    StoreUnavailableError,
    configuration,
    migrate,
    open_database,
)
from noukai_sdk.backend.store.store import Store
from noukai_sdk.backend.store.tables import executions, metadata, sessions
from noukai_sdk.backend.store.writer import Changes
from tests.support.servers import wait_until

from .backends import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(database: str) -> URL:
    """The URL of an empty database, of each kind."""
    return Settings(database).database_url


async def test_migrations_up_and_down_match_the_tables(url: URL) -> None:
    def up_and_down(connection: Connection) -> None:
        migrate(connection)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrate(connection)
        command.downgrade(configuration(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(up_and_down)
    await engine.dispose()


async def test_migration_of_an_old_database_lists_sessions_and_ends_runs(url: URL) -> None:
    runs = [("a", "x", "one", 5), ("b", "x", "one", 3), ("c", "y", "one", 4), ("d", "y", None, 1)]

    def upgrade(connection: Connection) -> list[Any]:
        migrate(connection, "0001")
        for run, org, session, started_at in runs:
            row = changes(Item(run, "paused" if run == "c" else "running")).executions[0]
            row |= {"org": org, "session_id": session, "started_at": started_at}
            connection.execute(insert(executions).values(row))
        migrate(connection)
        # Nobody owns a run of then, so nobody would go on with it.
        states = connection.execute(select(executions.c.id, executions.c.status))
        assert {row.id: row.status for row in states} == {
            "a": "failed",
            "b": "failed",
            "c": "paused",
            "d": "failed",
        }
        rows = connection.execute(select(sessions).order_by(sessions.c.org))
        return [tuple(row) for row in rows]

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        expected = [("one", "", 3, False), ("one", "x", 3, False), ("one", "y", 4, False)]
        assert await connection.run_sync(upgrade) == expected
    await engine.dispose()


def test_migrations_folder_with_a_percent_sign_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic's configuration interpolates %."""
    odd = tmp_path / "100% mine"
    odd.symlink_to(database_module._MIGRATIONS)
    monkeypatch.setattr(database_module, "_MIGRATIONS", odd)
    engine = create_engine(f"sqlite:///{tmp_path}/m.db")
    with engine.begin() as connection:
        migrate(connection)
        assert "executions" in inspect(connection).get_table_names()
    engine.dispose()


async def test_open_database_foreign_tables_are_rejected(url: URL) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('9999')"))
    await engine.dispose()
    with pytest.raises(ForeignDatabaseError, match=r"of a newer noukai: .*9999"):
        await open_database(url)


async def test_open_database_sqlite_uses_wal_and_rejects_other_files(tmp_path: Path) -> None:
    database = await open_database(Settings(tmp_path / "m.db").database_url)
    await database.aclose()
    connection = sqlite3.connect(tmp_path / "m.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to look at " * 10)
    with pytest.raises(DatabaseError, match="file is not a database"):
        await open_database(Settings(path).database_url)


@dataclass
class Item:
    """An item to save."""

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


@asynccontextmanager
async def opened(url: URL, to_changes: Any = changes) -> AsyncIterator[Store]:
    store = await Store.open(url, to_changes)
    try:
        yield store
    finally:
        await store.aclose()


async def status_of(store: Store, item_id: str) -> str | None:
    row = await store.execution(item_id)
    return None if row is None else row["status"]


async def test_save_twice_before_a_commit_writes_the_last_state_once(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.writer._LINGER", 60)
    written: list[Item] = []

    def counted(item: Item) -> Changes:
        written.append(item)
        return changes(item)

    async with opened(url, counted) as store:
        item, other = Item("a"), Item("b")
        store.save(item)
        store.save(other)
        item.status = "paused"
        await store.save(item).committed()
        # Nobody waits for the other one, so it waits for its next save.
        assert written == [item]
        await store.flush()
        assert written == [item, other]
        assert await status_of(store, "a") == "paused"
        item.status, item.events = "failed", 1
        await store.save(item).committed()
        assert await status_of(store, "a") == "failed"
        assert [r["first"] for r in (await store.events(["a"]))["a"]] == [0, 1]


async def test_save_item_is_found_at_once_and_after_a_reopening(url: URL) -> None:
    async with opened(url) as store:
        for number in range(20):
            store.save(Item(f"early {number}"))
            # The writer is now writing the item, or has not started.
            await asyncio.sleep(0)
            store.save(Item(f"late {number}"))
            assert await store.execution(f"early {number}") is not None
            assert await store.execution(f"late {number}") is not None
        store.save(Item("last"))
    async with opened(url) as store:
        assert await store.execution("last") is not None


async def test_save_item_that_cannot_be_written_fails_alone(
    url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    def picky(item: Item) -> Changes:
        if item.id == "no row":
            raise TypeError("cannot be converted")
        return changes(item)

    async with opened(url, picky) as store:
        await store.save(Item("a")).committed()
        bad = store.save(Item("a", status=None))
        worse, good = store.save(Item("no row")), store.save(Item("b"))
        await good.committed()
        with pytest.raises(IntegrityError):
            await bad.committed()
        with pytest.raises(TypeError, match="cannot be converted"):
            await worse.committed()
        assert await status_of(store, "a") == await status_of(store, "b") == "running"
        assert "cannot store the run a" in caplog.text
        store.raise_if_unavailable()


async def test_committed_cancelled_waiter_does_not_disturb_another(url: URL) -> None:
    async with opened(url) as store:
        saving = store.save(Item("a"))
        waiters = [asyncio.ensure_future(saving.committed()) for _ in range(2)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        await waiters[1]
        assert waiters[0].cancelled()


async def test_events_of_more_runs_than_one_statement_takes(url: URL) -> None:
    async with opened(url) as store:
        names = [f"run-{number}" for number in range(1200)]
        for name in names:
            store.save(Item(name))
        rows = await store.events(names)
        assert list(rows) == names
        assert all(len(of_run) == 1 for of_run in rows.values())


async def test_outage_in_a_batch_keeps_its_unwritten_items(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.writer._RETRY_INTERVAL", 0.01)
    async with opened(url) as store:
        await store.save(Item("a")).committed()
        calls = []
        put = store._writer.put

        def failing(connection: Any, rows: Any) -> set[str]:
            calls.append(rows)
            if len(calls) == 3:
                raise OSError("the network is down")
            refused: set[str] = put(connection, rows)
            return refused

        monkeypatch.setattr(store._writer, "put", failing)
        # Both in one transaction, then a alone, then b alone.
        bad, good = store.save(Item("a", status=None)), store.save(Item("b"))
        errors = await asyncio.gather(bad.committed(), good.committed(), return_exceptions=True)
        assert isinstance(errors[0], IntegrityError)
        assert isinstance(errors[1], StoreUnavailableError)
        assert "the network is down" in str(errors[1])
        assert errors[1].execution_id == "b"
        with pytest.raises(StoreUnavailableError):
            store.raise_if_unavailable()
        while await store.execution("b") is None:
            await asyncio.sleep(0.01)
        store.raise_if_unavailable()


async def test_outage_with_two_saves_of_an_item_keeps_the_events_of_both(
    url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.writer._RETRY_INTERVAL", 0.01)

    def down(*_: Any) -> None:
        raise OSError("the network is down")

    async with opened(url) as store:
        with monkeypatch.context() as outage:
            outage.setattr(store._writer, "put", down)
            item = Item("a")
            for item.events, item.status in enumerate(["running", "completed"]):
                with pytest.raises(StoreUnavailableError):
                    await store.save(item).committed()
        while await store.execution("a") is None:
            await asyncio.sleep(0.01)
        assert await status_of(store, "a") == "completed"
        assert [r["first"] for r in (await store.events(["a"]))["a"]] == [0, 1]


def test_sweep_error_is_logged_and_the_next_sweep_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.service._SWEEP_INTERVAL", 0.001)
    sweeps: list[str] = []
    runs_in = Store.runs_in

    async def fail_once(self: Store, statuses: Any, **more: Any) -> list[Any]:
        if statuses == ["paused"]:
            sweeps.append("begun")
            if len(sweeps) == 1:
                raise OSError("disk full")
        return await runs_in(self, statuses, **more)

    monkeypatch.setattr(Store, "runs_in", fail_once)
    with serving(tmp_path):
        wait_until(lambda: len(sweeps) > 2)
    assert "the sweep failed" in caplog.text


def test_clock_only_goes_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    now = clock.now()
    monkeypatch.setattr("time.time_ns", lambda: (now - 5_000_000) * 1000)
    assert [clock.now(), clock.now()] == [now + 1, now + 2]
    monkeypatch.setattr("time.time_ns", lambda: (now + 5_000_000) * 1000)
    assert clock.now() == now + 5_000_000
    assert iso(None) is None


def test_encode_values_without_a_json_form_are_replaced() -> None:
    assert encode({"a": float("nan"), "b": "ü"}) == '{"a":null,"b":"ü"}'.encode()
    assert encode(["half a pair: \ud800"]) == b'["half a pair: ?"]'
    assert [from_column(to_column(value)) for value in (None, [1])] == [None, [1]]
