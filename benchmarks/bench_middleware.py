"""Measure what the middleware adds to a captured request, and compare it with asgi-correlation-id.

Both wrap the same application, which never waits, so each request can be run without a server or an
event loop: the numbers are those of the middleware alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from asgi_correlation_id import CorrelationIdMiddleware

from benchmarks.measure import Row, alternating
from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters import asgi, wsgi

REQUESTS = 500
ROUNDS = 201
BODY = b'{"output": "The cat sat on the mat."}'
REQUEST_HEADERS = {
    "host": "127.0.0.1:8000",
    "user-agent": "curl/8.5.0",
    "accept": "*/*",
    "accept-encoding": "gzip",
    "content-type": "application/json",
    "content-length": "38",
    "x-forwarded-for": "10.0.0.1",
    "authorization": "Bearer 0123456789",
}
RESPONSE_HEADERS = {"content-type": "application/json", "content-length": str(len(BODY))}


def run() -> list[Row]:
    """Return the microseconds for each request, and the two ratios that have a limit."""
    client = AsyncNoukai(api_key="nk_bench")
    traced = asgi.NoukaiTraceMiddleware(bare_asgi, client=client)
    traced_wsgi = wsgi.NoukaiTraceMiddleware(bare_wsgi, client=client)
    medians = alternating(
        {
            "bare ASGI": many(lambda: call_asgi(bare_asgi)),
            "asgi-correlation-id": many(lambda: call_asgi(CORRELATED)),
            "ASGI": many(lambda: call_asgi(traced)),
            "bare WSGI": many(lambda: call_wsgi(bare_wsgi)),
            "WSGI": many(lambda: call_wsgi(traced_wsgi)),
        },
        ROUNDS,
    )
    micro = {name: value / REQUESTS * 1e6 for name, value in medians.items()}
    added_by_other = micro["asgi-correlation-id"] - micro["bare ASGI"]
    added = micro["ASGI"] - micro["bare ASGI"]
    added_wsgi = micro["WSGI"] - micro["bare WSGI"]
    return [
        Row("asgi-correlation-id adds to a request", added_by_other, None, "µs"),
        Row("our ASGI middleware adds to a request", added, None, "µs"),
        Row("our WSGI middleware adds to a request", added_wsgi, None, "µs"),
        Row("ASGI middleware / asgi-correlation-id", added / added_by_other, 1.0, "times"),
        Row("WSGI middleware / ASGI middleware", added_wsgi / added, 1.0, "times"),
    ]


def many(request: Callable[[], object]) -> Callable[[], None]:
    def requests() -> None:
        for _ in range(REQUESTS):
            request()

    return requests


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    headers = [(name.encode(), value.encode()) for name, value in RESPONSE_HEADERS.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


CORRELATED = CorrelationIdMiddleware(bare_asgi)
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in REQUEST_HEADERS.items()]


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


def call_asgi(app: Any) -> None:
    scope = {"type": "http", "method": "POST", "path": "/grade", "headers": list(RAW_HEADERS)}
    request = app(scope, receive, send)
    try:
        request.send(None)
    except StopIteration:
        return
    raise AssertionError("this application never waits")


class Body:
    """A body like werkzeug's: an iterator with a ``close()`` method."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        pass


def bare_wsgi(environ: Any, start_response: Any) -> Body:
    start_response("200 OK", list(RESPONSE_HEADERS.items()))
    return Body(BODY)


ENVIRON = {
    "HTTP_" + name.upper().replace("-", "_"): value for name, value in REQUEST_HEADERS.items()
}


def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
    pass


def call_wsgi(app: Any) -> None:
    body = app({"REQUEST_METHOD": "POST", **ENVIRON}, start_response)
    for _ in body:
        pass
    body.close()


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:45} {row.value:8.2f} {row.unit:6} {row.limit or ''}")
