"""A minimal model server: OpenAI's chat API, with one response after a set time.

The name of the model or deployment sets the time: ``lat-50`` responds after 50 ms. The models ``window``,
``sliding`` and ``bucket`` respond to 20 requests a second and reject others with 429. The server runs in a
process of its own, so that its work does not count as the time of the measured program.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LATENCY = re.compile(rb"lat-(\d+)")
_LIMITED = re.compile(rb'"model": ?"(window|sliding|bucket)"')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "lat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A short answer."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }
).encode()
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "
    + str(len(_COMPLETION)).encode()
    + b"\r\n\r\n"
    + _COMPLETION
)
RATE = 20
"""The requests a second of the limited models."""

Limit = Callable[[float], str | None]
"""Takes the time; returns the headers of a rejection, None to accept."""


def _window() -> Limit:
    """Return a limit for each whole second, with the rest of it as ``Retry-After``."""
    count, counted = 0, 0.0

    def check(now: float) -> str | None:
        nonlocal count, counted
        if counted != math.floor(now):
            count, counted = 0, math.floor(now)
        count += 1
        return None if count <= RATE else f"retry-after: {counted + 1 - now:.3f}\r\n"

    return check


def _sliding() -> Limit:
    """Return a limit for any second, without ``Retry-After``."""
    accepted: deque[float] = deque(maxlen=RATE)

    def check(now: float) -> str | None:
        if len(accepted) == RATE and accepted[0] > now - 1:
            return ""
        accepted.append(now)
        return None

    return check


def _bucket() -> Limit:
    """Return a bucket of 20 tokens, with ``Retry-After`` in whole seconds."""
    tokens, counted = float(RATE), 0.0

    def check(now: float) -> str | None:
        nonlocal tokens, counted
        tokens, counted = min(tokens + RATE * (now - counted), RATE), now
        if tokens < 1:
            return "retry-after: 1\r\n"
        tokens -= 1
        return None

    return check


_LIMITS = {b"window": _window(), b"sliding": _sliding(), b"bucket": _bucket()}


class Chat(asyncio.Protocol):
    """One connection, which is kept alive."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < int(length[1] if length else 0):
            return
        latency, limited = _LATENCY.search(self._received), _LIMITED.search(self._received)
        self._received = b""
        rejection = _LIMITS[limited[1]](time.monotonic()) if limited else None
        if rejection is not None:
            head = f"HTTP/1.1 429 Too Many Requests\r\n{rejection}content-length: 2\r\n\r\n{{}}"
            self._transport.write(head.encode())
            return
        milliseconds = int(latency[1]) if latency else 0
        if milliseconds:
            asyncio.get_running_loop().call_later(milliseconds / 1000, self._respond)
        else:
            self._respond()

    def _respond(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_RESPONSE)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Chat, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def serving() -> Iterator[str]:
    """Run a server in another process; yield its root URL."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_serve())
