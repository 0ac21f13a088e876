"""Send many requests at once over kept-alive connections, with little processor time of its own."""

from __future__ import annotations

import asyncio
import time


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


async def _seconds(address: str, request: bytes, at_once: int, count: int) -> float:
    host, _, port = address.rpartition(":")
    left = iter(range(count))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            for _ in left:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.split(b" ", 2)[1] in (b"200", b"202"), head
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
                await reader.readexactly(int(length))
        finally:
            writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(at_once)))
    return time.perf_counter() - start
