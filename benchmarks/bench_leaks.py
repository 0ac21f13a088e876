"""Count the scopes that are left after 10,000 requests with random disconnects, on a real uvicorn.

The routes are plain and streaming; half of the clients disconnect half way. A scope that is alive
after all connections are closed has leaked.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import noukai_sdk
from benchmarks.measure import Row
from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.starlette import instrument
from noukai_sdk.session.scope import Scope

REQUESTS = 10_000
AT_ONCE = 50
PARTS = 20


def run() -> list[Row]:
    """Return how many scopes are left, and how many requests saw the scope of another one."""
    left, crossed = asyncio.run(_count())
    return [
        Row(f"scopes left after {REQUESTS:,} requests with random disconnects", left, 0, "scopes"),
        Row("requests that saw another request's session", crossed, 0, "requests"),
    ]


class App:
    """Routes that check after each suspension that the session is still the same."""

    def __init__(self) -> None:
        self.crossed = 0

    async def plain(self, _: Request) -> Response:
        session = noukai_sdk.current_session_id()
        await asyncio.sleep(0.001)
        self.crossed += session != noukai_sdk.current_session_id()
        return JSONResponse({"session": session})

    async def stream(self, _: Request) -> Response:
        return StreamingResponse(self.parts())

    @noukai_sdk.trace
    async def parts(self) -> AsyncIterator[str]:
        session = noukai_sdk.current_session_id()
        for number in range(PARTS):
            yield f"{number} {session}\n"
            await asyncio.sleep(0.001)
            self.crossed += session != noukai_sdk.current_session_id()


async def _count() -> tuple[int, int]:
    app = App()
    routes = [Route("/plain", app.plain), Route("/stream", app.stream)]
    starlette = instrument(Starlette(routes=routes), client=AsyncNoukai(api_key="nk_bench"))
    config = uvicorn.Config(starlette, port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    before = _scopes()
    port = server.servers[0].sockets[0].getsockname()[1]
    await _send_requests(f"http://127.0.0.1:{port}")
    server.should_exit = True
    await serving
    return _scopes() - before, app.crossed


async def _send_requests(url: str) -> None:
    rng = random.Random(2026)
    slots = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:

        async def send_one() -> None:
            async with slots:
                path = rng.choice(["/plain", "/stream"])
                lines_to_read = rng.choice([0, 1, 3, PARTS * 2])
                async with http.stream("GET", path) as response:
                    async for _ in response.aiter_lines():
                        lines_to_read -= 1
                        if lines_to_read < 0:
                            return

        await asyncio.gather(*(send_one() for _ in range(REQUESTS)))


def _scopes() -> int:
    gc.collect()
    return sum(isinstance(thing, Scope) for thing in gc.get_objects())
