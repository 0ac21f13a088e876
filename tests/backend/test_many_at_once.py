"""Concurrency: many calls, and two calls for one run."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.support.servers import wait_until

from .backends import ASKS_WEATHER, Backend, resume_body

MANY = 1000


async def post(url: str, number: int) -> bytes:
    """POST by hand: a thousand HTTP clients would measure themselves."""
    host, port = url.removeprefix("http://").split(":")
    body = b'{"message": "number %d"}' % number
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /api/v1/seq/acme/samples/hello-world/execute HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer nk_dev\r\nX-Session-Id: many\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return response


def test_execute_a_thousand_at_once_all_complete(fresh: Backend) -> None:
    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(post(fresh.url, number) for number in range(MANY)))

    responses = asyncio.run(all_at_once())
    assert Counter(response.split(b"\r\n")[0] for response in responses) == {
        b"HTTP/1.1 200 OK": MANY
    }
    for number, response in enumerate(responses):
        assert b'number %d\\"' % number in response
    runs = fresh.session("many")
    assert len({run["executionId"] for run in runs}) == MANY
    assert {run["status"] for run in runs} == {"completed"}
    starts = [run["startedAt"] for run in runs]
    assert starts == sorted(set(starts))
    assert {run["call"]["request"]["message"] for run in runs} == {
        f"number {n}" for n in range(MANY)
    }
    assert fresh.stats() == {"modelCalls": MANY, "executions": MANY}


def test_resume_many_at_once_continues_only_one(fresh: Backend) -> None:
    body = resume_body(fresh.post("samples/weather/execute", ASKS_WEATHER).json())
    calls = fresh.stats()["modelCalls"]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: fresh.post("samples/weather/execute", body), range(8)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 7
    codes = {a.json()["detail"]["code"] for a in responses if a.status_code == 409}
    assert codes == {"EXECUTION_ID_INVALID"}
    assert fresh.stats()["modelCalls"] == calls + 1


def test_resume_of_a_running_run_is_409(fresh: Backend) -> None:
    started = fresh.post("tests/gated/step", {"message": "hello"})
    run = started.text.split('"executionId":"')[1].split('"')[0]
    body = {"executionId": run, "stepIndex": 1}
    responses: list[Any] = []
    first = threading.Thread(target=lambda: responses.append(fresh.post("tests/gated/step", body)))
    first.start()
    wait_until(fresh.fakes.reached.is_set)
    second = fresh.post("tests/gated/step", body)
    assert second.status_code == 409
    assert "another call" in second.json()["detail"]["message"]
    # Another organisation must not learn that the run exists.
    elsewhere = f"{fresh.url}/api/v1/seq/otherorg/things/hello/step"
    headers = {"Authorization": "Bearer nk_other"}
    third = httpx.post(elsewhere, json=body, headers=headers)
    assert third.status_code == 400
    assert third.json()["detail"]["code"] == "EXECUTION_ID_INVALID"
    assert "has no run" in third.json()["detail"]["message"]
    fresh.fakes.opened.set()
    first.join(20)
    assert '"step_paused"' in responses[0].text


def test_session_of_a_running_run_has_its_events_so_far(fresh: Backend) -> None:
    fresh.submit("tests/gated", session="busy")
    wait_until(fresh.fakes.reached.is_set)
    [execution] = fresh.session("busy")
    assert execution["status"] == "running"
    assert [s["status"] for s in execution["steps"]] == ["completed", "running"]
    # With secrets masked, the chunks would be stored when the step ends.
    assert execution["events"][-1]["eventType"] == "step_output"
