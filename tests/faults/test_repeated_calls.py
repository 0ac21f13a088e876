"""Clients that repeat their calls with the same Idempotency-Key, while a web process is killed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.servers import wait_until

from .cluster import JOBS, Cluster
from .test_killed_processes import completed


def test_replica_killed_while_jobs_are_submitted_begins_each_job_once(service: Cluster) -> None:
    first, second = service.start_replica(), service.start_replica()
    service.start_worker()
    clients = [service.client(first), service.client(second)]
    lost = 0

    def submit(number: int) -> tuple[str, str]:
        nonlocal lost
        name = f"job{number}"
        for client in [*clients, clients[1]]:
            try:
                response = client.post(
                    "/chain/jobs", json={"message": name}, headers={"Idempotency-Key": name}
                )
            except httpx.TransportError:
                lost += 1
                continue
            assert response.status_code == 202, response.text
            return name, response.json()["executionId"]
        raise AssertionError("the second replica lives")

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(submit, number) for number in range(JOBS)]
        wait_until(lambda: sum(call.done() for call in calls) >= JOBS // 3, what="some jobs")
        first.kill()
        jobs = dict(call.result() for call in calls)
    assert lost > 0
    assert len(set(jobs.values())) == JOBS
    for name, job in jobs.items():
        again = clients[1].post(
            "/chain/jobs", json={"message": name}, headers={"Idempotency-Key": name}
        )
        assert (again.status_code, again.json()["executionId"]) == (202, job)
    completed(service.finish(second, jobs))
    service.check_marks(jobs)

    # A key that is revoked elsewhere is refused within seconds; nk_dev never was a key here.
    dev = {"Authorization": "Bearer nk_dev"}
    assert clients[1].get("/chain/jobs/none", headers=dev).status_code == 401
    assert clients[1].get("/chain/jobs/none").status_code == 404
    key_id = next(word for word in service.keys("list").split() if word.startswith("key_"))
    service.keys("revoke", key_id)
    wait_until(lambda: clients[1].get("/chain/jobs/none").status_code == 401, deadline=30)
