"""What tracing adds to a request, beside asgi-correlation-id, over the same bare application.

No server and no event loop: the applications never wait, so each request is driven by hand, and what
is measured is the middleware alone. In capture mode, as every production request is.
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
SENT = {
    "host": "127.0.0.1:8000",
    "user-agent": "curl/8.5.0",
    "accept": "*/*",
    "accept-encoding": "gzip",
    "content-type": "application/json",
    "content-length": "38",
    "x-forwarded-for": "10.0.0.1",
    "authorization": "Bearer 0123456789",
}
ANSWERED = {"content-type": "application/json", "content-length": str(len(BODY))}


def run() -> list[Row]:
    """The numbers of one run, in microseconds a request, and the two ratios that are judged."""
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
    theirs = micro["asgi-correlation-id"] - micro["bare ASGI"]
    ours = micro["ASGI"] - micro["bare ASGI"]
    ours_wsgi = micro["WSGI"] - micro["bare WSGI"]
    return [
        Row("asgi-correlation-id adds to a request", theirs, None, "µs"),
        Row("our ASGI middleware adds to a request", ours, None, "µs"),
        Row("our WSGI middleware adds to a request", ours_wsgi, None, "µs"),
        Row("ASGI middleware / asgi-correlation-id", ours / theirs, 1.0, "times"),
        Row("WSGI middleware / ASGI middleware", ours_wsgi / ours, 1.0, "times"),
    ]


def many(request: Callable[[], object]) -> Callable[[], None]:
    def requests() -> None:
        for _ in range(REQUESTS):
            request()

    return requests


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    headers = [(name.encode(), value.encode()) for name, value in ANSWERED.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


CORRELATED = CorrelationIdMiddleware(bare_asgi)
RAW = [(name.encode(), value.encode()) for name, value in SENT.items()]


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    pass


def call_asgi(app: Any) -> None:
    scope = {"type": "http", "method": "POST", "path": "/grade", "headers": list(RAW)}
    request = app(scope, receive, send)
    try:
        request.send(None)
    except StopIteration:
        return
    raise AssertionError("a bare application never waits")


class Body:
    """As werkzeug gives it: an iterator that wants to be closed."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        pass


def bare_wsgi(environ: Any, start_response: Any) -> Body:
    start_response("200 OK", list(ANSWERED.items()))
    return Body(BODY)


ENVIRON = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in SENT.items()}


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
