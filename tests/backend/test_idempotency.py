"""Idempotency-Key on execute and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL

from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store import idempotency, retention
from noukai_sdk.backend.store.database import open_beside
from noukai_sdk.backend.store.tables import idempotency_keys
from tests.support.servers import Server, serve_command, wait_until

from .backends import ASKS_WEATHER, MESSAGE, Backend, code_of, resume_body, serving

THREE = "tests/three/execute"


def send(
    backend: Backend, path: str, key: str, body: Any = MESSAGE, session: str | None = None
) -> httpx.Response:
    return backend.post(path, body, session, **{"Idempotency-Key": key})


def stored_keys(database: str) -> int:
    async def count() -> int:
        url = Settings(database).database_url
        async with open_beside(url) as engine, engine.connect() as connection:
            return len((await connection.execute(idempotency_keys.select())).all())

    return asyncio.run(count())


def test_same_key_and_body_is_the_same_run(stored: Backend) -> None:
    fields = [*MESSAGE.items(), ("trace", False)]
    first = send(stored, THREE, "k", dict(fields), session="s")
    assert "idempotent-replayed" not in first.headers
    # The order of the fields is no difference.
    again = send(stored, THREE, "k", dict(reversed(fields)))
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert len(stored.session("s")) == 1
    job = send(stored, "tests/three/jobs", "k")
    assert job.status_code == 202
    # The key belongs to the path: of the flow, of its version, of execute.
    assert job.json()["executionId"] != first.json()["executionId"]
    again = send(stored, "tests/three/jobs", "k")
    assert (again.status_code, again.json()) == (202, job.json())
    stored.finished("tests/three", job.json()["executionId"])
    assert send(stored, "tests/three/jobs", "k").json() == job.json()
    other = send(stored, THREE, "k", {"message": "another"})
    assert code_of(other) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert other.json()["detail"]["executionId"] == first.json()["executionId"]
    # Deleted with its session, and forgotten after a day.
    assert stored.client.delete("/seq/sessions/s").status_code == 204
    second = send(stored, THREE, "k")
    assert second.json()["executionId"] != first.json()["executionId"]


def test_key_finds_failures_pauses_and_results_in_every_capture_mode(stored: Backend) -> None:
    for flow, body in [
        ("samples/weather", ASKS_WEATHER),
        ("tests/broken", MESSAGE),
        ("tests/metadata", MESSAGE),
        ("tests/nothing", MESSAGE),
    ]:
        first = send(stored, f"{flow}/execute", "k", body)
        again = send(stored, f"{flow}/execute", "k", body)
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["idempotent-replayed"] == "true"
    pause = send(stored, "samples/weather/execute", "k", ASKS_WEATHER).json()
    # A pause can be continued once anyway: its key is not looked at.
    done = send(stored, "samples/weather/execute", "k", resume_body(pause)).json()
    assert done["status"] == "completed"
    assert send(stored, "samples/weather/execute", "k", ASKS_WEATHER).json() == done


def test_two_calls_at_once_make_one_run(stored: Backend) -> None:
    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(send, stored, "tests/gated/execute", "k") for _ in range(6)]
        wait_until(lambda: sum(call.done() for call in calls) == 5)
        for call in calls:
            if call.done():
                assert code_of(call.result()) == (409, "IDEMPOTENCY_KEY_IN_USE")
                assert call.result().headers["retry-after"] == "1"
        stored.fakes.opened.set()
        assert sorted(call.result().status_code for call in calls) == [200] + [409] * 5
        jobs = [threads.submit(send, stored, "tests/three/jobs", "j") for _ in range(6)]
        assert {job.result().status_code for job in jobs} == {202}
        assert len({job.result().json()["executionId"] for job in jobs}) == 1
    assert stored.stats()["executions"] == 2


def test_two_calls_at_once_over_two_replicas_make_one_run(
    new_database: Callable[[], URL], tmp_path: Path
) -> None:
    database = new_database().render_as_string(hide_password=False)
    with (
        serving(tmp_path / "one", database=database) as one,
        serving(tmp_path / "two", database=database) as two,
        ThreadPoolExecutor(8) as threads,
    ):
        replicas = [one, two]
        for number in range(10):
            jobs = [
                threads.submit(send, replicas[n % 2], "tests/three/jobs", f"j{number}")
                for n in range(8)
            ]
            assert {job.result().status_code for job in jobs} == {202}
            assert len({job.result().json()["executionId"] for job in jobs}) == 1
        first = send(one, THREE, "k")
        assert send(two, THREE, "k").json() == first.json()
        assert one.stats()["executions"] + two.stats()["executions"] == 11


def test_key_outlives_a_restart_but_not_its_time(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, database=database) as backend:
        first = send(backend, THREE, "k").json()
        refused = send(backend, "tests/picky/execute", "k")
        assert refused.status_code == 400
    with serving(tmp_path, database=database) as backend:
        assert send(backend, THREE, "k").json() == first
        # A call that began no run leaves no key.
        body = {**MESSAGE, "parameters": {"style": "verse"}}
        assert send(backend, "tests/picky/execute", "k", body).status_code == 200
        monkeypatch.setattr(idempotency, "LIFE", 0)
        second = send(backend, THREE, "k").json()
        assert second["executionId"] != first["executionId"]
        assert send(backend, THREE, "k", {"message": "another"}).status_code == 200
        assert stored_keys(database) == 2
    monkeypatch.setattr(retention, "LIFE", 0)
    with serving(tmp_path, database=database):
        wait_until(lambda: stored_keys(database) == 0, what="the first sweep")


def test_key_finds_its_runs_after_the_process_was_killed(tmp_path: Path) -> None:
    flow = tmp_path / "flows/acme/tests/slow.yaml"
    flow.parent.mkdir(parents=True)
    flow.write_text("steps: [{id: a}, {id: b, function: 'slow:wait'}]")
    # The second step never ends in the first process, and at once in the second.
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n\n\ndef wait(text):\n"
        "    if not Path('second').exists():\n        Path('reached').touch()\n"
        "        time.sleep(600)\n    return 'done'\n"
    )
    command = ["python", "-m", "noukai_sdk.cli", "dev", "--port", "{port}", "--db", "a.db"]
    headers = {"Authorization": "Bearer nk_dev", "Idempotency-Key": "k"}

    def post(server: Server, verb: str) -> httpx.Response:
        url = f"{server.api}/seq/acme/tests/slow/{verb}"
        return httpx.post(url, json=MESSAGE, headers=headers, timeout=30)

    with ThreadPoolExecutor() as threads:
        with serve_command(command, cwd=tmp_path, ready="/healthz") as server:
            job = post(server, "jobs").json()
            wait_until((tmp_path / "reached").exists)
            (tmp_path / "reached").unlink()
            lost = threads.submit(post, server, "execute")
            wait_until((tmp_path / "reached").exists)
            assert code_of(post(server, "execute")) == (409, "IDEMPOTENCY_KEY_IN_USE")
            server.kill()
            assert isinstance(lost.exception(20), httpx.TransportError)
        (tmp_path / "second").touch()
        with serve_command(command, cwd=tmp_path, ready="/healthz") as server:
            assert post(server, "jobs").json() == job
            poll = f"{server.api}/seq/acme/tests/slow/jobs/{job['executionId']}"
            wait_until(
                lambda: httpx.get(poll, headers=headers).json()["status"] == "completed",
                what="the job",
            )
            # Nobody knows what the run has done: it has failed, and another needs another key.
            response = wait_until(
                lambda: (r := post(server, "execute")).status_code == 500 and r, what="the run"
            )
            assert code_of(response) == (500, "INTERNAL_ERROR")


def test_invalid_key_is_400(backend: Backend) -> None:
    for key in ("", "k" * 256, "\u00e9", "a\tb"):
        response = send(backend, THREE, key.encode("latin-1"))  # type: ignore[arg-type]  # wrong on purpose
        assert code_of(response) == (400, "IDEMPOTENCY_KEY_INVALID")
    assert send(backend, THREE, "k" * 255).status_code == 200
