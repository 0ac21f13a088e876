"""The two clients: configuration, flows, and connections."""

from __future__ import annotations

import copy
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ._version import __version__
from .arguments import (
    check_headers,
    is_async_callable,
    require_base_url,
    require_count,
    require_flag,
    require_timeout,
)
from .errors import AuthenticationError
from .flow import AsyncFlow, Flow
from .protocol.call import FlowRef, Service, SpanOptions
from .protocol.requests import require_org_and_project, require_session_id, resolve_flow
from .session.options import CASSETTES, replay_enabled
from .transport.drivers import AsyncTransport, SyncTransport
from .transport.library import user_agent
from .transport.live_calls import NO_KEY

if TYPE_CHECKING:
    import httpx  # noqa: F401 - named by the base classes of the clients
    from typing_extensions import Self

    from .arguments import TimeoutInput
    from .listings import AsyncFlows, AsyncSessions, Flows, Sessions

API_VERSION = "2026-05-31"
BASE_URLS = {
    "production": "https://api.noukai.xyz/api/v1",
    "dev": "http://localhost:8080/api/v1",
}

TIMEOUT = 300.0  # seconds
MAX_RETRIES = 1

_KEY = r"nk_[\x21-\x7e]+\Z"

LogHandler = Callable[[dict[str, Any]], None]
TransportT = TypeVar("TransportT", SyncTransport, AsyncTransport)
HttpT = TypeVar("HttpT")


class _BaseClient(ABC, Generic[TransportT, HttpT]):
    """Checks the arguments of both clients."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        env: Literal["production", "dev"] | None = None,
        org: str | None = None,
        project: str | None = None,
        timeout: TimeoutInput = TIMEOUT,
        max_retries: int | None = MAX_RETRIES,
        log_handler: LogHandler | None = None,
        log_payloads: bool = False,
        session_id: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: HttpT | None = None,
        otel: bool = True,
        otel_steps: bool = False,
        otel_payloads: bool = False,
    ) -> None:
        self._defaults = require_org_and_project(org, project)
        if log_handler is not None and (
            not callable(log_handler) or is_async_callable(log_handler)
        ):
            raise TypeError("log_handler must be a plain function that takes a dict")
        headers = {"X-Noukai-API-Version": API_VERSION, "User-Agent": user_agent(__version__)}
        key = api_key if api_key is not None else os.environ.get("NOUKAI_API_KEY")
        # Replays of cassette files need no key.
        has_key = bool(key) or not (os.environ.get(CASSETTES) and replay_enabled())
        if has_key:
            headers["Authorization"] = f"Bearer {_require_key(key)}"
        service = Service(
            base_url=resolve_base_url(base_url, env),
            headers=headers,
            timeout=require_timeout("timeout", TIMEOUT if timeout is None else timeout),
            max_retries=require_count(
                "max_retries", MAX_RETRIES if max_retries is None else max_retries
            ),
            log=log_handler,
            log_payloads=require_flag("log_payloads", log_payloads),
            session_id=None if session_id is None else require_session_id(session_id),
            custom_http=http_client is not None,
            has_key=has_key,
            default_headers=_lower(default_headers, "default_headers"),
            spans=_span_options(otel, otel_steps, otel_payloads),
        )
        self._transport: TransportT = self._connect(service, http_client)

    @property
    def default_org(self) -> str | None:
        """The organisation of bare slugs, None without one."""
        return None if self._defaults is None else self._defaults[0]

    @property
    def default_project(self) -> str | None:
        """The project of bare slugs, None without one."""
        return None if self._defaults is None else self._defaults[1]

    @abstractmethod
    def _connect(self, service: Service, http_client: Any) -> TransportT:
        """Make the transport of this kind of client."""

    def with_options(
        self,
        *,
        timeout: TimeoutInput = None,
        max_retries: int | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a copy of this client with other options. Nothing is sent.

        Both use the same connections, so closing either one closes both. Scopes and replays treat both
        as one client.

        Args:
            timeout: As for the client; None keeps it.
            max_retries: As for the client; None keeps it.
            extra_headers: More headers for every request, beside the ``default_headers``.

        Raises:
            ValueError, TypeError: An argument is not valid.

        Example:
            >>> patient = client.with_options(timeout=600.0, max_retries=0)  # doctest: +SKIP
        """
        service = self._transport.service
        changed: dict[str, Any] = {}
        if timeout is not None:
            changed["timeout"] = require_timeout("timeout", timeout)
        if max_retries is not None:
            changed["max_retries"] = require_count("max_retries", max_retries)
        more = _lower(extra_headers, "extra_headers")
        changed["default_headers"] = {**service.default_headers, **more}
        other = copy.copy(self)
        other._transport = self._transport.with_service(service._replace(**changed))
        return other

    def _ref(self, slug: str | None, org: str | None, project: str | None) -> FlowRef:
        return resolve_flow(slug, org, project, self._defaults)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._transport.service.base_url!r})"


