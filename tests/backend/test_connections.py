"""Connections that send too little, read too little or are too many, over real sockets."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx

from noukai_sdk.backend.connections import ConnectionLimits, Connections
from noukai_sdk.backend.log_limits import FloodFilter, LineLimiter
from noukai_sdk.backend.server import create_server, listen
from tests.support.servers import serve_command, wait_until

from .backends import KEYS, code_of, serving

EXECUTE = "/api/v1/seq/acme/samples/hello-world/execute"
HEADERS = {"Authorization": f"Bearer {next(iter(KEYS))}"}
SLOW_BODY = (
    f"POST {EXECUTE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer nk_dev\r\n"
    "Content-Length: 100\r\n\r\n{"
).encode()


def test_dev_with_1100_idle_and_slow_connections_serves_good_client(tmp_path: Path) -> None:
    dev = f"exec {sys.executable} -m noukai_sdk.cli dev --port {{port}} --db {tmp_path}/a.db"
    command = ["bash", "-c", f"ulimit -n 256; {dev}"]
    with serve_command(command, ready="/healthz") as server, ExitStack() as stack:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for number in range(1100):
            hostile = stack.enter_context(socket.create_connection(address, timeout=20))
            hostile.sendall((b"", b"GET /healthz HTTP/1.1\r\nHo", SLOW_BODY)[number % 3])
        lines_before = len(server.output().splitlines())
        with httpx.Client(headers=HEADERS, timeout=20) as client:
            for _ in range(3):
                # A new connection, and one that is kept.
                for get in (httpx.post, client.post):
                    response = get(server.url + EXECUTE, json={"message": "hi"}, headers=HEADERS)
                    assert response.status_code == 200
        output = server.output()
    assert "Traceback" not in output
    # One line for each good call, and one a second of each other kind.
    assert len(output.splitlines()) - lines_before <= 6 + 12
    assert lines_before <= 30


@contextmanager
def guarded(app: Any, connections: Connections) -> Iterator[tuple[str, int]]:
    """Serve an ASGI app as the commands do, with these limits."""
    listener = listen("127.0.0.1", 0)
    server = create_server(app, grace=1, connections=connections)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, what="the server")
        yield listener.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(15)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
    return None


def test_address_in_header_of_unknown_proxy_is_not_believed() -> None:
    clients: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            clients.append(scope["client"][0])
        await hello(scope, receive, send)

    with guarded(app, Connections()) as (host, port):
        headers = {"X-Forwarded-For": "192.0.2.1"}
        assert httpx.get(f"http://{host}:{port}", headers=headers).text == "hello"
    assert clients == ["127.0.0.1"]


def test_connection_without_whole_header_is_closed() -> None:
    limits = ConnectionLimits(header_seconds=0.1)
    connections = Connections(limits)
    with guarded(hello, connections) as address:
        for start in (b"", b"GET / HTTP/1.1\r\nHost:"):
            with socket.create_connection(address, timeout=20) as slow:
                slow.sendall(start)
                wait_for_end(slow)
        # A connection that is kept may wait for its next request, but not in the middle of it.
        with socket.create_connection(address, timeout=20) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"hello" in read(slow, b"hello")
            assert connections.open == 1
            slow.sendall(b"GET / HT")
            wait_for_end(slow)
        wait_until(lambda: connections.open == 0)


def read(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        data += connection.recv(1000)
    return data


def wait_for_end(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):
        while connection.recv(1000):
            pass


def test_client_that_does_not_read_is_closed() -> None:
    ended = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            if connections.open == 0:
                break
        ended.set()
        return None

    connections = Connections(ConnectionLimits(stalled_seconds=0.1))
    with guarded(endless, connections) as address, socket.create_connection(address, 20) as deaf:
        deaf.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended.wait(20)


def test_connection_beyond_cap_replaces_waiting_one_or_is_refused() -> None:
    reached, release = threading.Semaphore(0), threading.Event()

    async def held(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        reached.release()
        while not release.is_set():
            await anyio.sleep(0.01)
        return await hello(scope, receive, send)

    connections = Connections(ConnectionLimits(max_connections=2))
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with guarded(held, connections) as address, ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(2)]
        for _ in range(2):
            busy = stack.enter_context(socket.create_connection(address, 20))
            busy.sendall(request)
            assert reached.acquire(timeout=20)
        for connection in idle:
            wait_for_end(connection)
        assert (connections.open, connections.dropped) == (2, 2)
        refused = stack.enter_context(socket.create_connection(address, 20))
        assert b" 503 " in refused.recv(1000).splitlines()[0]
        assert connections.refused == 1
        release.set()
        assert b"hello" in read(busy, b"hello")


def test_slow_body_is_request_timeout(tmp_path: Path) -> None:
    with serving(tmp_path, body_seconds=0.1) as backend:
        address = ("127.0.0.1", int(backend.url.rpartition(":")[2]))
        for path in ("seq/acme/samples/hello-world/execute", "seq/sessions/a/replays"):
            with socket.create_connection(address, timeout=20) as slow:
                slow.sendall(SLOW_BODY.replace(EXECUTE.encode(), f"/api/v1/{path}".encode()))
                answer = b"".join(iter(lambda: slow.recv(1000), b""))
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"REQUEST_TIMEOUT" in answer
            assert b"connection: close" in answer.lower()
        assert code_of(backend.post("samples/hello-world/execute", {})) == (400, "MISSING_MESSAGE")


def test_line_limiter_lets_one_line_a_second_of_each_kind_through() -> None:
    now = 0.0
    limiter = LineLimiter(lambda: now)
    assert [limiter.held_back("a") for _ in range(3)] == [0, None, None]
    assert limiter.held_back("b") == 0
    now = 1.0
    assert limiter.held_back("a") == 2
    assert [limiter.held_back(number) for number in range(300)] == [0] * 300


def test_flood_filter_adds_count_of_dropped_records() -> None:
    filter_ = FloodFilter()
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "bad %s", ("x",), None)
    assert filter_.filter(record)
    assert not filter_.filter(record)
    filter_._limiter._kinds = {k: (0.0, n) for k, (_, n) in filter_._limiter._kinds.items()}
    assert filter_.filter(record)
    assert record.getMessage() == "bad x (and 1 more)"
