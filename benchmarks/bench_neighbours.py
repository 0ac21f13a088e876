"""Simulate a thousand organisations, one of which sends far more than its limit.

The organisations' traffic has Zipf's distribution. It is sent at fixed times, so that a slow response does
not make the load smaller. Then the same traffic is sent again beside a noisy organisation. Its limits must
keep the 99th percentile of the others nearly where it was. A step takes 100 ms, less than a model's call.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import create_engine, insert

from benchmarks.bench_dev import BODY, served
from benchmarks.bench_jobs import sync_url
from benchmarks.load import Connection, post
from benchmarks.measure import Row
from noukai_sdk.backend.store.keys import hash_of
from noukai_sdk.backend.store.tables import api_keys, organisations
from tests.support.postgres import postgres

ORGANISATIONS = 1_000
PER_MINUTE, AT_ONCE = 600, 4
SECONDS = 12.0
# Calls a second of all organisations, about a third of what one process answers, and of the noisy one.
RATE, NOISY_RATE = 40, 200
CONNECTIONS = 32
NOISY = "org0"
FUNCTION = """
import asyncio

async def wait(message):
    await asyncio.sleep(0.1)
    return message
"""
ROUNDS = 3


def run() -> list[Row]:
    """Return the 99th percentiles of the others' calls, without and beside the noisy organisation."""
    quiet, noisy, refused = [], [], 0.0
    with ExitStack() as stack:
        new_database = stack.enter_context(postgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = new_database().render_as_string(hide_password=False)
        write_flows(folder)
        serve = ["noukai_sdk.cli", "serve", "--port", "0", "--db", url, "--flows", str(folder)]
        address = stack.enter_context(served(serve))
        put_organisations(url)
        asyncio.run(traffic(address, noisy_rate=0, seconds=3.0))  # warms up
        for _ in range(ROUNDS):
            quiet.append(asyncio.run(traffic(address, noisy_rate=0))[0])
            others, refused = asyncio.run(traffic(address, noisy_rate=NOISY_RATE))
            noisy.append(others)
    before, beside = statistics.median(quiet), statistics.median(noisy)
    return [
        Row("p99 of 999 organisations", before * 1e3, None, "ms"),
        Row("p99 of them beside a noisy one", beside * 1e3, None, "ms"),
        Row("beside the noisy one / without it", beside / before, 1.5, "times"),
        Row("refused calls of the noisy one", refused * 100, None, "percent"),
    ]


def write_flows(folder: Path) -> None:
    (folder / "waits.py").write_text(FUNCTION)
    for number in range(ORGANISATIONS):
        path = folder / f"org{number}" / "p" / "hello.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("steps: [{id: hello, function: 'waits:wait'}]")


def put_organisations(url: str) -> None:
    """Store a key and the limit of each organisation; the keys are nk_org0, nk_org1, ..."""
    names = [f"org{number}" for number in range(ORGANISATIONS)]
    keys = [
        {"id": name, "org": name, "name": "", "hash": hash_of(f"nk_{name}"), "created_at": 1}
        for name in names
    ]
    limits = [
        {"org": name, "requests_per_minute": PER_MINUTE, "max_running": AT_ONCE} for name in names
    ]
    engine = create_engine(sync_url(url))
    with engine.begin() as connection:
        connection.execute(insert(api_keys), keys)
        connection.execute(insert(organisations), limits)
    engine.dispose()


async def traffic(
    address: str, *, noisy_rate: float, seconds: float = SECONDS
) -> tuple[float, float]:
    """Send calls for some seconds; return the others' p99 and the share of refused noisy calls."""
    chosen = random.Random(7)
    weights = [1 / (rank + 1) for rank in range(ORGANISATIONS - 1)]
    others = chosen.choices(range(1, ORGANISATIONS), weights, k=round(RATE * seconds))
    calls = iter([(number / RATE, f"org{org}") for number, org in enumerate(others)])
    noisy_calls = iter([(n / noisy_rate, NOISY) for n in range(round(noisy_rate * seconds))])
    times: list[float] = []
    noisy: list[int] = []
    start = time.perf_counter()

    async def client(calls: Iterator[tuple[float, str]]) -> None:
        async with Connection(address) as connection:
            for at, org in calls:
                await asyncio.sleep(at - (time.perf_counter() - start))
                request = post(
                    address,
                    f"/api/v1/seq/{org}/p/hello/execute",
                    BODY.encode(),
                    f"Authorization: Bearer nk_{org}",
                )
                status = await connection.send(request)
                if org == NOISY:
                    noisy.append(status)
                else:
                    # Under Zipf's law, the second largest organisation may meet its own limit.
                    assert status in (200, 429)
                    # From the moment at which it was due.
                    times.append(time.perf_counter() - start - at)

    # Each has connections of its own: calls that wait for the noisy one's would be its fault.
    clients = [client(each) for each in (calls, noisy_calls) for _ in range(CONNECTIONS)]
    await asyncio.gather(*clients)
    refused = noisy.count(429) / len(noisy) if noisy else 0.0
    return sorted(times)[round(len(times) * 0.99) - 1], refused
