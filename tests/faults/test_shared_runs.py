"""Runs that several processes work on: step calls, pauses and live traces through any replica."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx

from tests.backend.backends import ASKS_WEATHER, MESSAGE, lines, parse, resume_body, types
from tests.support.servers import Server, wait_until

from .cluster import FULL, STEPS, Cluster, long


def call(service: Cluster, server: Server, path: str, body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.key}", "X-Session-Id": "shared"}
    return httpx.post(f"{server.api}/seq/{path}", json=body, headers=headers, timeout=30)


def test_runs_continue_on_any_replica(service: Cluster) -> None:
    replicas = [service.start_replica(), service.start_replica()]
    # One step call after the other, each on another replica.
    body: dict[str, Any] = {"message": "step"}
    for number in range(len(STEPS)):
        response = call(service, replicas[number % 2], "acme/faults/chain/step", body)
        assert response.status_code == 200, response.text
        events = parse(response.text)
        body = {"executionId": events[0]["executionId"], "stepIndex": number + 1}
    assert types(events)[-1] == "flow_completed"
    assert [step for job, step in service.lines() if job == "step"] == STEPS

    # Both replicas get the results of one pause at the same moment: one of them continues the run.
    for _ in range(10 if FULL else 3):
        pause = call(service, replicas[0], "acme/samples/weather/execute", ASKS_WEATHER).json()
        resume = partial(
            call, service, path="acme/samples/weather/execute", body=resume_body(pause)
        )
        with ThreadPoolExecutor() as pool:
            statuses = [response.status_code for response in pool.map(resume, replicas)]
        assert sorted(statuses) == [200, 409]

    # The live trace of a job that a worker runs, followed on a replica from before its start.
    [job] = service.submit(replicas[0], 1).values()
    client = service.client(replicas[1])
    with client.stream("GET", f"/chain/runs/{job}/trace/stream") as live:
        service.start_worker()
        assert types(list(lines(live)))[-1] == "flow_completed"
    trace = client.get(f"/chain/runs/{job}/trace").json()
    assert [step["status"] for step in trace["steps"]] == ["completed"] * len(STEPS)


@long
def test_step_run_of_a_killed_replica_goes_on_at_its_last_finished_step(service: Cluster) -> None:
    doomed, other = service.start_replica(), service.start_replica()
    events = parse(call(service, doomed, "acme/faults/chain/step", MESSAGE).text)
    run = events[0]["executionId"]
    url = f"{doomed.api}/seq/acme/faults/chain/step"
    headers = {"Authorization": f"Bearer {service.key}"}
    body = {"executionId": run, "stepIndex": 1, "runRemaining": True}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as stream:
        completed = (event for event in lines(stream) if event["eventType"] == "step_completed")
        assert next(completed)["stepId"] == "two"
        doomed.kill()
    answers: list[httpx.Response] = []

    def continues() -> bool:
        # The kill may have come before or after the end of a step.
        for index in range(1, len(STEPS)):
            body = {"executionId": run, "stepIndex": index, "runRemaining": True}
            answers.append(call(service, other, "acme/faults/chain/step", body))
            if answers[-1].status_code == 200:
                return True
        return False

    wait_until(continues, deadline=40)
    assert types(parse(answers[-1].text))[-1] == "flow_completed"
