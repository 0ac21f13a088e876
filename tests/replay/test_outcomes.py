"""Calls that failed, were refused or given up in production: the client reports them to the service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from noukai_sdk import (
    APITimeoutError,
    Noukai,
    NoukaiError,
    ReplayMissError,
    trace_scope_sync,
)
from noukai_sdk.transport import background
from tests.support.faulty import FaultyService, serve_faulty
from tests.support.replays import (
    AsyncSide,
    SessionService,
    SyncSide,
    execution,
    iso,
    step,
)
from tests.support.replays import outcome as outcome_of
from tests.support.servers import serve_backend

pytestmark = pytest.mark.anyio

# Each run has another result, so that a call that goes live in a replay shows.
STEPS = """
import asyncio, itertools
numbers = itertools.count()
def echo(text):
    return f"{text} #{next(numbers)}"
async def slow(text):
    await asyncio.sleep(float(text.split()[0]))
    return f"{text} #{next(numbers)}"
"""
FLOWS = {
    "_steps.py": STEPS,
    "echo.yaml": "steps: [{id: echo, function: '_steps.py:echo'}]",
    "slow.yaml": "steps: [{id: slow, function: '_steps.py:slow'}]",
    "both.yaml": "steps: [{id: a, function: '_steps.py:echo'}, {id: b, function: '_steps.py:slow'}]",
}
ECHO, SLOW, BOTH = "acme/tests/echo", "acme/tests/slow", "acme/tests/both"
LONG, SHORT = "20 s", "0.1 s"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultyService, str]]:
    folder: Path = tmp_path_factory.mktemp("outcomes")
    flows = folder / "flows" / "acme" / "tests"
    flows.mkdir(parents=True)
    for name, text in FLOWS.items():
        (flows / name).write_text(text)
    with (
        serve_backend(folder, flows=folder / "flows") as server,
        serve_faulty(server.url) as served,
    ):
        yield served


@pytest.fixture
def proxy(faulty: tuple[FaultyService, str], use_service: Callable[[str], None]) -> FaultyService:
    """A real backend, behind a proxy that refuses what a test says."""
    service, url = faulty
    service.fault = lambda line, body: None
    service.requests.clear()
    use_service(f"{url}/api/v1")
    return service


@pytest.fixture(params=[SyncSide, AsyncSide], ids=["sync", "async"])
async def live(request: Any, proxy: FaultyService) -> AsyncIterator[SyncSide]:
    side: SyncSide = request.param()
    yield side
    await _close(side)


@pytest.fixture
async def async_live(proxy: FaultyService) -> AsyncIterator[AsyncSide]:
    side = AsyncSide()
    yield side
    await _close(side)


async def _close(side: SyncSide) -> None:
    if side.is_async:
        await side.client.aclose()
    else:
        side.client.close()


Body = Callable[[Any], Any]


async def assert_replays(side: SyncSide, body: Body, hits: int) -> None:
    """Capture ``body``, then replay it three times with equal results and a clean report."""
    async with side.scope() as scope:
        captured = await body(side)
    for _ in range(3):
        async with side.scope(scope.session_id, strict_inputs=True) as replay:
            assert await body(side) == captured
        assert replay.report.summary() == f"hits={hits}; misses=0; drift=0; leftovers=0"


async def test_refused_and_failed_calls_of_a_session_replay(
    live: SyncSide, proxy: FaultyService
) -> None:
    refusals = {"busy": [429, 429], "broken": [503], "gone": [404]}

    def fault(line: str, body: Any) -> int | None:
        statuses = refusals.get(body["message"]) if line.endswith("/execute") else None
        return statuses.pop(0) if statuses else None

    async def body(side: SyncSide) -> list[Any]:
        results: list[Any] = []
        for message in ("first", "busy", "busy", "busy", "broken", "broken", "gone", "last"):
            result = await outcome_of(side.execute(message, slug=ECHO))
            results.append(getattr(result, "result", result))
        return results

    proxy.fault = fault
    await assert_replays(live, body, hits=8)


async def test_timeouts_of_a_session_replay_at_once(live: SyncSide) -> None:
    async def body(side: SyncSide) -> list[Any]:
        results: list[Any] = []
        # The last one never reaches the service.
        for message, timeout in ((LONG, 0.3), (SHORT, 30), (LONG, 0.3), (SHORT, 1e-6)):
            result = await outcome_of(side.execute(message, slug=SLOW, timeout=timeout))
            results.append(getattr(result, "result", result))
        assert [result[0] for result in results[::2]] == [APITimeoutError] * 2
        return results

    await assert_replays(live, body, hits=4)


async def test_stream_that_its_reader_leaves_or_that_times_out_replays(live: SyncSide) -> None:
    async def body(side: SyncSide) -> list[Any]:
        stream = side.flow(BOTH).events(message=LONG)
        seen: list[Any] = [(await side.next(stream)).type for _ in range(3)]
        await side.close(stream)
        stream = side.flow(BOTH).events(message=LONG, timeout=0.3)
        while not isinstance(event := await outcome_of(side.next(stream)), tuple):
            seen.append(event.type)
        assert event[0] is APITimeoutError
        return [*seen, (await side.execute("x", slug=ECHO)).result]

    await assert_replays(live, body, hits=3)


@pytest.mark.filterwarnings("ignore:concurrent execute calls")
async def test_calls_that_are_given_up_replay(async_live: AsyncSide) -> None:
    async def body(side: AsyncSide) -> list[Any]:
        results: list[Any] = []
        with anyio.move_on_after(0.2):
            results.append(await side.execute(LONG, slug=SLOW))
        with anyio.move_on_after(0.2):
            results += [each.type async for each in side.flow(BOTH).events(message=LONG)]

        async def first_of(*messages: str) -> str:
            """A hedge: cancel the others when the first has come."""
            async with anyio.create_task_group() as tasks:

                async def call(message: str) -> None:
                    results.append((await side.execute(message, slug=SLOW)).result)
                    tasks.cancel_scope.cancel()

                for message in messages:
                    tasks.start_soon(call, message)
            return results[-1]

        await first_of("30 s", SHORT, "31 s")
        results.append((await side.execute("0.05 s", slug=SLOW)).result)
        return results

    await assert_replays(async_live, body, hits=6)


async def test_abandoned_call_that_is_waited_for_is_a_miss(async_live: AsyncSide) -> None:
    async with async_live.scope() as scope:
        with anyio.move_on_after(0.05):
            await async_live.execute(LONG, slug=SLOW)
    with pytest.raises(ReplayMissError, match=r"gave up after \d"):
        async with async_live.scope(scope.session_id):
            await async_live.execute(LONG, slug=SLOW)


async def test_scope_without_failures_sends_nothing(live: SyncSide, proxy: FaultyService) -> None:
    async with live.scope():
        await live.execute("x", slug=ECHO)
        assert len(await live.events(SHORT, slug=BOTH)) > 6
        stream = live.flow(BOTH).events(message=SHORT)
        while (await live.next(stream)).type != "flow_completed":
            pass
        await live.close(stream)
    assert background.flush(10)
    assert [line for line in proxy.requests if line.startswith("PUT")] == []


def test_outcomes_hold_no_secrets_and_no_replay_errors() -> None:
    bodies: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            bodies.append(request.content.decode())
            return httpx.Response(200, json={})
        return httpx.Response(402, json={"detail": {"code": "NO", "message": "of nk_secret_1"}})

    http = httpx.Client(transport=httpx.MockTransport(respond))
    client = Noukai(api_key="nk_secret_1", http_client=http)
    with trace_scope_sync(client=client):
        for _ in range(2):
            with pytest.raises(NoukaiError):
                client.flow("a/b/c").execute("my key is nk_secret_1", parameters={"password": "pw"})
    assert background.flush(10)
    (body,) = bodies
    assert "nk_secret_1" not in body
    assert '"pw"' not in body
    outcomes = json.loads(body)["outcomes"]
    assert [(each["position"], each["calls"]) for each in outcomes] == [(0, 2), (1, 2)]


def outcome(position: int, message: str, **fields: Any) -> dict[str, Any]:
    """An outcome of the flow grade-3 at so many seconds."""
    call = {
        "org": "acme",
        "project": "spelling",
        "slug": "grade-3",
        "request": {"message": message},
    }
    times = {"startedAt": iso(position - 0.4), "completedAt": iso(position - 0.1)}
    return {"kind": "execute", "position": position, "call": call, **times, **fields}


REFUSED = {"statusCode": 429, "type": "RateLimitError", "message": "slow down"}
LATER = {"startedAt": iso(0.99), "completedAt": iso(1.2)}
SOON = {"startedAt": iso(0.95), "completedAt": iso(0.99)}
CUT = {"type": "APIConnectionError", "message": "cut", "details": {"request_sent": True}}


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([outcome(0, "m0", error=REFUSED)], ["slow down", "m0", "m1", "m2"]),
        ([outcome(2, "x", error=REFUSED)], ["m0", "m1", "slow down", "m2"]),
        ([outcome(9, "x", error=REFUSED)], ["m0", "m1", "m2", "slow down"]),
        # The run is known, or it is found by its input.
        ([outcome(9, "x", error=CUT, executionId="exec-1")], ["m0", "cut", "m2"]),
        ([outcome(1, "m1", error=CUT, **LATER)], ["m0", "cut", "m2"]),
        ([outcome(1, "m1", error=CUT, calls=3)], ["m0", "cut", "m2"]),
        ([outcome(1, "m2", error=CUT, calls=4)], ["m0", "cut", "m1", "m2"]),
        ([outcome(1, "x", error=CUT)], ["m0", "cut", "m1", "m2"]),
        # Two retries of m1, of which one had a run.
        (
            [
                outcome(1, "m1", error=REFUSED, calls=5),
                outcome(2, "m1", error=CUT, calls=5, **SOON),
            ],
            ["m0", "slow down", "cut", "m1", "m2"],
        ),
    ],
)
async def test_outcomes_take_their_place_among_the_runs(
    side: SyncSide, service: SessionService, outcomes: list[Any], expected: list[str]
) -> None:
    runs = [execution(number) for number in range(3)]
    service.sessions["s-1"] = {"sessionId": "s-1", "executions": runs, "outcomes": outcomes}
    results = []
    async with side.scope() as scope:
        for message in expected:
            sent = "m1" if message in ("slow down", "cut") else message
            result = await outcome_of(side.execute(sent, slug="acme/spelling/grade-3"))
            results.append(result[1] if isinstance(result, tuple) else result.result[10:])
    assert results == expected
    assert len(scope.report.hits) == len(expected)


@pytest.mark.parametrize("known", [{"executionId": "exec-0"}, {"calls": 1}], ids=["id", "place"])
async def test_reader_that_left_a_stopped_stream_replays_to_its_end(
    side: SyncSide, service: SessionService, known: dict[str, Any]
) -> None:
    events = [{"eventType": "run_started"}, {"eventType": "step_started", "stepId": "a"}]
    stopped = execution(
        0,
        triggerType="step",
        status="cancelled",
        steps=[step("a", status="failed", errorSnapshot={"code": "CANCELLED"})],
        events=events,
        error={"code": "CANCELLED"},
    )
    left = outcome(0, "m0", kind="step", seen=1, **known)
    service.sessions["s-1"] = {"sessionId": "s-1", "executions": [stopped], "outcomes": [left]}
    async with side.scope() as scope:
        assert [event.type for event in await side.events("m0")] == ["run_started", "step_started"]
    assert scope.report.clean


async def test_session_without_calls_replays(side: SyncSide, service: SessionService) -> None:
    service.record()
    async with side.scope() as scope:
        pass
    assert scope.report.summary() == "hits=0; misses=0; drift=0; leftovers=0"
    with pytest.raises(ReplayMissError):
        async with side.scope():
            await side.execute()
