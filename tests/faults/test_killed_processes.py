"""kill -9 of workers, web processes, the only process: all jobs complete, no finished step is repeated."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from tests.support.servers import wait_until

from .cluster import JOBS, Cluster, long


def completed(polls: dict[str, dict[str, object]]) -> None:
    assert {name: body["status"] for name, body in polls.items()} == dict.fromkeys(
        polls, "completed"
    )


def test_dev_killed_twice_completes_all_jobs(laptop: Cluster) -> None:
    server = laptop.start_dev()
    jobs = laptop.submit(server)
    for part in (1, 2):
        laptop.wait_for_marks(part * JOBS)
        server.kill()
        server = laptop.start_dev()
    completed(laptop.finish(server, jobs))
    laptop.check_marks(jobs)


@long
def test_job_killed_in_a_loop_keeps_its_finished_items(laptop: Cluster) -> None:
    server = laptop.start_dev()
    body = {"message": "x", "parameters": {"items": ["a", "b", "held", "c"]}}
    job = laptop.client(server).post("/loop/jobs", json=body).json()["executionId"]
    laptop.wait_for_marks(3)

    def is_kept() -> bool:
        with sqlite3.connect(laptop.database) as connection:
            (state,) = connection.execute("SELECT state FROM executions").fetchone()
        connection.close()
        return state is not None and json.loads(state)["run"]["inner"] == {
            "each": {"0": "a", "1": "b"}
        }

    wait_until(is_kept)
    server.kill()
    laptop.let_go()
    server = laptop.start_dev()
    poll = wait_until(
        lambda: (body := laptop.poll(server, job, "loop"))["status"] == "completed" and body,
        deadline=60,
    )
    assert poll["result"] == ["a", "b", "held", "c"]
    assert [step for _, step in laptop.lines()] == ["a", "b", "held", "held", "c"]


def test_worker_and_replica_killed_completes_all_jobs(service: Cluster) -> None:
    # All at once: each finds tables to create, or waits for another that does.
    with ThreadPoolExecutor() as pool:
        replicas = [pool.submit(service.start_replica) for _ in range(2)]
        workers = [pool.submit(service.start_worker) for _ in range(2)]
    first, second = (replica.result() for replica in replicas)
    doomed = workers[0].result()
    jobs = service.submit(first)
    service.wait_for_marks(JOBS)
    doomed.kill()
    first.kill()
    polls = service.finish(second, jobs)
    completed(polls)
    service.check_marks(jobs)


@long
def test_poison_job_fails_after_three_workers_with_a_reason(service: Cluster) -> None:
    server = service.start_replica()
    [poison] = service.submit(server, 1, "poison").values()
    for _ in range(3):
        worker = service.start_worker()
        assert worker.wait(60) == 1
    jobs = service.submit(server, 3)
    service.start_worker()
    completed(service.finish(server, jobs))
    wait_until(lambda: service.poll(server, poison, "poison")["status"] == "failed", deadline=40)
    error = service.poll(server, poison, "poison")["error"]
    assert "3 processes have died" in error["message"]
    assert [job for job, _ in service.lines()].count("poison") == 3
