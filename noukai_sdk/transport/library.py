"""The HTTP library: its clients, requests, responses and faults. The only module that imports one.

Works with any client of httpx's interface. httpx2, and aiohttp under either, are recognised by the names
of their classes.
"""

from __future__ import annotations

import platform
import ssl
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

import httpx

from ..errors import APIConnectionError, APITimeoutError, ClientClosedError, NoukaiError
from ..protocol.call import Service
from ..protocol.decoding import error_class
from ..protocol.program import Request, Response
from . import fast

_NOT_SENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
)
_NOT_SENT_AIOHTTP = frozenset({"ClientConnectorError", "ConnectionTimeoutError", "InvalidURL"})
_HTTP_FAULTS = frozenset({"HTTPError", "StreamError", "InvalidURL", "ClientError", "OSError"})
_BOM = b"\xef\xbb\xbf"
# The kinds of async clients that this process has made, fast or not.
_ready: set[bool] = set()
_CLOSED = ("client has been closed", "Session is closed", "Connection closed.")


def user_agent(version: str) -> str:
    """Return the User-Agent of docs/wire.md for this version of the SDK."""
    python = platform.python_version()
    return (
        f"noukai-python/{version} "
        f"(httpx/{httpx.__version__}; python/{python}; {platform.system().lower()})"
    )


def sync_client() -> httpx.Client:
    """Make a client whose pool opens as many connections as there are calls under way."""
    return httpx.Client(limits=httpx.Limits(max_connections=None), verify=_tls())


def async_client() -> httpx.AsyncClient:
    """Make a client as :func:`sync_client` does, for asyncio and trio."""
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None), verify=_tls())


def fast_client() -> Any:
    """Make the client of the extra ``fast``, for asyncio."""
    from httpx2 import Limits
    from httpx_aiohttp.httpx2 import Httpx2AiohttpClient

    # aiohttp reads 0 as "no limit", and None as its default of 100.
    return Httpx2AiohttpClient(limits=Limits(max_connections=0), verify=_tls())


def async_is_ready(is_fast: bool) -> bool:
    """Return whether :func:`prepare_async` has run in this process."""
    return is_fast in _ready


def prepare_async(is_fast: bool) -> None:
    """Import what the first async client needs, which takes up to a second: use a worker thread."""
    # A client that has sent nothing holds no connection.
    (fast_client if is_fast else async_client)()
    _ready.add(is_fast)


def fast_is_on() -> bool:
    """Return whether :func:`fast_client` can be used, and should be."""
    return fast.is_on("httpx2", "httpx_aiohttp")


@cache
def _tls() -> ssl.SSLContext:
    # Loading the certificates takes some 20 ms: once a process, not once a pool.
    return httpx.create_ssl_context()


def build_request(client: Any, service: Service, request: Request) -> Any:
    """Build the HTTP library's own request."""
    headers: Mapping[str, str] = {**service.headers, **request.headers}
    if service.default_headers:
        names = {name.lower() for name in headers}
        more = {name: v for name, v in service.default_headers.items() if name not in names}
        headers = {**more, **headers}
    url_of_its_library: Callable[[str], Any] = type(getattr(client, "base_url", ""))
    return client.build_request(
        request.method,
        _url(url_of_its_library, service.base_url + request.path),
        content=request.body,
        headers=headers,
        timeout=request.timeout,
    )


@lru_cache(maxsize=1024)
def _url(kind: Callable[[str], Any], text: str) -> Any:
    # Parsing takes a tenth of a whole call, and a flow's address does not change.
    return kind(text)


def read_response(response: Any) -> Response:
    """Convert a response of the HTTP library that was read to its end, and release it.

    A response of httpx and its stream hold each other: garbage that only the collector would find. With
    a thousand calls under way it would look through them all.
    """
    response.stream = None
    # A byte order mark is not valid JSON, and some proxies add one.
    return Response(response.status_code, response.headers, response.content.removeprefix(_BOM))


def response_head(response: Any) -> Response:
    """Convert a response of the HTTP library whose body is still to come."""
    return Response(response.status_code, response.headers, b"")


def error_from_fault(error: BaseException, url: str) -> NoukaiError | None:
    """Return the SDK's error for one of an HTTP library, None if the network is not at fault."""
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _CLOSED):
        return closed_during_call()
    names = _class_names(error)
    if not names & _HTTP_FAULTS:
        return None
    response = getattr(error, "response", None)
    if response is not None:  # the user's client has a hook that raises for error responses
        return error_class(response.status_code, None, url)(
            f"{url}: the service responded with HTTP {response.status_code}",
            status_code=response.status_code,
            request_id=response.headers.get("x-request-id"),
        )
    timed_out = "TimeoutException" in names
    sent = not names & _NOT_SENT
    cause = error.__cause__
    if cause is not None and type(cause).__module__.startswith("aiohttp"):
        names = _class_names(cause)
        sent = not names & _NOT_SENT_AIOHTTP
        # httpx-aiohttp reports a server that hung up as ConnectTimeout.
        timed_out = timed_out and "TimeoutError" in names
    kind = APITimeoutError if timed_out else APIConnectionError
    problem = "timed out" if timed_out else "connection failed"
    reason = str(error) or type(error).__name__
    hint = "" if sent else f"; {_how_to_reach(url)}"
    return kind(f"{url}: {problem}: {reason}{hint}", request_sent=sent)


def _how_to_reach(url: str) -> str:
    """Return what to do about a service that cannot be reached."""
    host = httpx.URL(url).host
    if host in ("localhost", "::1") or host.startswith("127."):
        return "is `noukai dev` running? If it is on another port, set NOUKAI_BASE_URL"
    return f"to call another service than {host}, set NOUKAI_BASE_URL, or NOUKAI_ENV=dev"


def _class_names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def closed_before_call() -> ClientClosedError:
    """Return the error of a call on a client that was closed."""
    return ClientClosedError("this client was closed: make a new one")


def closed_during_call() -> ClientClosedError:
    """Return the error of a call that the closing of its client has cut short."""
    return ClientClosedError("the client was closed during the call: make a new one")
