"""The two clients: configuration, flows, and the end of their connections.

Importing this module loads neither httpx nor pydantic: making the first client does.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ._version import __version__
from .arguments import is_async_callable, require_flag, require_seconds
from .errors import AuthenticationError
from .protocol.call import FlowRef, Service
from .protocol.paths import require_org_and_project, require_session_id, resolve_flow

if TYPE_CHECKING:
    from typing_extensions import Self

    from .flow import AsyncFlow, Flow
    from .transport.drivers import AsyncTransport, SyncTransport

API_VERSION = "2026-05-31"
BASE_URLS = {
    "production": "https://api.noukai.xyz/api/v1",
    "dev": "http://localhost:8080/api/v1",
}

_KEY = re.compile(r"nk_[\x21-\x7e]+\Z")

LogHandler = Callable[[dict[str, Any]], None]
TransportT = TypeVar("TransportT", "SyncTransport", "AsyncTransport")


class _BaseClient(ABC, Generic[TransportT]):
    """Arguments of both clients, checked; what is common to their calls."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        env: Literal["production", "dev"] | None = None,
        org: str | None = None,
        project: str | None = None,
        timeout: float = 300.0,
        max_retries: int = 1,
        log_handler: LogHandler | None = None,
        log_payloads: bool = False,
        session_id: str | None = None,
        http_client: Any = None,
    ) -> None:
        self._defaults = require_org_and_project(org, project)
        service = Service(
            base_url=_base_url(env),
            headers=_headers(_api_key(api_key)),
            timeout=require_seconds("timeout", timeout),
            max_retries=_retries(max_retries),
            log=_log(log_handler),
            log_payloads=require_flag("log_payloads", log_payloads),
            session_id=None if session_id is None else require_session_id(session_id),
            custom_http=http_client is not None,
        )
        self._transport: TransportT = self._connect(service, http_client)

    @abstractmethod
    def _connect(self, service: Service, http_client: Any) -> TransportT:
        """The transport of this kind of client."""

    def _ref(self, slug: str | None, org: str | None, project: str | None) -> FlowRef:
        return resolve_flow(slug, org, project, self._defaults)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.service.base_url!r})"


