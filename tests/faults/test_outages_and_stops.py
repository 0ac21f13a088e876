"""Postgres away for a while, and SIGTERM under load: nothing is lost, nothing runs twice."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import httpx

from tests.support.postgres import PostgresServer
from tests.support.servers import Server, wait_until

from .cluster import FULL, JOBS, Cluster, long


def statuses(polls: dict[str, dict[str, Any]]) -> set[str]:
    return {body["status"] for body in polls.values()}


@long
def test_postgres_restarted_under_load_repeats_nothing(
    service: Cluster, postgres: PostgresServer
) -> None:
    first, second = service.start_replica(), service.start_replica()
    service.start_worker()
    service.start_worker()
    jobs = service.submit(first)
    service.wait_for_marks(JOBS)
    early = service.client(second)
    ended = {
        name: body["result"]
        for name, job in jobs.items()
        if (body := early.get(f"/chain/jobs/{job}").json())["status"] == "completed"
    }
    postgres.stop()
    # Longer than the time after which a process is taken for dead.
    time.sleep(10 if FULL else 4)
    postgres.start()
    wait_until(lambda: reached(second, service), deadline=30, what="the database is back")
    polls = service.finish(second, jobs)
    assert statuses(polls) == {"completed"}
    for name, result in ended.items():
        assert polls[name]["result"] == result
    service.check_marks(jobs)


def reached(server: Server, service: Cluster) -> bool:
    """Return True if the server answers a question about the database."""
    return service.client(server).get("/chain/jobs/none").status_code == 404


@long
def test_processes_stopped_under_load_lose_and_repeat_nothing(service: Cluster) -> None:
    first, second = service.start_replica(), service.start_replica()
    stopped = service.start_worker()
    service.start_worker()
    jobs = service.submit(first)
    service.wait_for_marks(JOBS)
    accepted: dict[str, str] = {}

    def submit_until_it_stops() -> None:
        client = service.client(first)
        for number in range(100_000):
            name = f"late{number}"
            try:
                response = client.post("/chain/jobs", json={"message": name})
            except httpx.TransportError:
                return
            if response.status_code != 202:
                return
            accepted[name] = response.json()["executionId"]

    submitting = threading.Thread(target=submit_until_it_stops)
    submitting.start()
    wait_until(lambda: len(accepted) > 2, what="late jobs")
    stopped.send_signal(signal.SIGTERM)
    first.process.send_signal(signal.SIGTERM)
    submitting.join(30)
    assert stopped.wait(30) == 0
    first.process.wait(30)
    polls = service.finish(second, {**jobs, **accepted})
    assert statuses(polls) == {"completed"}
    service.check_marks({**jobs, **accepted})
    # A job that was handed back is no strike, and its steps ran once.
    assert len(service.lines()) <= 5 * (len(jobs) + len(accepted)) + 8


@long
def test_dev_stopped_under_load_completes_its_jobs_at_the_next_start(laptop: Cluster) -> None:
    server = laptop.start_dev()
    jobs = laptop.submit(server)
    laptop.wait_for_marks(JOBS)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    server = laptop.start_dev()
    assert statuses(laptop.finish(server, jobs)) == {"completed"}
    laptop.check_marks(jobs)
