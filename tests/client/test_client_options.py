"""Options of copies of a client and of single calls: timeouts, retries, headers, keys, raw responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import APITimeoutError, ClientClosedError, PausedResult, trace_scope_sync
from tests.support.service import DONE, NEVER, PAUSED, Reply, Service
from tests.support.sides import SYNC, Side

BUSY = Reply({"detail": "busy"}, 503)


async def test_with_options_shares_connections_and_closing(side: Side, service: Service) -> None:
    async with side.client(default_headers={"X-Team": "a", "X-Mine": "1"}) as client:
        copy = client.with_options(extra_headers={"x-team": "b"}, max_retries=0)
        assert type(copy) is type(client)
        await side.call(client.flow("grade-3").execute, "hi")
        await side.call(copy.flow("grade-3").execute, "hi", extra_headers={"X-MINE": "2"})
        first, second = service.requests
        assert (first.headers["x-team"], first.headers["x-mine"]) == ("a", "1")
        assert (second.headers["x-team"], second.headers["x-mine"]) == ("b", "2")
        assert first.client == second.client
        await side.close(copy)
        for each in (client, copy):
            with pytest.raises(ClientClosedError):
                await side.call(each.flow("grade-3").execute, "hi")


async def test_max_retries_of_copy_and_call_replace_those_of_client(
    side: Side, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.protocol.exchange.FIRST_DELAY", 0.001)
    service.reply(BUSY)
    async with side.client(max_retries=1) as client:
        copy = client.with_options(max_retries=2)
        for each, requests in ((client, 2), (copy, 3)):
            service.requests.clear()
            with pytest.raises(Exception, match="busy"):
                await side.call(each.flow("grade-3").run("e").trace)
            assert len(service.requests) == requests
    # Nothing listens there, so a call is sent again as often as it may be.
    attempts: list[Any] = []
    async with side.client(base_url="http://127.0.0.1:9", log_handler=attempts.append) as client:
        for retries in (0, 2):
            attempts.clear()
            with pytest.raises(Exception, match="connection failed"):
                await side.call(client.flow("grade-3").execute, "hi", max_retries=retries)
            assert len([each for each in attempts if each["phase"] == "request"]) == retries + 1


async def test_httpx_timeout_is_accepted_wherever_a_timeout_is(
    every_side: Side, service: Service
) -> None:
    short = httpx.Timeout(30.0, read=0.05)
    async with every_side.client(timeout=httpx.Timeout(30.0, connect=None)) as client:
        flow = client.flow("grade-3")
        assert (await every_side.call(flow.execute, "hi")).result == {"grade": 3}
        service.reply(Reply(DONE, when=NEVER))
        with pytest.raises(APITimeoutError):
            await every_side.call(flow.execute, "hi", timeout=short)
        with pytest.raises(APITimeoutError):
            await every_side.call(flow.run("e").trace, timeout=short)
        copy = client.with_options(timeout=short, max_retries=0)
        with pytest.raises(APITimeoutError):
            await every_side.call(copy.flow("grade-3").job("e").poll)
        service.reply({"executionId": "e", "status": "completed"})
        assert (await every_side.call(flow.job("e").wait)).is_done


async def test_idempotency_key_is_sent_with_the_first_request_of_a_run(
    side: Side, service: Service
) -> None:
    service.reply(PAUSED, DONE, Reply({"executionId": "e", "status": "pending"}, 202))
    async with side.flow() as flow:
        paused = await side.call(flow.execute, "hi", idempotency_key="k-1")
        await side.resume(paused, [{"tool_call_id": "call_1", "output": 1}])
        await side.call(flow.execute_async, "hi", idempotency_key="k-2")
        with pytest.raises(ValueError, match="idempotency_key must be"):
            await side.call(flow.execute, "hi", idempotency_key="a b")
        with pytest.raises(TypeError, match="unexpected keyword argument 'idempotency_key'"):
            flow.steps("hi", idempotency_key="k")
    keys = [request.headers.get("idempotency-key") for request in service.requests]
    assert keys == ["k-1", None, "k-2"]


async def test_raw_response_has_headers_status_and_result(side: Side, service: Service) -> None:
    extra = {"Idempotent-Replayed": "true"}
    service.reply(
        Reply(DONE, headers=extra),
        Reply({"executionId": "e", "status": "pending"}, 202),
        PAUSED,
        DONE,
    )
    async with side.flow() as flow:
        raw = await side.call(flow.with_raw_response.execute, "hi", response_model=dict[str, int])
        assert (raw.status_code, raw.request_id) == (200, "req-1")
        assert raw.headers["IDEMPOTENT-REPLAYED"] == "true"
        assert raw.parsed.output == {"grade": 3}
        job = await side.call(flow.with_raw_response.execute_async, "hi")
        assert (job.status_code, job.parsed.execution_id) == (202, "e")
        paused = (await side.call(flow.with_raw_response.execute, "hi")).parsed
        assert isinstance(paused, PausedResult)
        results = [{"tool_call_id": "call_1", "output": 1}]
        assert (await side.resume(paused, results)).result == {"grade": 3}


def test_scope_and_replay_take_copy_for_same_client(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "1")
    with SYNC.make() as client:
        file = tmp_path / "c.jsonl"
        copies = [client, client.with_options(extra_headers={"X-Mine": "1"}, timeout=5)]
        with trace_scope_sync(client=client, record=file) as scope:
            for each in copies:
                each.flow("grade-3").execute("hi")
            assert scope.other_services == ()
        with trace_scope_sync(client=client, cassette=file) as scope:
            raw = copies[1].flow("grade-3").with_raw_response.execute("hi", max_retries=5)
            copies[0].flow("grade-3").execute("hi", idempotency_key="k")
        assert scope.report.clean
    assert (raw.status_code, raw.headers, raw.request_id) == (None, {}, "req-1")
    assert len({request.headers["x-session-id"] for request in service.requests}) == 1
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"max_retries": -1}, ValueError),
        ({"extra_headers": {"Authorization": "x"}}, ValueError),
        ({"extra_headers": "x"}, TypeError),
    ],
)
def test_with_options_not_valid_raises(options: dict[str, Any], error: type[Exception]) -> None:
    with SYNC.make() as client, pytest.raises(error):
        client.with_options(**options)
    name = "default_headers" if "extra_headers" in options else next(iter(options))
    with pytest.raises(error):
        SYNC.make(**{name: next(iter(options.values()))})
