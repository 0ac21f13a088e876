"""Load the sessions of a batch, on the event loop that replays them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from typing_extensions import Self

from ..client import AsyncNoukai
from ..errors import APIConnectionError, NoukaiError
from ..models.exchanges import Exchange
from ..models.session_lists import StoredReport
from ..protocol.fetching import fetch_session
from ..protocol.session_extensions import fetch_exchange, fetch_reports
from ..replay.cassette_file import CassetteFile, file_of, read_cassette
from ..replay.redaction import Redactor
from ..replay.sources import load_session

NO_REQUEST = "captured without its request"
WEBSOCKET = "a websocket: its messages are not captured"


class NotReplayableError(Exception):
    """A session cannot be replayed. The message says why."""


class NotFetchedError(Exception):
    """The service cannot be reached. The message says why."""


@dataclass(frozen=True)
class BatchSession:
    """A session with its captured request.

    Attributes:
        redactor: Makes calls comparable with redacted recordings.
        flows: The full names of its flows, by their slugs.
    """

    file: CassetteFile
    exchange: Exchange
    redactor: Redactor
    flows: Mapping[str, str]

    @property
    def request(self) -> str:
        """The captured request, such as ``POST /grade``."""
        return f"{self.exchange.request.method} {self.exchange.request.path}"

    def masked_without(self, headers: Iterable[str]) -> tuple[str, ...]:
        """Return what was removed or masked at capture, without these headers."""
        given = {f"header {name.lower()}" for name in headers}
        return tuple(each for each in self.exchange.request.redacted if each not in given)


class SessionLoader:
    """Reads sessions of a service, and cassette files. Use it with ``async with``.

    Args:
        env: The service.
        base_url: Its address.
    """

    def __init__(self, env: Literal["production", "dev"] | None, base_url: str | None) -> None:
        # A client of its own is not refused live calls, as those of the app in this process are.
        self._http = httpx.AsyncClient(timeout=60.0)
        options: dict[str, Any] = {} if os.environ.get("NOUKAI_API_KEY") else {"api_key": "nk_test"}
        self._client = AsyncNoukai(env=env, base_url=base_url, http_client=self._http, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._http.aclose()

    async def reports(self, session_id: str) -> Sequence[StoredReport]:
        """Return the reports that the service has of replays of a session; none if it does not tell."""
        transport = self._client._transport
        try:
            return (await transport.run(fetch_reports(transport.service, session_id))).replays
        except NoukaiError:
            return ()

    async def load(self, source: str, *, calls: bool = True) -> BatchSession:
        """Read a session.

        Args:
            source: The session, or a cassette file.
            calls: Read its calls too; without, only its request.

        Raises:
            NotReplayableError: It has no captured request, or cannot be replayed for another reason.
            NotFetchedError: The service cannot be reached.
        """
        try:
            return await self._load(source, calls=calls)
        except APIConnectionError as error:
            raise NotFetchedError(error.message) from error
        except NoukaiError as error:
            raise NotReplayableError(error.message) from error

    async def _load(self, source: str, *, calls: bool) -> BatchSession:
        redactor = None
        if os.path.isfile(source):  # noqa: PTH113, ASYNC240  # a name may be too long for a path
            file = read_cassette(source)
        else:
            transport = self._client._transport
            exchange = await transport.run(fetch_exchange(transport.service, source))
            if exchange is None:
                await transport.run(fetch_session(transport.service, source))  # it may not exist
            file = CassetteFile(source, exchange=exchange)
            if exchange is not None and calls:
                session = await transport.run(load_session(transport.service, source))
                session.require_snapshots()
                redactor = session.redactor
                file = file_of(session, exchange)
        if file.exchange is None:
            raise NotReplayableError(NO_REQUEST)
        if file.exchange.request.origin.startswith("ws") or file.exchange.response.status == 101:
            raise NotReplayableError(WEBSOCKET)
        return BatchSession(
            file,
            file.exchange,
            redactor or Redactor(file.redacted, pii=file.redacted_pii),
            {
                each.slug: f"{each.org}/{each.project}/{each.slug}"
                for each in file.recordings
                if each.slug and each.org and each.project
            },
        )
