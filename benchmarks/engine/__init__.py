"""The local engine beside GraphBit, LangGraph and the clients underneath: python -m benchmarks engine.

GraphBit and LangGraph are measured if they are installed: pip install graphbit==0.6.8 langgraph.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from benchmarks.engine import in_process, over_http, resuming
from benchmarks.engine.comparison import Comparison
from benchmarks.engine.server import serving
from benchmarks.measure import Row


def run() -> list[Row]:
    return [row for comparison in comparisons() for row in comparison.rows()]


def comparisons() -> Iterator[Comparison]:
    """Measure one thing after the other."""
    with serving() as url:
        yield asyncio.run(over_http.function_chain(url))
        yield asyncio.run(over_http.agent_chain(url, aiohttp=True))
        yield asyncio.run(over_http.agent_chain(url, aiohttp=False))
        yield asyncio.run(over_http.fan_out(url))
        yield asyncio.run(over_http.batch(url))
        yield asyncio.run(over_http.rate_limit(url))
        yield asyncio.run(in_process.per_node(url))
    yield from asyncio.run(in_process.growth())
    yield asyncio.run(in_process.memory())
    yield asyncio.run(resuming.resume())