class Noukai(_BaseClient[SyncTransport, "httpx.Client"]):
    """The sync client, for scripts, notebooks and Flask.

    Safe to use from many threads, and after a fork. Use it as a context manager, or call :meth:`close`.

    Args:
        api_key: Starts with ``nk_``. Defaults to the environment variable ``NOUKAI_API_KEY``.
        base_url: The address of the service, for instance ``"http://127.0.0.1:9000/api/v1"``. Without a
            path, ``/api/v1`` is added. Defaults to ``NOUKAI_BASE_URL``. Either one wins over ``env``.
        env: ``"production"`` or ``"dev"``, which is ``http://localhost:8080/api/v1``. Defaults to
            ``NOUKAI_ENV``, or else to production.
        org: The organisation of short slugs. Pass ``project``, too, or neither.
        project: The project of short slugs.
        timeout: Seconds for each request of calls without a timeout of their own: to connect, to send,
            and to wait for the next bytes of the response. A stream may take longer in all. An
            ``httpx.Timeout`` sets each part. None means the default.
        max_retries: How often a request is sent again at most; 0 for never, None for the default. Reads
            are repeated after 408, 5xx and a short 429. Calls that start a run are repeated only if
            nothing reached the service.
        log_handler: Called with a dict at every request, response and retry: ``phase``, ``method``,
            ``path``, ``attempt``, ``status_code``, ``request_id``, and ``error`` if there was no
            response. Also at the beginning and end of a scope: ``phase`` is ``scope_open`` or
            ``scope_close``, with ``session_id`` and ``mode``. An exception in it is logged, and the
            call continues.
        log_payloads: Add ``request_body`` and ``response_body`` to that dict. The body of a stream is not
            kept.
        session_id: A session for all calls that have none and run in no scope.
        default_headers: More headers for every request. Headers of a call replace those of the same name.
        http_client: An ``httpx.Client``, or a client with its interface, to send with, for instance with a
            proxy or a mock transport. You close it yourself. Requests still go to the service's base URL.
        otel: Make OpenTelemetry spans, if the program has set a tracer provider. False for none.
        otel_steps: Make a span for each step, too.
        otel_payloads: Put inputs and outputs into the spans.

    Raises:
        AuthenticationError: The key is missing or malformed.
        ValueError: An argument is not valid.

    Example:
        >>> with Noukai(org="acme", project="spelling") as client:          # doctest: +SKIP
        ...     print(client.flow("grade-3").execute(message="The cat sat.").result)
    """

    def _connect(self, service: Service, http_client: Any) -> SyncTransport:
        if http_client is not None and (
            not _can_send(http_client) or is_async_callable(http_client.send)
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
        """Return a flow, by ``"slug"``, ``"org/project/slug"`` or the three keywords. Nothing is sent.

        Args:
            slug: A bare slug, which takes ``org`` and ``project`` from the client; or the whole address.
            org: The organisation of a bare slug, together with ``project``.
            project: The project of a bare slug, together with ``org``.

        Returns:
            The flow: ``execute``, ``steps``, ``events``, ``execute_async`` and ``run``.

        Raises:
            ValueError: The slug is malformed, bare without defaults of the client, or a whole address
                next to ``org`` or ``project``.

        Example:
            >>> client.flow("acme/spelling/grade-3")                        # doctest: +SKIP
            Flow('acme/spelling/grade-3')
        """
        return Flow(self._ref(slug, org, project), self._transport)

    @property
    def sessions(self) -> Sessions:
        """The sessions of the service: ``list``, ``get``, ``delete``."""
        from .listings import Sessions

        return Sessions(self._transport)

    @property
    def flows(self) -> Flows:
        """The flows of the service: ``list``."""
        from .listings import Flows

        return Flows(self._transport)

    def close(self) -> None:
        """Release the connections. May be called any number of times.

        A call in another thread ends with ClientClosedError when it next uses its connection, at its
        timeout at the latest.
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


class AsyncNoukai(_BaseClient[AsyncTransport, "httpx.AsyncClient"]):
    """The async client, for FastAPI, Starlette, and all other code on asyncio or trio.

    Takes the arguments of :class:`Noukai`. One client serves thousands of calls at once, and several
    event loops. Use it with ``async with``, or call :meth:`aclose`, which ends the calls under way with
    ClientClosedError.

    If the extra ``fast`` is installed, calls on asyncio use httpx2 and aiohttp instead of httpx, which
    takes half the time. Set ``NOUKAI_FAST=0`` in the environment to use httpx, for example for tests that
    mock httpx. With ``http_client=`` neither is used.

    Example:
        >>> async with AsyncNoukai() as client:                             # doctest: +SKIP
        ...     result = await client.flow("acme/spelling/grade-3").execute(message="The cat sat.")
    """

    def _connect(self, service: Service, http_client: Any) -> AsyncTransport:
        if http_client is not None and not (
            _can_send(http_client) and hasattr(http_client, "aclose")
        ):
            raise TypeError("AsyncNoukai needs an async http_client, such as httpx.AsyncClient")
        return AsyncTransport(service, http_client)

    @overload
    def flow(self, slug: str) -> AsyncFlow: ...
    @overload
    def flow(self, *, org: str, project: str, slug: str) -> AsyncFlow: ...
    def flow(
        self, slug: str | None = None, *, org: str | None = None, project: str | None = None
    ) -> AsyncFlow:
        """Return a flow. See :meth:`Noukai.flow`."""
        return AsyncFlow(self._ref(slug, org, project), self._transport)

    @property
    def sessions(self) -> AsyncSessions:
        """The sessions of the service: ``list``, ``get``, ``delete``."""
        from .listings import AsyncSessions

        return AsyncSessions(self._transport)

    @property
    def flows(self) -> AsyncFlows:
        """The flows of the service: ``list``."""
        from .listings import AsyncFlows

        return AsyncFlows(self._transport)

    async def aclose(self) -> None:
        """Release the connections of this event loop. May be called any number of times.

        Calls under way here end with ClientClosedError, except those that use your ``http_client``.
        The connections of other event loops are closed when their loop stops.
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


def resolve_base_url(base_url: str | None, env: str | None) -> str:
    """Return the address of the service: that which is given, or of the environment, or of ``env``."""
    if base_url is not None:
        return require_base_url("base_url", base_url)
    if variable := os.environ.get("NOUKAI_BASE_URL"):
        return require_base_url("NOUKAI_BASE_URL", variable)
    env = env or os.environ.get("NOUKAI_ENV") or "production"
    if env not in BASE_URLS:
        raise ValueError(
            f'bad env {env!r}: it must be "production" or "dev"; base_url= takes any address'
        )
    return BASE_URLS[env]


def _span_options(otel: bool, steps: bool, payloads: bool) -> SpanOptions | None:
    steps = require_flag("otel_steps", steps)
    payloads = require_flag("otel_payloads", payloads)
    return SpanOptions(steps, payloads) if require_flag("otel", otel) else None


def _lower(headers: Mapping[str, str] | None, name: str) -> dict[str, str]:
    """Return a user's headers with their names in lower case."""
    if headers is None:
        return {}
    check_headers(name, headers)
    return {header.lower(): value for header, value in headers.items()}


def _require_key(key: str | None) -> str:
    if not key:
        raise AuthenticationError(NO_KEY)
    # The key goes into a header, so it is checked here, and it is never printed.
    if not isinstance(key, str) or not re.match(_KEY, key):
        raise AuthenticationError(
            "malformed API key: it must start with 'nk_' and contain no spaces or line ends"
        )
    return key


def _can_send(http_client: Any) -> bool:
    methods = ("build_request", "send")
    return not isinstance(http_client, type) and all(hasattr(http_client, m) for m in methods)
