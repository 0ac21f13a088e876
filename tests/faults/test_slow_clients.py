"""A good client beside one that opens connections without end, and uses none of them."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.servers import serve_command

EXECUTE = "/api/v1/seq/acme/samples/hello-world/execute"
HEADERS = {"Authorization": "Bearer nk_dev"}
STARTS = (
    b"",
    b"GET /healthz HTTP/1.1\r\nHo",
    f"POST {EXECUTE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer nk_dev\r\n"
    "Content-Length: 100\r\n\r\n{".encode(),
)


def attack(address: tuple[str, int], stopped: threading.Event) -> None:
    """Open connections, keep 2,000 of them, and send the start of a request on each."""
    kept: list[socket.socket] = []
    number = 0
    while not stopped.wait(0.002):
        with suppress(OSError):
            connection = socket.create_connection(address, timeout=5)
            kept.append(connection)
            connection.sendall(STARTS[number % 3])
            number += 1
        if len(kept) > 2000:
            kept.pop(0).close()
    for connection in kept:
        connection.close()


@pytest.mark.skipif(not os.environ.get("FAULTS"), reason="runs in `make faults`")
def test_dev_under_connections_without_end_answers_every_good_call(tmp_path: Path) -> None:
    dev = f"exec {sys.executable} -m noukai_sdk.cli dev --port {{port}} --db {tmp_path}/a.db"
    calls, stopped = 300, threading.Event()
    with serve_command(["bash", "-c", f"ulimit -n 512; {dev}"], ready="/healthz") as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        attacker = threading.Thread(target=attack, args=(address, stopped))
        attacker.start()
        try:
            for _ in range(calls):
                body = {"message": "hi"}
                # A new connection for each call.
                response = httpx.post(server.url + EXECUTE, json=body, headers=HEADERS, timeout=20)
                assert response.status_code == 200
        finally:
            stopped.set()
            attacker.join()
        lines = server.output().splitlines()
    assert "Traceback" not in "\n".join(lines), "\n".join(x for x in lines if " 200 " not in x)
    # A line a second of each of a few kinds, beside one for each call.
    assert len(lines) < calls * 1.5
