"""Send many requests at once over kept-alive connections, with little processor time of its own."""

from __future__ import annotations

import asyncio
import time

from typing_extensions import Self


def requests_a_second(address: str, request: bytes, *, at_once: int, count: int) -> float:
    """Return the rate of ``count`` requests; each must be answered by status 200 or 202."""
    return count / asyncio.run(_seconds(address, request, at_once, count))


def post(address: str, path: str, body: bytes, *headers: str) -> bytes:
    """Return the bytes of a POST of JSON."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {address}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """A kept-alive connection, for one request after the other."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> Self:
        host, _, port = self._address.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def send(self, request: bytes) -> int:
        """Send a request and read the response; return its status."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        await self._reader.readexactly(int(length))
        return int(head.split(b" ", 2)[1])


async def _seconds(address: str, request: bytes, at_once: int, count: int) -> float:
    left = iter(range(count))

    async def client() -> None:
        async with Connection(address) as connection:
            for _ in left:
                status = await connection.send(request)
                assert status in (200, 202), status

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return time.perf_counter() - start
