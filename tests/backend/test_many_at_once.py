"""Concurrency: many calls, and two calls for one run."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.support.servers import wait_until

from .conftest import Backend
from .streams import WEATHER, answered

MANY = 1000


async def post(url: str, number: int) -> bytes:
    """A POST by hand: a thousand HTTP clients would test themselves."""
    host, port = url.removeprefix("http://").split(":")
    body = b'{"message": "number %d"}' % number
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/seq/acme/samples/hello-world/execute HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer nk_dev\r\nX-Session-Id: many\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_thousand_executes_at_once(fresh: Backend) -> None:
    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(post(fresh.url, number) for number in range(MANY)))

    answers = asyncio.run(all_at_once())
    assert Counter(answer.split(b"\r\n")[0] for answer in answers) == {b"HTTP/1.1 200 OK": MANY}
    for number, answer in enumerate(answers):
        assert b'number %d\\"' % number in answer
    runs = fresh.session("many")
    assert len({run["executionId"] for run in runs}) == MANY
    assert {run["status"] for run in runs} == {"completed"}
    starts = [run["startedAt"] for run in runs]
    assert starts == sorted(set(starts))
    assert {run["call"]["request"]["message"] for run in runs} == {
        f"number {n}" for n in range(MANY)
    }
    assert fresh.stats() == {"modelCalls": MANY, "executions": MANY}


def test_of_many_resumes_of_one_pause_one_goes_on(fresh: Backend) -> None:
    pause = fresh.post("samples/weather/execute", {"message": "Paris?", "tools": WEATHER}).json()
    body = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "toolCallMessages": answered(pause),
        "tools": WEATHER,
    }
    calls = fresh.stats()["modelCalls"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: fresh.post("samples/weather/execute", body), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    codes = {a.json()["detail"]["code"] for a in answers if a.status_code == 409}
    assert codes == {"EXECUTION_ID_INVALID"}
    assert fresh.stats()["modelCalls"] == calls + 1


def test_a_run_that_is_driven_cannot_be_driven_by_another(fresh: Backend) -> None:
    started = fresh.post("tests/gated/step", {"message": "hello"})
    run = started.text.split('"executionId":"')[1].split('"')[0]
    body = {"executionId": run, "stepIndex": 1}
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(fresh.post("tests/gated/step", body)))
    first.start()
    wait_until(fresh.fakes.reached.is_set)
    second = fresh.post("tests/gated/step", body)
    assert second.status_code == 409
    assert "another call" in second.json()["detail"]["message"]
    # To others it is as if it were not there.
    elsewhere = f"{fresh.url}/api/v1/seq/otherorg/things/hello/step"
    headers = {"Authorization": "Bearer nk_other"}
    third = httpx.post(elsewhere, json=body, headers=headers)
    assert third.status_code == 400
    assert third.json()["detail"]["code"] == "EXECUTION_ID_INVALID"
    assert "has no run" in third.json()["detail"]["message"]
    fresh.fakes.opened.set()
    first.join(20)
    assert '"step_paused"' in answers[0].text


def test_a_session_that_is_read_while_its_runs_are_driven(fresh: Backend) -> None:
    job = fresh.client.post(
        "/seq/acme/tests/gated/jobs", json={"message": "a"}, headers={"X-Session-Id": "busy"}
    )
    assert job.status_code == 202
    wait_until(fresh.fakes.reached.is_set)
    [execution] = fresh.session("busy")
    assert execution["status"] == "running"
    assert [s["status"] for s in execution["steps"]] == ["completed", "running"]
    # The piece of output that is still growing comes with its step's end.
    assert execution["events"][-1]["eventType"] == "step_input"
