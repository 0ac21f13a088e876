"""A proxy in front of a real service that refuses, delays or cuts chosen requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx

from tests.support.servers import serve_app

Fault = Callable[[str, Any], "int | None"]
"""Takes the method and path, and the JSON body; returns the status to refuse with, or None to pass on."""


class FaultyService:
    """An ASGI app that passes requests on to ``upstream``.

    Attributes:
        fault: Decides about each request.
        requests: Method and path of each request.
    """

    def __init__(self, upstream: str) -> None:
        self.fault: Fault = lambda line, body: None
        self.requests: list[str] = []
        self._upstream = upstream

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"")
        line = f"{scope['method']} {scope['path']}"
        self.requests.append(line)
        status = self.fault(line, json.loads(body) if body else None)
        if status is not None:
            headers = [(b"retry-after", b"1")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"detail": {"code": "NO"}}'})
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, receive, tasks)
            await self._pass_on(scope, body, send)
            tasks.cancel_scope.cancel()

    async def _watch(self, receive: Any, tasks: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    async def _pass_on(self, scope: Any, body: bytes, send: Any) -> None:
        url = self._upstream + scope["raw_path"].decode()
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        async with (
            httpx.AsyncClient(timeout=60, trust_env=False) as client,
            client.stream(scope["method"], url, content=body, headers=headers) as response,
        ):
            start = {"type": "http.response.start", "status": response.status_code}
            kind = response.headers.get("content-type", "").encode()
            await send({**start, "headers": [(b"content-type", kind)]})
            async for part in response.aiter_bytes():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


@contextmanager
def serve_faulty(upstream: str) -> Iterator[tuple[FaultyService, str]]:
    """Serve a proxy; yield it and its root URL."""
    service = FaultyService(upstream)
    with serve_app(service, lifespan="off") as url:
        yield service, url
