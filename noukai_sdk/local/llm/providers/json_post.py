"""POSTs of JSON as an official client does them; the good ones, over aiohttp, past it.

An official client spends 0.3 ms of processor time on a call, three times what the call itself takes: a
hundred calls at once stand in a queue (docs/speed.md). All that it adds shows in two places: in how a
request looks, and in what happens when something goes wrong. So the client writes the first request,
which is not sent, and its address and headers serve for all. Whatever is not a plain good answer is
handed to the client as if it had come to itself: it decides about retries, does them, and raises.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from . import short_way
from .short_way import Answered, Failed, ShortWay, Written


class _Kept(BaseException):
    """Leaves the client, which would try again after an Exception."""


class JsonPost:
    """POSTs to one path of one provider.

    Args:
        sdk: The official client's module.
        client: Its async client.
        http: The HTTP client that it was made with.
        path: Below the client's base URL.
    """

    def __init__(self, sdk: Any, client: Any, http: Any, path: str) -> None:
        self._sdk = sdk
        self._client = client
        self._http = http
        self._path = path
        # httpx2, and httpx in older releases of the official clients.
        self._library: Any = sys.modules[type(http).__mro__[1].__module__.partition(".")[0]]
        self._way: ShortWay | None = None
        self._is_readable = True
        self._written: Written | None = None
        self._writing = asyncio.Lock()

    async def send(self, body: dict[str, Any]) -> Any:
        """The JSON of the answer.

        Raises:
            Exception: What the official client raises.
        """
        way = self._short_way()
        if way is None:
            return await self._post(self._client, body)
        outcome = await way.send(await self._request(body), _as_json(body))
        if isinstance(outcome, Failed):
            self._is_readable = self._is_readable and not outcome.is_unreadable
        elif outcome.status == 200:
            # The official client has an error of its own for what is no JSON.
            with suppress(ValueError, RecursionError):
                return json.loads(outcome.content)
        return await self._post(self._client_that_got(outcome), body)

    async def warm_up(self, path: str) -> None:
        """Open a connection by a GET of this path; any answer will do."""
        await self._client.get(path, cast_to=object)
        way = self._short_way()
        if way is not None:
            await way.send(await self._write(lambda client: client.get(path, cast_to=object)))

    async def aclose(self) -> None:
        """Close the connections; the official client is its owner's."""
        if self._way is not None:
            await self._way.aclose()

    async def _post(self, client: Any, body: dict[str, Any]) -> Any:
        return await client.post(self._path, body=body, cast_to=object)

    def _short_way(self) -> ShortWay | None:
        if not self._is_readable:
            return None
        if self._way is None and short_way.is_open():
            tls = self._library.create_ssl_context()
            self._way = ShortWay(self._client.timeout, tls)
        return self._way if self._way is not None and self._way.is_here else None

    async def _request(self, body: dict[str, Any]) -> Written:
        if self._written is None:
            async with self._writing:
                self._written = self._written or await self._write(
                    lambda client: self._post(client, body)
                )
        return self._written

    async def _write(self, request_with: Callable[[Any], Awaitable[Any]]) -> Written:
        written: list[Written] = []

        async def keep(request: Any) -> Any:
            written.append(Written(request))
            raise _Kept

        with suppress(_Kept):
            await request_with(self._client_over(keep))
        return written[0]

    def _client_that_got(self, outcome: Answered | Failed) -> Any:
        """The official client, whose first attempt has ended like this."""
        first = [outcome]

        async def handle(request: Any) -> Any:
            if first:
                return self._outcome(first.pop(), request)
            return await self._http.send(request, stream=True)

        return self._client_over(handle)

    def _client_over(self, handle: Callable[[Any], Awaitable[Any]]) -> Any:
        transport = self._library.MockTransport(handle)
        http = self._sdk.DefaultAsyncHttpxClient(transport=transport, trust_env=False)
        return self._client.copy(http_client=http)

    def _outcome(self, outcome: Answered | Failed, request: Any) -> Any:
        if isinstance(outcome, Answered):
            return self._library.Response(
                outcome.status, headers=outcome.headers, content=outcome.content
            )
        kind = getattr(self._library, outcome.kind)
        raise kind(f"connection failed: {outcome.message}", request=request) from outcome.cause


def _as_json(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()
