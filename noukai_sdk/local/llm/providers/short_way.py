"""Requests that somebody else has written, sent with nothing around them. For asyncio."""

from __future__ import annotations

import asyncio
import io
import math
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from ....transport import fast

if TYPE_CHECKING:
    import ssl

    import aiohttp

# aiohttp writes these itself.
_ITS_OWN = frozenset({"host", "connection", "content-length", "accept-encoding"})
# These are about a body on the wire, before aiohttp has unpacked it.
_OF_THE_WIRE = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
# What the official clients allow themselves.
_MOST_CONNECTIONS = 1000
# aiohttp's own 8 kB are less than some gateways send.
_LONGEST_HEADER = 100_000
# What a socket takes whether or not somebody reads.
_SENT_AT_ONCE = 32_000
# aiohttp warns about larger bodies that are not files; it writes those piece by piece.
_MOST_AT_ONCE = 1_000_000

Headers = list[tuple[bytes, bytes]]


class Written:
    """What all requests of one kind have in common.

    Args:
        request: One of httpx's, or of a library like it.
    """

    def __init__(self, request: Any) -> None:
        from multidict import CIMultiDict
        from yarl import URL

        self.method: str = request.method
        self.url = URL(str(request.url), encoded=True)
        self.headers = CIMultiDict(_kept(request.headers))


@dataclass(frozen=True)
class Answered:
    """An answer of any status, whole."""

    status: int
    headers: Headers
    content: bytes


@dataclass(frozen=True)
class Failed:
    """There was no answer.

    Attributes:
        kind: The name of httpx's error for that.
        cause: None for an error that holds the request's headers, and so the key.
    """

    kind: str
    message: str
    cause: Exception | None = None

    @property
    def is_unreadable(self) -> bool:
        """There was one, which aiohttp does not take; httpx is less strict."""
        return self.kind == "RemoteProtocolError"


def is_open() -> bool:
    """Whether it can be used: aiohttp and asyncio are there, and no proxy to go through."""
    return fast.is_on("aiohttp") and not urllib.request.getproxies() and _on_asyncio()


class ShortWay:
    """Connections that are kept for the next request.

    Args:
        timeout: Seconds to wait for a connection, to send, and to wait for each part of an answer.
        tls: For https addresses.
    """

    def __init__(self, timeout: float, tls: ssl.SSLContext) -> None:
        import aiohttp

        self._loop = asyncio.get_running_loop()
        # aiohttp has no limit of its own for sending.
        self._until_answer = 3 * timeout
        limit = timeout if math.isfinite(timeout) else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_MOST_CONNECTIONS, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limit, sock_read=limit),
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
        )

    @property
    def is_here(self) -> bool:
        """Connections belong to the event loop that opened them."""
        return _on_asyncio() and asyncio.get_running_loop() is self._loop

    async def send(self, written: Written, content: bytes | None = None) -> Answered | Failed:
        """Send a request once."""
        import aiohttp

        try:
            return await self._answered(written, content)
        # Two classes before Python 3.11.
        except (TimeoutError, asyncio.TimeoutError) as error:
            return Failed("ReadTimeout", str(error), error)
        except aiohttp.ClientConnectorError as error:
            return Failed("ConnectError", str(error), error)
        except aiohttp.ClientResponseError as error:
            return Failed("RemoteProtocolError", error.message)
        except (aiohttp.ClientError, OSError) as error:
            return Failed("ReadError", str(error), error)

    def _limit(self, content: bytes | None) -> AbstractContextManager[Any]:
        # A small body never waits for its reader: no need to pay for a clock.
        is_small = content is None or len(content) <= _SENT_AT_ONCE
        return nullcontext() if is_small else anyio.fail_after(self._until_answer)

    async def _answered(self, written: Written, content: bytes | None) -> Answered:
        with self._limit(content):
            answer = await self._session.request(
                written.method,
                written.url,
                headers=written.headers,
                data=_in_pieces(content),
                allow_redirects=False,
            )
        async with answer:
            return await _whole(answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()


def _in_pieces(content: bytes | None) -> bytes | io.BytesIO | None:
    if content is None or len(content) <= _MOST_AT_ONCE:
        return content
    return io.BytesIO(content)


async def _whole(answer: aiohttp.ClientResponse) -> Answered:
    return Answered(answer.status, _unpacked(answer.raw_headers), await answer.read())


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _ITS_OWN}


def _unpacked(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name, text) for name, text in headers if name.lower() not in _OF_THE_WIRE]


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
