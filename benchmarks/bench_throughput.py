"""Many calls at once: ``AsyncNoukai`` over httpx and over the extra ``fast``, compared to plain httpx.

Rates are calls per second of the client's own processor time. The service is a process of its own and
waits for the client, so on an idle machine these are the calls per second by the clock.

Each call under way has some 90 objects, most of them the HTTP library's. If a thousand calls are sent at
the same moment, Python's garbage collector runs every few calls and finds nothing, which takes a fifth of
the time. So the limit for 1,000 at once is lower, and the ratio without the collector is shown as well.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import httpx

from benchmarks.lean_service import served
from benchmarks.measure import Row
from noukai_sdk import AsyncNoukai
from noukai_sdk.transport.fast import VARIABLE

CONCURRENCIES = (8, 64, 1_000)
# Several for each of the thousand: the throughput is measured, not the start of a thousand tasks.
CALLS = 5_000
ROUNDS = 4
CALL = {"message": "The cat sat on the mat."}

Call = Callable[[], Awaitable[Any]]
Opened = Callable[[str], AbstractAsyncContextManager[Call]]
Rates = dict[tuple[str, int], float]


def run() -> list[Row]:
    """Return the calls per second, and the ratios that have limits."""
    clients = {"ours": ours("0"), "ours with fast": ours("1")}
    plain: Rates = {}
    rates: Rates = {}
    uncollected: Rates = {}
    with served() as url:
        for _ in range(ROUNDS):
            measure(rates, url, clients, CONCURRENCIES, CALLS)
            with not_collecting():
                measure(uncollected, url, clients, (8, 1_000), CALLS)
        # Once and with fewer calls: it takes a minute as it is.
        measure(plain, url, {"plain httpx": plain_httpx}, CONCURRENCIES, CALLS // 10)
    return [*shown(plain | rates), *limited(plain | rates, uncollected)]


def shown(rates: Rates) -> list[Row]:
    return [
        Row(f"{name}, {at_once} at once", rate, None, "calls/s")
        for (name, at_once), rate in rates.items()
    ]


def limited(rates: Rates, uncollected: Rates) -> list[Row]:
    rows = []
    for name in ("ours", "ours with fast"):
        few, some, many = (rates[name, at_once] for at_once in CONCURRENCIES)
        kept = uncollected[name, 1_000] / uncollected[name, 8]
        rows += [
            Row(f"{name}, 64 at once / 8 at once", some / few, 0.9, "times", True),
            Row(f"{name}, 1000 at once / 8 at once", many / few, 0.75, "times", True),
            Row(f"{name}, 1000 / 8, without the collector", kept, None, "times"),
        ]
    for at_once in CONCURRENCIES[1:]:
        gained = rates["ours with fast", at_once] / rates["plain httpx", at_once]
        rows.append(
            Row(f"ours with fast / plain httpx, {at_once} at once", gained, 3.0, "times", True)
        )
    return rows


@contextmanager
def not_collecting() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(
    rates: Rates, url: str, clients: dict[str, Opened], concurrencies: Sequence[int], calls: int
) -> None:
    """Put the best rates of the rounds so far into ``rates``."""
    for name, opened in clients.items():
        for at_once in concurrencies:
            rate = asyncio.run(calls_a_second(opened, url, at_once, max(calls, at_once)))
            rates[name, at_once] = max(rate, rates.get((name, at_once), 0.0))


async def calls_a_second(opened: Opened, url: str, at_once: int, calls: int) -> float:
    async with opened(url) as call:
        await many(call, at_once, at_once)  # opens the connections
        start = time.process_time()
        await many(call, calls, at_once)
        return calls / (time.process_time() - start)


async def many(call: Call, count: int, at_once: int) -> None:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(worker() for _ in range(at_once)))


@asynccontextmanager
async def plain_httpx(url: str) -> Any:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:

        async def call() -> None:
            response = await client.post(f"{url}/seq/acme/spelling/grade-3/execute", json=CALL)
            response.json()

        yield call


def ours(fast: str) -> Opened:
    @asynccontextmanager
    async def opened(url: str) -> Any:
        os.environ[VARIABLE] = fast
        async with AsyncNoukai(api_key="nk_bench", base_url=url) as client:
            flow = client.flow("acme/spelling/grade-3")
            yield lambda: flow.execute(message=CALL["message"])

    return opened
