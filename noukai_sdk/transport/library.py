"""The HTTP library: its clients, its requests, its faults. The only module that imports one.

Works with any client of httpx's interface. httpx2, and aiohttp under either, are understood as well,
by the names of their classes.
"""

from __future__ import annotations

import platform
import ssl
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import httpx

from ..errors import APIConnectionError, APITimeoutError, ClientClosedError, NoukaiError
from ..protocol.call import Service
from ..protocol.decoding import error_class
from ..protocol.program import Request
from . import fast
from .live_calls import check_allowed

_NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
)
_NOT_SENT_AIOHTTP = frozenset({"ClientConnectorError", "ConnectionTimeoutError", "InvalidURL"})
_HTTP_FAULTS = frozenset({"HTTPError", "StreamError", "InvalidURL", "ClientError", "OSError"})
_CLOSED = ("client has been closed", "Session is closed", "Connection closed.")


def user_agent(version: str) -> str:
    """The User-Agent of docs/wire.md for this version of the SDK."""
    python = platform.python_version()
    return (
        f"noukai-python/{version} "
        f"(httpx/{httpx.__version__}; python/{python}; {platform.system().lower()})"
    )


def sync_client() -> httpx.Client:
    """A client with a pool that opens as many connections as there are calls under way."""
    return httpx.Client(limits=httpx.Limits(max_connections=None), verify=_tls())


def async_client() -> httpx.AsyncClient:
    """As :func:`sync_client`, for asyncio and trio."""
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None), verify=_tls())


def fast_client() -> Any:
    """The client of the extra ``fast``, for asyncio."""
    from httpx2 import Limits
    from httpx_aiohttp.httpx2 import Httpx2AiohttpClient

    # aiohttp reads 0 as "no limit", and None as its default of 100.
    return Httpx2AiohttpClient(limits=Limits(max_connections=0), verify=_tls())


def fast_is_on() -> bool:
    """Whether :func:`fast_client` can be used, and should be."""
    return fast.is_on("httpx2", "httpx_aiohttp")


@cache
def _tls() -> ssl.SSLContext:
    # Loading the certificates takes some 20 ms: once a process, not once a pool.
    return httpx.create_ssl_context()


def build(client: Any, service: Service, request: Request) -> Any:
    """The HTTP library's own request.

    Raises:
        ReplayDisabledError: Requests are refused here.
    """
    check_allowed(service, request.path)
    url_of_its_library: Callable[[str], Any] = type(getattr(client, "base_url", ""))
    return client.build_request(
        request.method,
        _url(url_of_its_library, service.base_url + request.path),
        content=request.body,
        headers={**service.headers, **request.headers},
        timeout=request.timeout,
    )


@lru_cache(maxsize=1024)
def _url(kind: Callable[[str], Any], text: str) -> Any:
    # Parsing takes a tenth of a whole call, and a flow's address does not change.
    return kind(text)


def fault_from(error: BaseException, path: str) -> NoukaiError | None:
    """The SDK's error for an HTTP library's, None for an error that is no fault of the network."""
    if isinstance(error, RuntimeError) and any(said in str(error) for said in _CLOSED):
        return closed_during_call()
    names = {kind.__name__ for kind in type(error).__mro__}
    if not names & _HTTP_FAULTS:
        return None
    answer = getattr(error, "response", None)
    if answer is not None:  # the user's client has a hook that raises for error answers
        return _answered(answer, path)
    said = str(error) or type(error).__name__
    timed_out = "TimeoutException" in names and not _disconnected(error)
    kind = APITimeoutError if timed_out else APIConnectionError
    return kind(
        f"{path}: {'timed out' if timed_out else 'connection failed'}: {said}",
        request_sent=not _never_sent(error, names),
    )


def closed_during_call() -> ClientClosedError:
    """The error of a call that the end of its client has cut short."""
    return ClientClosedError("the client was closed during the call: make a new one")


def _answered(answer: Any, path: str) -> NoukaiError:
    return error_class(answer.status_code, None)(
        f"{path}: the service answered HTTP {answer.status_code}",
        status_code=answer.status_code,
        request_id=answer.headers.get("x-request-id"),
    )


def _never_sent(error: BaseException, names: set[str]) -> bool:
    below = _aiohttp_cause(error)
    return bool(names & _NOT_SENT) if below is None else bool(below & _NOT_SENT_AIOHTTP)


def _disconnected(error: BaseException) -> bool:
    # httpx-aiohttp reports a server that hung up as ConnectTimeout.
    below = _aiohttp_cause(error)
    return below is not None and "TimeoutError" not in below


def _aiohttp_cause(error: BaseException) -> set[str] | None:
    cause = error.__cause__
    if cause is None or not type(cause).__module__.startswith("aiohttp"):
        return None
    return {kind.__name__ for kind in type(cause).__mro__}
