"""The time of a replayed call beside a live one over a mock transport, in short sessions and in long ones.

Calls are timed in blocks of 100, each block counts with its best round, and the limit holds for the mean
over all blocks. This ignores disturbances, but nothing that grows with the session. Time is processor
time: no call waits for anything, and other programs on the machine do not count.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import httpx

from benchmarks.measure import PROCESSOR, Row, best_of_each
from noukai_sdk import AsyncFlow, AsyncNoukai, Flow, Noukai, trace_scope, trace_scope_sync
from noukai_sdk.replay.player import ReplayOptions
from noukai_sdk.session import lost_scope
from noukai_sdk.session.replay_scope import open_session

SHORT, MEDIUM, LONG = 100, 400, 4_000
BLOCK = 100
LIVE = 0
ROUNDS = {LIVE: 60, SHORT: 60, MEDIUM: 30, LONG: 8}
FLOW = "acme/spelling/grade-3"
DONE = {"status": "completed", "result": "x", "flowId": "f", "blockCount": 1, "executionId": "e"}


def run() -> list[Row]:
    """Measure the microseconds of a call, sync and async, and their growth with the session."""
    with patch.dict(os.environ, NOUKAI_REPLAY_ENABLED="true"):
        sync, as_async = micro(replay_sync, call_sync), micro(replay_async, call_async)
    return [
        Row("replayed execute(), sync", sync[SHORT], None, "µs"),
        Row("replayed execute(), async", as_async[SHORT], None, "µs"),
        Row("replayed / live over a mock transport, sync", sync[SHORT] / sync[LIVE], 0.2, "times"),
        Row("replayed / live, async", as_async[SHORT] / as_async[LIVE], 0.2, "times"),
        Row(f"sync, {LONG} recordings / {MEDIUM}", sync[LONG] / sync[MEDIUM], 1.3, "times"),
        Row(
            f"async, {LONG} recordings / {MEDIUM}", as_async[LONG] / as_async[MEDIUM], 1.3, "times"
        ),
        Row("the same in a long session, sync", sync[LONG] / sync[LIVE], 0.2, "times"),
        Row("the same in a long session, async", as_async[LONG] / as_async[LIVE], 0.2, "times"),
        opening(),
    ]


def opening() -> Row:
    """Compare opening a long session with ``json.loads`` of it."""
    body = respond(httpx.Request("GET", f"http://service/{LONG}")).content
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body)))
    transport = Noukai(api_key="nk_bench", http_client=http)._transport

    def opened() -> None:
        scope = transport.run(open_session(transport.service, str(LONG), ReplayOptions()))
        lost_scope.ended(scope)

    took = best_of_each({"json": lambda: json.loads(body), "ours": opened}, 30, PROCESSOR)
    return Row(f"opening {LONG} calls / json.loads", took["ours"] / took["json"], 3.0, "times")


def micro(
    replay: Callable[[int], list[float]],
    live: Callable[[int], list[float]],
    sizes: Sequence[int] = (SHORT, MEDIUM, LONG),
) -> dict[int, float]:
    """Return the microseconds of a call, for each size of the session, and LIVE of a live call.

    Each is the mean of the blocks, each block in its best round. All are timed in turn.
    """
    rounds: dict[int, list[list[float]]] = defaultdict(list)
    for number in range(ROUNDS[LIVE]):
        rounds[LIVE].append(live(SHORT))
        for size in sizes:
            if number % (ROUNDS[LIVE] // ROUNDS[size]) == 0:
                rounds[size].append(replay(size))
    return {
        size: statistics.mean(min(block) for block in zip(*blocks, strict=True)) / BLOCK * 1e6
        for size, blocks in rounds.items()
    }


def replay_sync(size: int) -> list[float]:
    """Return the seconds of each block, on the sync client."""
    http = httpx.Client(transport=httpx.MockTransport(respond))
    flow = Noukai(api_key="nk_bench", http_client=http).flow(FLOW)
    with trace_scope_sync(replay_session_id=str(size), transport=flow._transport):
        return timed(flow, size)


def replay_async(size: int) -> list[float]:
    """Return the seconds of each block, on the async client."""

    async def replay() -> list[float]:
        http = httpx.AsyncClient(transport=httpx.MockTransport(respond))
        flow = AsyncNoukai(api_key="nk_bench", http_client=http).flow(FLOW)
        async with trace_scope(replay_session_id=str(size), transport=flow._transport):
            return await timed_async(flow, size)

    return asyncio.run(replay())


def call_sync(size: int) -> list[float]:
    """Return the seconds of each block of live calls, on the sync client."""
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=DONE)))
    flow = Noukai(api_key="nk_bench", http_client=http).flow(FLOW)
    return timed(flow, size)


def call_async(size: int) -> list[float]:
    """Return the seconds of each block of live calls, on the async client."""

    async def call() -> list[float]:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=DONE))
        http = httpx.AsyncClient(transport=transport)
        flow = AsyncNoukai(api_key="nk_bench", http_client=http).flow(FLOW)
        return await timed_async(flow, size)

    return asyncio.run(call())


def timed(flow: Flow, size: int) -> list[float]:
    """Execute the flow once for each message; return the seconds of each block."""
    times = []
    for block in blocks(size):
        start = PROCESSOR()
        for message in block:
            flow.execute(message=message)
        times.append(PROCESSOR() - start)
    return times


async def timed_async(flow: AsyncFlow, size: int) -> list[float]:
    """Do the same on the async client."""
    times = []
    for block in blocks(size):
        start = PROCESSOR()
        for message in block:
            await flow.execute(message=message)
        times.append(PROCESSOR() - start)
    return times


def blocks(size: int) -> list[list[str]]:
    """Return the recorded messages, in blocks."""
    return [[f"m{n}" for n in range(start, start + BLOCK)] for start in range(0, size, BLOCK)]


def respond(request: httpx.Request) -> httpx.Response:
    """Return the session whose id is its size."""
    size = int(request.url.path.rpartition("/")[2])
    recorded = [execution(number) for number in range(size)]
    return httpx.Response(200, json={"sessionId": str(size), "executions": recorded})


def execution(number: int) -> dict[str, Any]:
    """Return one call as the hosted service sends it."""
    minutes, seconds = divmod(number, 60)
    at = f"2026-05-31T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return {
        "executionId": f"exec-{number}",
        "flowId": "flow-1",
        "slug": "grade-3",
        "triggerType": "execute",
        "status": "completed",
        "startedAt": f"{at}.000Z",
        "completedAt": f"{at}.900Z",
        "traceCaptureMode": "full",
        "snapshotsAvailable": True,
        "steps": [
            {
                "stepId": "grade",
                "status": "completed",
                "inputSnapshot": {"message": f"m{number}"},
                "outputSnapshot": "The cat sat on the mat.",
            }
        ],
    }


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:45} {row.value:8.2f} {row.unit:6} {row.limit or ''}")
