"""Limits of organisations with stored keys, as ``noukai orgs`` sets them."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, update

from noukai_sdk.backend.encoding import Clock
from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.database import StoreUnavailableError, open_beside
from noukai_sdk.backend.store.limits import LimitStore
from noukai_sdk.backend.store.store import Store
from noukai_sdk.backend.store.tables import organisations
from noukai_sdk.backend.store.writer import Changes, StaleOwnerError
from noukai_sdk.cli.commands import noukai
from noukai_sdk.local.llm.chat import ChatDelta
from noukai_sdk.models.events import TokenBreakdown
from tests.support.servers import wait_until

from .backends import ASKS_WEATHER, MESSAGE, Backend, code_of, resume_body, serving

HELLO = "samples/hello-world/execute"
# A step of this model costs 0.0025 dollars.
PAID = "openai:gpt-4o"


def command(*arguments: str) -> str:
    result = CliRunner().invoke(noukai, arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


async def paid(_request: Any) -> AsyncGenerator[ChatDelta, None]:
    yield ChatDelta(text="paid", usage=TokenBreakdown(prompt=1000, completion=0, total=1000))


@contextmanager
def limited(folder: Path, database: str, *limits: str) -> Iterator[Backend]:
    """Serve a backend whose client has a stored key of acme, with limits."""
    with serving(folder, database=database, keys=None) as backend:
        backend.fakes.more[PAID] = paid
        key = command("keys", "create", "--org", "acme", "--db", database).strip()
        command("orgs", "set", "acme", *limits, "--db", database)
        backend.client.headers["Authorization"] = f"Bearer {key}"
        backend.write_flow(
            "paid", f"steps: [{{id: a, model: '{PAID}'}}, {{id: b, model: '{PAID}'}}]"
        )
        yield backend


def left(database: str) -> str:
    (row,) = json.loads(command("orgs", "list", "--json", "--db", database))
    return str(row["credits"])


def test_runs_in_progress_above_the_limit_are_429(database: str, tmp_path: Path) -> None:
    with limited(tmp_path, database, "--concurrent", "2") as backend:
        job = backend.submit("tests/gated")
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(backend.post, "tests/gated/execute", MESSAGE) for _ in range(8)]
            wait_until(lambda: sum(call.done() for call in calls) == 7, what="the refusals")
            for call in calls:
                if call.done():
                    assert code_of(call.result()) == (429, "TOO_MANY_RUNS")
                    assert call.result().headers["retry-after"] == "1"
            backend.fakes.opened.set()
            assert [c.result().status_code for c in calls].count(200) == 1
        assert backend.finished("tests/gated", job)["status"] == "completed"
        # A run that waits for tool results is not in progress.
        for _ in range(3):
            assert backend.post("samples/weather/execute", ASKS_WEATHER).status_code == 200
        command("orgs", "set", "acme", "--concurrent", "none", "--db", database)
        assert json.loads(command("orgs", "list", "--json", "--db", database))[0] == {
            "org": "acme",
            "concurrent": None,
            "perMinute": None,
            "credits": None,
        }


def test_runs_draw_on_credits_until_there_are_none(database: str, tmp_path: Path) -> None:
    with limited(tmp_path, database, "--credits", "0.0074") as backend:
        pause = backend.post("samples/weather/execute", ASKS_WEATHER).json()
        assert backend.post("tests/paid/execute", MESSAGE).status_code == 200
        assert left(database) == "0.002400"
        job = backend.finished("tests/paid", backend.submit("tests/paid"))
        assert job["error"] == {"code": "CREDITS_EXHAUSTED", "message": "acme has no credits left"}
        assert left(database) == "-0.000100"
        for verb in ("execute", "step", "jobs"):
            response = backend.post(f"tests/paid/{verb}", MESSAGE)
            assert code_of(response) == (402, "INSUFFICIENT_CREDITS")
        # A run that waits goes on when there are credits again.
        resume = resume_body(pause)
        response = backend.post("samples/weather/execute", resume)
        assert code_of(response) == (402, "CREDITS_EXHAUSTED")
        command("orgs", "set", "acme", "--add-credits", "0.0026", "--db", database)
        assert left(database) == "0.002500"
        assert backend.post("samples/weather/execute", resume).json()["status"] == "completed"
        response = backend.post("tests/paid/execute", MESSAGE)
        assert code_of(response) == (402, "CREDITS_EXHAUSTED")
        assert left(database) == "0.000000"


def test_runs_at_once_are_charged_once_each(database: str, tmp_path: Path) -> None:
    with limited(tmp_path, database, "--credits", "1") as backend, ThreadPoolExecutor(8) as threads:
        jobs = [backend.submit("tests/paid") for _ in range(10)]
        calls = [threads.submit(backend.post, "tests/paid/execute", MESSAGE) for _ in range(10)]
        assert {call.result().status_code for call in calls} == {200}
        assert {backend.finished("tests/paid", job)["status"] for job in jobs} == {"completed"}
        assert left(database) == "0.900000"


@dataclass
class Costly:
    """A run that has cost something, as its owner of an epoch writes it."""

    id: str
    cost: int
    epoch: int = 1
    org: str = "acme"

    def changes(self) -> Changes:
        names = ["version", "session_id", "completed_at", "error_at_step", "request"]
        row: dict[str, Any] = dict.fromkeys([*names, "tool_rounds", "result", "error", "state"])
        row |= {"id": self.id, "org": self.org, "project": "p", "slug": "s", "flow_id": "f"}
        row |= {"block_count": 1, "trigger": "job", "status": "running", "capture_mode": "full"}
        row |= {"started_at": 1, "updated_at": 1, "epoch": self.epoch, "cost_micros": self.cost}
        return Changes([row])


@pytest.mark.anyio
async def test_charge_is_drawn_once_and_only_by_the_owner(database: str) -> None:
    store = await Store.open(Settings(database).database_url, Costly.changes)

    async def left_of(org: str) -> int | None:
        return (await store.limits.read(org)).credit_micros

    for org in ("acme", "other"):
        await store.limits.set(org, {"credit_micros": 1000})
    # One batch, with runs of several organisations; one of them has no limits.
    for run in (
        Costly("a", 100),
        Costly("b", 10),
        Costly("c", 1, org="other"),
        Costly("d", 5, 1, "x"),
    ):
        store.save(run)
    await store.flush()
    assert (await left_of("acme"), await left_of("other")) == (890, 999)
    # A row that is written again, as after a commit whose answer was lost, costs nothing more.
    await store.save(Costly("a", 100)).committed()
    assert await left_of("acme") == 890
    await store.save(Costly("a", 250)).committed()
    assert await left_of("acme") == 740
    for stale in (Costly("a", 900, epoch=0), Costly("a", 900, epoch=2)):
        with pytest.raises(StaleOwnerError):
            await store.save(stale).committed()
    assert await left_of("acme") == 740
    await store.aclose()


def test_job_that_another_process_continues_is_charged_once(database: str, tmp_path: Path) -> None:
    with limited(tmp_path, database, "--credits", "1") as backend:
        steps = f"[{{id: a, model: '{PAID}'}}, {{id: b, model: gate}}, {{id: c, model: '{PAID}'}}]"
        backend.write_flow("resumed", f"steps: {steps}")
        job = backend.submit("tests/resumed")
        assert backend.fakes.reached.wait(20)
        assert left(database) == "0.997500"
    with serving(tmp_path, write=False, database=database, keys=None) as second:
        second.client.headers = backend.client.headers
        second.fakes.more[PAID] = paid
        second.fakes.opened.set()
        assert second.finished("tests/resumed", job)["status"] == "completed"
        assert left(database) == "0.995000"


def test_limit_holds_for_two_replicas_together(
    new_database: Callable[[], URL], tmp_path: Path
) -> None:
    database = new_database().render_as_string(hide_password=False)
    with (
        limited(tmp_path / "one", database, "--concurrent", "3", "--credits", "1") as one,
        serving(tmp_path / "two", database=database, keys=None) as two,
        ThreadPoolExecutor(20) as threads,
    ):
        two.client.headers = one.client.headers
        replicas = [one, two]
        calls = [
            threads.submit(replicas[n % 2].post, "tests/gated/execute", MESSAGE) for n in range(20)
        ]
        wait_until(lambda: sum(call.done() for call in calls) == 17, what="the refusals")
        for replica in replicas:
            replica.fakes.opened.set()
        assert sorted(call.result().status_code for call in calls) == [200] * 3 + [429] * 17


def test_run_whose_insertion_may_have_failed_does_not_stay_in_progress(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with limited(tmp_path, database, "--concurrent", "1") as backend:
        insert = backend.service.store.insert_checked

        async def lose_answer(item: Any, check: Any) -> None:
            await insert(item, check)
            raise StoreUnavailableError(OSError("the connection is gone"))

        with monkeypatch.context() as patch:
            patch.setattr(backend.service.store, "insert_checked", lose_answer)
            response = backend.post(HELLO, MESSAGE, "lost")
        assert code_of(response) == (503, "STORE_UNAVAILABLE")
        (run,) = backend.session("lost")
        assert (run["executionId"], run["status"]) == (
            response.json()["detail"]["executionId"],
            "failed",
        )
        assert backend.post(HELLO, MESSAGE).status_code == 200


@pytest.mark.anyio
async def test_requests_a_minute_are_counted_once_by_all_replicas(database: str) -> None:
    clock = Clock()
    url = Settings(database).database_url
    async with open_beside(url) as one, open_beside(url) as two:
        stores = [LimitStore(one), LimitStore(two)]
        await stores[0].set("acme", {"requests_per_minute": 60})
        takes = [stores[n % 2].take_requests("acme", 1, clock.now()) for n in range(70)]
        waits = await asyncio.gather(*takes)
        taken = waits.count(0)
        # Postgres fills the bucket by its own clock, while the calls take their time.
        assert 60 <= taken < 70
        assert all(0 < wait <= 1 for wait in waits if wait)

        async def set_back(tokens: float, seconds: float) -> None:
            at = clock.now() - int(seconds * 1e6)
            async with one.begin() as connection:
                changed = update(organisations).values(tokens=tokens, filled_at=at)
                await connection.execute(changed)

        async def take(count: int) -> int:
            waits = [await stores[1].take_requests("acme", 1, clock.now()) for _ in range(count)]
            return waits.count(0)

        # An hour forward fills the bucket, and no more than that.
        await set_back(0, 3600)
        assert 60 <= await take(70) < 70
        # An hour back: the bucket is filled from now on, not in an hour.
        await set_back(0.5, -3600)
        assert 0 < await stores[1].take_requests("acme", 1, clock.now()) <= 0.6
        async with one.connect() as connection:
            rows = await connection.execute(organisations.select())
            assert rows.one().filled_at <= clock.now()
        await set_back(5, -3600)
        assert await take(3) == 3
        assert await stores[0].take_requests("unlimited", 1, clock.now()) == 0


def test_requests_of_two_replicas_are_taken_in_advance(
    new_database: Callable[[], URL], tmp_path: Path
) -> None:
    database = new_database().render_as_string(hide_password=False)
    with (
        limited(tmp_path / "one", database, "--per-minute", "120") as one,
        serving(tmp_path / "two", database=database, keys=None) as two,
        ThreadPoolExecutor(8) as threads,
    ):
        two.client.headers = one.client.headers
        start = time.monotonic()
        calls = [threads.submit([one, two][n % 2].get, "/seq/sessions?limit=1") for n in range(400)]
        statuses = [call.result().status_code for call in calls]
        filled = math.ceil((time.monotonic() - start) * 2)
        assert 120 <= statuses.count(200) <= 120 + filled
        assert statuses.count(429) == 400 - statuses.count(200)


def test_requests_above_the_limit_are_429(database: str, tmp_path: Path) -> None:
    with limited(tmp_path, database, "--per-minute", "3") as backend:
        responses = [backend.get("/seq/sessions") for _ in range(6)]
        assert [r.status_code for r in responses] == [200] * 3 + [429] * 3
        for response in responses[3:]:
            assert code_of(response) == (429, "TOO_MANY_REQUESTS")
            assert 1 <= int(response.headers["retry-after"]) <= 20
        # Other organisations go on.
        key = command("keys", "create", "--org", "otherorg", "--db", database).strip()
        for _ in range(5):
            other = {"Authorization": f"Bearer {key}"}
            assert backend.get("/seq/sessions", **other).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/b", "--concurrent", "1"], "'a/b' is not letters"),
        (["a", "--concurrent", "0"], "--concurrent: '0' is neither a number"),
        (["a", "--credits", "1.1234567"], "--credits: '1.1234567' is not an amount"),
        (["a", "--credits", "1", "--add-credits", "1"], "exclude each other"),
        (["a"], "name a limit to set"),
    ],
)
def test_orgs_set_with_invalid_limit_is_an_error(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(noukai, ["orgs", "set", *arguments, "--db", f"{tmp_path}/a.db"])
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