class Noukai(_BaseClient["SyncTransport"]):
    """The sync client: scripts, notebooks, Flask.

    Safe to use from many threads, and after a fork. Use it as a context manager, or call :meth:`close`.

    Args:
        api_key: Starts with ``nk_``; default: the environment's ``NOUKAI_API_KEY``.
        env: ``"production"`` (default) or ``"dev"``; default: the environment's ``NOUKAI_ENV``.
        org, project: Defaults for short slugs; both or neither.
        timeout: Seconds for each request, where the call names none: to connect, to send, and to wait
            for the next bytes of the answer. A stream that goes on sending may take longer in all.
        max_retries: How often a request is sent again at most; 0 for never. Reads are repeated
            after 408, 5xx and short 429; calls that start a run only where nothing reached the service.
        log_handler: Called with a dict at every request, response and retry: ``phase``, ``method``,
            ``path``, ``attempt``, ``status_code``, ``request_id``, and ``error`` where there was no
            answer. What it raises is logged and breaks no call.
        log_payloads: Put ``request_body`` and ``response_body`` into it. A stream's body is not kept.
        session_id: A session for all calls that name none and run in no scope.
        http_client: A client of httpx's interface to send with, for instance with a proxy or a mock
            transport. It stays yours to close. The base URL stays the service's.

    Raises:
        AuthenticationError: No key, or one that is malformed.
        ValueError: A bad argument.

    Example:
        >>> with Noukai(org="acme", project="spelling") as client:          # doctest: +SKIP
        ...     print(client.flow("grade-3").execute(message="The cat sat.").result)
    """

    def _connect(self, service: Service, http_client: Any) -> SyncTransport:
        from . import flow  # noqa: F401  # loaded now, and not in the middle of the first call
        from .transport.drivers import SyncTransport

        if http_client is not None and (
            not _sends(http_client) or is_async_callable(http_client.send)
        ):
            raise TypeError(
                "Noukai needs a plain http_client, such as httpx.Client, not an async one"
            )
        return SyncTransport(service, http_client)

    @overload
    def flow(self, slug: str) -> Flow: ...
    @overload
    def flow(self, *, org: str, project: str, slug: str) -> Flow: ...
    def flow(
        self, slug: str | None = None, *, org: str | None = None, project: str | None = None
    ) -> Flow:
        """A flow, by ``"slug"``, ``"org/project/slug"`` or the three keywords. Nothing is sent.

        Args:
            slug: The bare slug, which takes ``org`` and ``project`` from the client; or the whole address.
            org: The organisation of a bare slug, together with ``project``.
            project: The project of a bare slug, together with ``org``.

        Returns:
            The flow: ``execute``, ``steps``, ``events``, ``execute_async`` and ``run``.

        Raises:
            ValueError: The slug is malformed, or short without defaults.

        Example:
            >>> client.flow("acme/spelling/grade-3")                        # doctest: +SKIP
            Flow('acme/spelling/grade-3')
        """
        from .flow import Flow

        return Flow(self._ref(slug, org, project), self._transport)

    def close(self) -> None:
        """Release the connections. May be called any number of times.

        A call that another thread is in ends with ClientClosedError when it next hears of its
        connection, at its timeout at the latest.
        """
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncNoukai(_BaseClient["AsyncTransport"]):
    """The async client: FastAPI, Starlette, anything on asyncio or trio.

    Takes the arguments of :class:`Noukai`. One client serves thousands of calls at once, and several
    event loops. Use it with ``async with``, or call :meth:`aclose`, which ends the calls under way with
    ClientClosedError.

    Hundreds of calls that are made in one breath on asyncio are sent in waves, as fast as a processor can
    send them; what a call waits for its turn does not count towards its ``timeout``.

    Where the extra ``fast`` is installed, calls on asyncio go over httpx2 and aiohttp instead of httpx,
    which takes half of the time. ``NOUKAI_FAST=0`` in the environment keeps to httpx, for example for
    tests that mock httpx; with ``http_client=`` neither is used.

    Example:
        >>> async with AsyncNoukai() as client:                             # doctest: +SKIP
        ...     result = await client.flow("acme/spelling/grade-3").execute(message="The cat sat.")
    """

    def _connect(self, service: Service, http_client: Any) -> AsyncTransport:
        from . import flow  # noqa: F401  # as above
        from .transport.drivers import AsyncTransport

        if http_client is not None and not (_sends(http_client) and hasattr(http_client, "aclose")):
            raise TypeError("AsyncNoukai needs an async http_client, such as httpx.AsyncClient")
        return AsyncTransport(service, http_client)

    @overload
    def flow(self, slug: str) -> AsyncFlow: ...
    @overload
    def flow(self, *, org: str, project: str, slug: str) -> AsyncFlow: ...
    def flow(
        self, slug: str | None = None, *, org: str | None = None, project: str | None = None
    ) -> AsyncFlow:
        """As :meth:`Noukai.flow`."""
        from .flow import AsyncFlow

        return AsyncFlow(self._ref(slug, org, project), self._transport)

    async def aclose(self) -> None:
        """Release the connections of this event loop. May be called any number of times.

        Calls under way here end with ClientClosedError, those in the user's ``http_client`` excepted.
        The connections of other event loops go when their loop stops.
        """
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _api_key(given: str | None) -> str:
    key = given if given is not None else os.environ.get("NOUKAI_API_KEY")
    if not key:
        raise AuthenticationError("no API key: set NOUKAI_API_KEY, or pass api_key='nk_...'")
    # The key goes into a header, so it is checked here and shown nowhere.
    if not isinstance(key, str) or not _KEY.match(key):
        raise AuthenticationError(
            "malformed API key: it must start with 'nk_' and hold no spaces or line ends"
        )
    return key


def _headers(key: str) -> dict[str, str]:
    from .transport.library import user_agent

    return {
        "Authorization": f"Bearer {key}",
        "X-Noukai-API-Version": API_VERSION,
        "User-Agent": user_agent(__version__),
    }


def _base_url(env: str | None) -> str:
    name = env or os.environ.get("NOUKAI_ENV") or "production"
    if name not in BASE_URLS:
        raise ValueError(f'bad env {name!r}: it must be "production" or "dev"')
    return BASE_URLS[name]


def _sends(http_client: Any) -> bool:
    needed = ("build_request", "send")
    return not isinstance(http_client, type) and all(hasattr(http_client, name) for name in needed)


def _log(handler: LogHandler | None) -> LogHandler | None:
    if handler is not None and (not callable(handler) or is_async_callable(handler)):
        raise TypeError("log_handler must be a plain function that takes a dict")
    return handler


def _retries(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"max_retries must be a number from 0, not {number!r}")
    return number
