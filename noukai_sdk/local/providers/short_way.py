"""Requests that somebody else has written, sent with nothing around them. For asyncio."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import fast

if TYPE_CHECKING:
    import ssl

    import aiohttp

# aiohttp writes these itself.
_ITS_OWN = frozenset({"host", "connection", "content-length", "accept-encoding"})
# These are about a body on the wire, before aiohttp has unpacked it.
_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})


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
        self.headers = CIMultiDict(_without(_ITS_OWN, request.headers))


@dataclass(frozen=True)
class Answered:
    """An answer of any status, whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Failed:
    """There was no answer; ``kind`` is the name of httpx's error for that."""

    kind: str
    error: Exception


def is_open() -> bool:
    """Whether it can be used: aiohttp and asyncio are there, and no proxy to go through."""
    return fast.is_on("aiohttp") and not urllib.request.getproxies() and _on_asyncio()


class ShortWay:
    """Connections that are kept for the next request.

    Args:
        timeout: Seconds to wait for a connection, and for each part of an answer.
        tls: For https addresses.
    """

    def __init__(self, timeout: float, tls: ssl.SSLContext) -> None:
        import aiohttp

        self._loop = asyncio.get_running_loop()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout),
        )

    @property
    def is_here(self) -> bool:
        """Connections belong to the event loop that opened them."""
        return _on_asyncio() and asyncio.get_running_loop() is self._loop

    async def send(self, written: Written, content: bytes | None = None) -> Answered | Failed:
        """Send a request once."""
        import aiohttp

        try:
            async with self._session.request(
                written.method,
                written.url,
                headers=written.headers,
                data=content,
                allow_redirects=False,
            ) as answer:
                return await _whole(answer)
        except TimeoutError as error:
            return Failed("ReadTimeout", error)
        except aiohttp.ClientConnectorError as error:
            return Failed("ConnectError", error)
        except (aiohttp.ClientError, OSError) as error:
            return Failed("ReadError", error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _whole(answer: aiohttp.ClientResponse) -> Answered:
    return Answered(answer.status, _without(_OF_THE_WIRE, answer.headers), await answer.read())


def _without(names: frozenset[str], headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in names}


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
