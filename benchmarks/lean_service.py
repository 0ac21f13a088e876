"""The smallest service that can respond to a call: an ASGI app on uvicorn, in its own process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BODY = json.dumps({"status": "completed", "result": {"grade": 3}, "executionId": "e"}).encode()
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
]


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


@contextmanager
def served() -> Iterator[str]:
    """Run the service and yield its base URL."""
    command = [sys.executable, "-m", "benchmarks.lean_service"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None  # a pipe was asked for
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/api/v1"
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def main() -> None:
    import uvicorn

    # With the protocol named, asyncio disables Nagle's algorithm, which delays responses.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", timeout_keep_alive=600
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
