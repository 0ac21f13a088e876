"""Owners of runs: what a former owner writes is refused; heartbeats say who has died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from noukai_sdk.backend.encoding import Clock
from noukai_sdk.backend.heartbeat import DEAD_AFTER, INTERVAL, DeathWatch, Heartbeat
from noukai_sdk.backend.session_bodies import ended_report, merge_reports
from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.database import StoreUnavailableError
from noukai_sdk.backend.store.store import Store
from noukai_sdk.backend.store.turns import Turns
from noukai_sdk.backend.store.writer import Changes, StaleOwnerError
from noukai_sdk.models.session_lists import SentReplay, StoredReport

from .test_store import Item, changes, status_of

pytestmark = pytest.mark.anyio


class Owned(Item):
    """A run with an epoch."""

    epoch = 1
    strikes = 0
    trigger = "execute"
    completed_at: int | None = None


def owned_changes(item: Owned) -> Changes:
    written = changes(item)
    written.executions[0] |= {
        "epoch": item.epoch,
        "completed_at": item.completed_at,
        "trigger": item.trigger,
        "strikes": item.strikes,
    }
    return written


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    opened = await Store.open(Settings(database).database_url, owned_changes)
    yield opened
    await opened.aclose()


async def test_former_owner_is_refused_with_all_its_rows(store: Store) -> None:
    run, other = Owned("a"), Owned("b")
    await store.save(run).committed()
    row: Any = await store.execution("a")
    assert await store.take(row, "second", 5) == 2
    # Of two that have read the same row, one takes it.
    assert await store.take(row, "third", 6) is None
    run.events = 7
    late, good = store.save(run), store.save(other)
    with pytest.raises(StaleOwnerError):
        await late.committed()
    await good.committed()
    assert [chunk["first"] for chunk in (await store.events(["a"]))["a"]] == [0]
    row = await store.execution("a")
    assert (row["owner"], row["epoch"], row["status"]) == ("second", 2, "running")
    run.epoch = 2
    await store.save(run).committed()


async def test_final_state_never_changes(store: Store) -> None:
    run = Owned("a")
    run.status, run.completed_at = "completed", 9
    await store.save(run).committed()
    # A commit whose response was lost is tried again.
    await store.save(run).committed()
    for run.status, run.completed_at in [("failed", 9), ("running", None), ("completed", 10)]:
        with pytest.raises(StaleOwnerError):
            await store.save(run).committed()
    row: Any = await store.execution("a")
    assert await store.take(row, "second", 5) is None
    assert await store.change([row], lambda row: Changes([{**row, "status": "failed"}])) == []
    assert await status_of(store, "a") == "completed"


async def test_jobs_of_a_moment_are_taken_once_each(store: Store) -> None:
    for name, trigger in [("a", "job"), ("b", "job"), ("c", "execute"), ("struck", "job")]:
        run = Owned(name, "pending")
        run.trigger, run.strikes = trigger, 2 if name == "struck" else 0
        await store.save(run).committed()
    names = ["a", "b", "c", "struck", "unknown"]
    taken = await store.take_jobs(names, "me", 5, 2)
    assert {row["id"]: (row["owner"], row["epoch"]) for row in taken} == {
        "a": ("me", 2),
        "b": ("me", 2),
    }
    assert await store.take_jobs(names, "another", 6, 2) == []


def test_death_watch_finds_a_heart_that_stands_still() -> None:
    watch, now = DeathWatch(), 1000.0
    beats = {"alive": 0, "set back": 10**9, "dead": 5}
    for look in range(int(DEAD_AFTER / INTERVAL)):
        assert watch.look(beats, now) == set()
        # Clocks can be set back: a heartbeat that changes is alive.
        beats = {**beats, "alive": look + 1, "set back": beats["set back"] - 10**6}
        now += INTERVAL
    assert watch.look(beats, now) == {"dead"}


def test_death_watch_outage_of_a_minute_kills_nobody() -> None:
    watch = DeathWatch()
    assert watch.look({"other": 5}, 1000.0) == set()
    # Nobody could look, and nobody could beat.
    assert watch.look({"other": 5}, 1060.0) == set()
    assert watch.look({"other": 6}, 1062.0) == set()
    assert watch.look({}, 1064.0) == set()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_heartbeat_on_postgres_does_not_wait_for_a_batch(store: Store) -> None:
    async with store._writer.lock:
        await store.processes.beat("me", "serve", "name", 5)
    assert await store.processes.heartbeats() == {"me": 5}


async def test_process_whose_row_is_gone_is_recovered_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Owned("a")
    await store.save(run).committed()
    row: Any = await store.execution("a")
    await store.take(row, "gone", 5)
    recovered: list[str] = []

    async def recover(process_id: str, chosen: Collection[str] | None) -> None:
        recovered.append(process_id if chosen is None else f"{process_id}: {sorted(chosen)}")
        current: Any = await store.execution("a")
        await store.take(current, None, 6, status="pending")

    async def repair() -> None:
        pass

    heart = Heartbeat(
        store.processes,
        Clock(),
        process_id="me",
        kind="worker",
        recover=recover,
        driven=lambda: {"b"},
        repair=repair,
        is_alone=False,
    )
    await heart.beat()
    await heart.beat()
    assert recovered == ["gone"]
    # The database has committed that this process took the run, but the response was lost.
    await store.save(Owned("b")).committed()
    for name in ("a", "b"):
        row = await store.execution(name)
        await store.take(row, "me", 7)
    await heart.beat()
    assert recovered == ["gone"]
    await heart.beat()
    assert recovered == ["gone", "me: ['a']"]
    assert list(await store.processes.heartbeats()) == ["me"]
    assert await status_of(store, "a") == "pending"
    # An async function blocks the process.
    monkeypatch.setattr("noukai_sdk.backend.heartbeat.INTERVAL", 0.01)
    monkeypatch.setattr("noukai_sdk.backend.heartbeat.DEAD_AFTER", 0.2)
    await heart.start()
    await asyncio.sleep(0)
    time.sleep(0.3)
    while "did not respond for" not in caplog.text:
        await asyncio.sleep(0.01)
    await heart.stop()


async def test_those_that_wait_for_a_write_that_fails_fail_with_it() -> None:
    turns, written = Turns(), 0

    async def write() -> None:
        nonlocal written
        async with turns:
            written += 1

    async def fail(error: Exception) -> list[BaseException | None]:
        with suppress(type(error)):
            async with turns:
                waiting = [asyncio.ensure_future(write()) for _ in range(3)]
                await asyncio.sleep(0)
                raise error
        return await asyncio.gather(*waiting, return_exceptions=True)

    errors = await fail(OSError("the database is locked"))
    assert {type(error) for error in errors} == {StoreUnavailableError}
    assert written == 0
    # Only an outage is everybody's.
    assert await fail(ValueError("a bad value")) == [None, None, None]
    assert written == 3


async def test_replays_that_a_dead_process_has_sent_are_over(store: Store) -> None:
    def report(process_id: str | None, **fields: Any) -> StoredReport:
        sent = SentReplay(target="http://localhost:8000", process_id=process_id)
        return StoredReport(replay_id="-", sent=sent, **fields)

    reports = {
        "left": report("dead"),
        "compared": report("dead", state="finished", verdict="clean"),  # by the app alone
        "other": report("alive"),
        "cli": report(None),
    }
    for replay_id, stored in reports.items():
        merge = partial(merge_reports, report=stored)
        await store.sessions.put_replay("s", "acme", replay_id, merge, 5)
    await store.sessions.end_replays("dead", partial(ended_report, "dead", 6), 6)
    states = {}
    for replay_id in reports:
        found = await store.sessions.replay(replay_id, "acme")
        assert found is not None
        stored = StoredReport.model_validate_json(found[1])
        assert stored.sent is not None
        states[replay_id] = (stored.state, stored.verdict, stored.sent.result)
    over, running = ("finished", "failed", "stopped"), ("running", None, None)
    assert states == {"left": over, "compared": over, "other": running, "cli": running}
