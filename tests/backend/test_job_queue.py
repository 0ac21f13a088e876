"""The queue of jobs: what happens when it fails, forgets, or is shared by backends in one process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from noukai_sdk.backend.jobs import jobs as jobs_module
from noukai_sdk.backend.jobs.job_runner import JobRunner
from noukai_sdk.backend.jobs.queue import JobQueue
from tests.support.servers import wait_until

from .backends import Backend, serving

FLOW = "tests/three"


def test_queue_that_fails_delays_jobs(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs_module, "_RETRY_INTERVAL", 0.01)
    put, failures = JobQueue.put, [OSError("the disk is full")]

    def fail_once(self: JobQueue, jobs: Any) -> None:
        if failures:
            raise failures.pop()
        put(self, jobs)

    monkeypatch.setattr(JobQueue, "put", fail_once)
    assert fresh.finished(FLOW, fresh.submit(FLOW))["status"] == "completed"
    assert "jobs wait, because their queue cannot be used: the disk is full" in caplog.text


def test_queue_that_loses_or_forgets_jobs_gets_them_again(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_REPAIR_INTERVAL", 0.0)
    monkeypatch.setattr(jobs_module, "_KEEP_SECONDS", 0.0)
    monkeypatch.setattr("noukai_sdk.backend.heartbeat.INTERVAL", 0.05)
    assert fresh.finished(FLOW, fresh.submit(FLOW))["status"] == "completed"
    # The process dies before it has put the job in.
    with monkeypatch.context() as lossy:
        lossy.setattr(JobQueue, "put", lambda self, jobs: None)
        lost = fresh.submit(FLOW)
        wait_until(lambda: not fresh.service.jobs._new, what="the job is lost")
    assert fresh.finished(FLOW, lost)["status"] == "completed"
    # The process has taken the job, and does not know of it: the connection broke at that moment.
    taken: list[Any] = []

    def forget(*entry: Any) -> None:
        taken.append(entry)
        raise OSError("the connection is closed")

    with monkeypatch.context() as forgetful:
        forgetful.setattr("dbos._queue.execute_dequeued_workflow", forget)
        forgotten = fresh.submit(FLOW)
        wait_until(lambda: taken, what="the job is taken")
    assert fresh.finished(FLOW, forgotten)["status"] == "completed"
    # The queue takes a job for done that is not.
    run, skipped = JobRunner.run, []

    async def skip_once(self: JobRunner, execution_id: str) -> None:
        if execution_id in skipped:
            await run(self, execution_id)
        skipped.append(execution_id)

    monkeypatch.setattr(
        fresh.service.jobs._worker, "_run", skip_once.__get__(fresh.service.jobs._runner)
    )
    again = fresh.submit(FLOW)
    assert fresh.finished(FLOW, again)["status"] == "completed"
    assert skipped.count(again) == 2
    # What is done is deleted from the queue.
    queue = fresh.service.jobs._queue
    wait_until(lambda: not queue._client.list_workflows(), what="the queue is empty")


def test_jobs_with_a_last_chance_wait_for_a_step_and_not_for_a_whole_job(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as held:
        held.setattr(JobQueue, "put", lambda self, jobs: None)
        jobs = [fresh.submit("tests/gated") for _ in range(2)]
        wait_until(lambda: not fresh.service.jobs._new, what="the jobs wait")
    with closing(sqlite3.connect(str(fresh.settings.database))) as database:
        database.execute("UPDATE executions SET strikes = 2 WHERE trigger = 'job'")
        database.commit()
    fresh.service.jobs._new += jobs
    fresh.service.jobs._pump.get_loop().call_soon_threadsafe(fresh.service.jobs.prepare)
    for job in jobs:  # the second step of this flow waits
        path = f"/seq/acme/tests/gated/jobs/{job}"
        wait_until(lambda path=path: fresh.get(path).json()["status"] == "running", what=path)
    fresh.fakes.opened.set()
    assert {fresh.finished("tests/gated", job)["status"] for job in jobs} == {"completed"}


def test_backends_in_one_process_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.jobs.worker._TURN_SECONDS", 0.1)
    monkeypatch.setattr(jobs_module, "_RETRY_INTERVAL", 0.01)
    with serving(tmp_path / "one") as one, serving(tmp_path / "two") as two:
        held = one.submit("tests/gated")
        wait_until(one.fakes.reached.is_set)
        waiting = two.submit(FLOW)
        assert two.get(f"/seq/acme/{FLOW}/jobs/{waiting}").json()["status"] == "pending"
        one.fakes.opened.set()
        assert one.finished("tests/gated", held)["status"] == "completed"
        assert two.finished(FLOW, waiting)["status"] == "completed"
        assert one.finished(FLOW, one.submit(FLOW))["status"] == "completed"


def test_worker_runs_as_many_jobs_as_its_own_limit(
    new_database: Callable[[], URL], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = new_database().render_as_string(hide_password=False)
    run, running, most = JobRunner.run, 0, 0

    async def count(self: JobRunner, execution_id: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await run(self, execution_id)
        running -= 1

    monkeypatch.setattr(JobRunner, "run", count)
    with (
        serving(tmp_path / "one", database=database, role="worker", max_running_jobs=2) as worker,
        serving(tmp_path / "two", database=database, role="serve") as web,
    ):
        worker.fakes.opened.set()
        jobs = [web.submit("tests/gated") for _ in range(8)]
        assert {web.finished("tests/gated", job)["status"] for job in jobs} == {"completed"}
    assert most <= 2


def test_job_of_a_flow_that_has_changed_fails_with_a_reason(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.write_flow("moving", "steps: [{id: one}]")
    with monkeypatch.context() as held:
        held.setattr(JobQueue, "put", lambda self, jobs: None)
        job = fresh.submit("tests/moving")
        wait_until(lambda: not fresh.service.jobs._new, what="the job waits")
    fresh.write_flow("moving", "steps: [{id: other}]")
    fresh.service.jobs._new.append(job)
    fresh.service.jobs._pump.get_loop().call_soon_threadsafe(fresh.service.jobs.prepare)
    poll = fresh.finished("tests/moving", job)
    assert (poll["status"], poll["error"]["code"]) == ("failed", "STALE_TREE")
