"""Observe a request and its response, for ``capture_requests=``.

Nothing is read ahead and nothing is held back: a request's body is seen as the application reads it, a
response's as the application sends it. What the application does not read is not captured.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Union
from urllib.parse import quote, urlsplit

from ..masking.names import is_secret_name, name_words

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..models.exchanges import Exchange
    from ..protocol.call import Service
    from ..protocol.program import Program
    from ..session.scope import Scope

logger = logging.getLogger("noukai_sdk")

LIMIT = 1_000_000
"""How many bytes of each body are kept."""

REQUEST_HEADERS = frozenset(
    {
        "accept", "accept-language", "content-encoding", "content-language", "content-type", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "last-event-id",
        "prefer", "range", "x-http-method-override", "x-requested-with"
    }
)  # fmt: skip
RESPONSE_HEADERS = frozenset(
    {
        "allow", "cache-control", "content-disposition", "content-encoding", "content-language",
        "content-range", "content-type", "etag", "last-modified", "link", "location", "retry-after",
        "vary"
    }
)  # fmt: skip

# A header with one of these words in its name holds a credential, or something that one is made of.
_SECRET_WORDS = frozenset(
    {
        "assertion", "auth", "authentication", "authorization", "cookie", "credential", "credentials",
        "jwt", "key", "password", "secret", "session", "sessionid", "signature", "token"
    }
)  # fmt: skip

_HOST = re.compile(r"[\w.:\[\]-]+")
_URL_CHARACTERS = "%/:@!$&'()*+,;=~?[]"

Message = MutableMapping[str, Any]
Hook = Callable[[dict[str, Any]], "dict[str, Any] | None"]


@dataclass(frozen=True)
class CaptureRequests:
    """What ``capture_requests=`` captures of each request and its response, besides the usual.

    Attributes:
        headers: More headers to keep, of requests and responses. Headers whose name speaks of a
            credential are never kept.
        redact_pii: Mask e-mail addresses, phone numbers, payment cards and IBANs too.
        redact: Called with the masked exchange as a dict, with the names of
            ``PUT /seq/sessions/{id}/exchange``; returns the dict to keep, or None to keep nothing. It
            runs in another thread, after the response.

    Example:
        >>> app.add_middleware(                                   # doctest: +SKIP
        ...     NoukaiTraceMiddleware,
        ...     client=noukai,
        ...     capture_requests=CaptureRequests(headers=["x-tenant"], redact_pii=True),
        ... )
    """

    headers: Iterable[str] = ()
    redact_pii: bool = False
    redact: Hook | None = None
    extra: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.headers, str) or not all(isinstance(name, str) for name in self.headers):
            raise TypeError(f"headers must be a list of names, not {self.headers!r}")
        if self.redact is not None and not callable(self.redact):
            raise TypeError(f"redact must be a function, not {self.redact!r}")
        names = {name.strip().lower() for name in self.headers}
        secret = sorted(name for name in names if is_secret_header(name))
        if secret:
            logger.warning("capture_requests never keeps these headers: %s", ", ".join(secret))
        object.__setattr__(self, "extra", frozenset(names.difference(secret)))


CaptureOption = Union[bool, Iterable[str], CaptureRequests]  # noqa: UP007  # evaluated at run time


def capture_options(value: CaptureOption) -> CaptureRequests | None:
    """Return the options that ``capture_requests=value`` asks for; None if it captures nothing.

    Raises:
        TypeError: It is not a boolean, a list of headers or a CaptureRequests.
    """
    if isinstance(value, CaptureRequests):
        return value
    if isinstance(value, bool) or value is None:
        return CaptureRequests() if value else None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(
            f"capture_requests must be True, a list of headers or a CaptureRequests, not {value!r}"
        )
    return CaptureRequests(tuple(value))


def is_secret_header(name: str) -> bool:
    """Return whether a header may hold a credential.

    Example:
        >>> is_secret_header("X-Api-Key"), is_secret_header("Set-Cookie"), is_secret_header("X-Tenant")
        (True, True, False)
    """
    words = name_words(name)
    return is_secret_name(name) or not _SECRET_WORDS.isdisjoint(words) or words[-1:] == ("apikey",)


class ObservedBody:
    """The first part of a body, and its size.

    Attributes:
        complete: The last part came.
        readable: False if it was not seen: the server sends it from a file that this process cannot read.
    """

    __slots__ = ("complete", "data", "readable", "size")

    def __init__(self) -> None:
        self.data = bytearray()
        self.size = 0
        self.complete = False
        self.readable = True

    def add(self, part: Any) -> None:
        """Add a part; what is beyond the limit is only counted."""
        left = LIMIT - len(self.data)
        if left > 0:
            self.data += part[:left]
        self.size += len(part)

    def add_file(self, file: Any, count: int | None = None) -> None:
        """Add the rest of an open file, without moving its position."""
        try:
            start = file.tell()
            end = file.seek(0, os.SEEK_END)
            file.seek(start)
            part = file.read(min(LIMIT + 1, end - start if count is None else count))
            file.seek(start)
            if not isinstance(part, bytes):
                raise TypeError("a text file")
        except Exception:  # noqa: BLE001  # any object may stand for a file
            self.readable = False
            return
        self.add(part)
        self.size += max(0, (end - start if count is None else min(count, end - start)) - len(part))

    @property
    def truncated(self) -> bool:
        """Whether a part of the body is missing in ``data``."""
        return self.size > len(self.data) or not self.readable


class Captured:
    """One request and its response, as far as they were observed.

    Attributes:
        files: The cassette files that were recorded in the request; they get the exchange too.
        client_left: The client went away before the end.
    """

    def __init__(self, options: CaptureRequests) -> None:
        self.options = options
        self.method = "GET"
        self.origin = ""
        self.path = "/"
        self.query = ""
        self.headers: list[tuple[str, str]] = []
        self.body = ObservedBody()
        self.status: int | None = None
        self.response_headers: list[tuple[str, str]] = []
        self.response = ObservedBody()
        self.client_left = False
        self.started_at = _now()
        self.completed_at: str | None = None
        self.files: list[Any] = []

    @classmethod
    def begin(
        cls, options: CaptureRequests, scope: Scope, joined: bool, *connection: Any
    ) -> Self | None:
        """Begin to observe a request; None if it is not captured. Never raises.

        Args:
            options: What to capture.
            scope: The scope of the request.
            joined: The request runs in a scope that was open before.
            *connection: The other arguments of the class.
        """
        try:
            if not _is_captured(scope, joined):
                return None
            captured = scope.captured = cls(options, *connection)
            return captured
        except Exception:
            logger.warning("a request is not captured", exc_info=True)
            return None

    def finish(self, scope: Scope) -> None:
        """Hand the exchange to the file that ``scope`` records, or to the service. Never raises.

        What is expensive runs later, in the background.
        """
        if self.completed_at is not None:
            return
        self.completed_at = _now()
        scope.captured = None  # a task that outlives the request keeps its scope, not the bodies
        try:
            keep = getattr(scope, "keep_exchange", None)
            if keep is not None:
                keep(self.exchange)
                return
            for file in self.files:
                file.add_exchange(self.exchange())
            size = len(self.body.data) + len(self.response.data)
            scope.send_at_end(_send, self, size=size + 1_000)
        except Exception:
            logger.warning("a request was not captured", exc_info=True)

    def exchange(self, service: Service | None = None) -> Exchange | None:
        """Return the redacted exchange; None if the ``redact`` hook keeps nothing.

        Args:
            service: Its API key is masked too.
        """
        from .redacted_exchange import redacted_exchange

        return redacted_exchange(self, service)


def _send(service: Service, session_id: str, captured: Captured) -> Program[bool]:
    """Store the exchange of a session."""
    from ..protocol.session_extensions import put_exchange

    exchange = captured.exchange(service)
    if exchange is None:
        return True
    return (yield from put_exchange(service, session_id, exchange))


_send.__name__ = "put_exchange"  # by this name it is remembered that a service takes none


def _is_captured(scope: Scope, joined: bool) -> bool:
    if hasattr(scope, "keep_exchange"):
        return True
    # A scope that was open before, and records no file, may have many requests.
    if joined or scope._service is None:
        return False
    from ..transport.background import takes

    return takes(scope._service, _send)


class AsgiCapture(Captured):
    """Observes a connection of an ASGI application: wrap ``receive`` and ``send`` in its methods."""

    def __init__(
        self,
        options: CaptureRequests,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        super().__init__(options)
        self._receive = receive
        self._send = send
        self._is_http = scope["type"] == "http"
        self.method = scope.get("method", "GET").upper()
        self.headers = _decoded(scope["headers"])
        self.origin = _origin(scope.get("scheme", "http"), self.headers, scope.get("server"))
        raw = scope.get("raw_path") or b""
        path = bytes(raw).decode("latin-1").partition("?")[0]
        if not path.startswith("/"):
            root, rest = scope.get("root_path", ""), scope.get("path", "/")
            path = quote(rest if not root or rest.startswith(root) else root + rest)
        self.path = quote(path, _URL_CHARACTERS)
        self.query = quote(bytes(scope.get("query_string", b"")).decode("latin-1"), _URL_CHARACTERS)

    async def receive(self) -> Message:
        """Receive a message for the application."""
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self.body.add(message.get("body") or b"")
            self.body.complete = not message.get("more_body", False)
        elif kind == "http.disconnect" and not self.response.complete:
            self.client_left = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the application."""
        try:
            self._observe(message)
        except Exception:
            logger.debug("a message was not captured", exc_info=True)
        await self._send(message)

    def _observe(self, message: Message) -> None:
        kind = message["type"].removeprefix("websocket.")
        if kind == "http.response.start":
            self.status = message["status"]
            self.response_headers = _decoded(message.get("headers", ()))
        elif kind == "http.response.body":
            self.response.add(message.get("body") or b"")
            self.response.complete = not message.get("more_body", False)
        elif kind == "http.response.pathsend":
            with open(message["path"], "rb") as file:  # noqa: PTH123
                self.response.add_file(file)
            self.response.complete = True
        elif kind == "http.response.zerocopysend":
            self.response.readable = False
            self.response.complete = not message.get("more_body", False)
        elif self.status is None and kind in ("accept", "close"):
            self.status = 101 if kind == "accept" else 403
            self.response_headers = _decoded(message.get("headers") or ())
            self.response.complete = True


class WsgiCapture(Captured):
    """Observes a request of a WSGI application: wrap what the application gets and returns."""

    def __init__(self, options: CaptureRequests, environ: MutableMapping[str, Any]) -> None:
        super().__init__(options)
        self.method = environ["REQUEST_METHOD"].upper()
        self.headers = _headers_of(environ)
        server = environ.get("SERVER_NAME"), environ.get("SERVER_PORT")
        self.origin = _origin(environ.get("wsgi.url_scheme", "http"), self.headers, server)
        self.path, self.query = _target_of(environ)
        stream = environ.get("wsgi.input")
        if stream is not None:
            declared = environ.get("CONTENT_LENGTH") or ""
            expected = int(declared) if re.fullmatch("[0-9]{1,18}", declared) else None
            environ["wsgi.input"] = ObservedInput(stream, self, expected)

    def wrap_start(self, start_response: Any) -> Any:
        """Return ``start_response``, observed, and so is the ``write()`` that it returns."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            write = start_response(status, headers, *exc_info)
            try:
                self.status = int(status.split(None, 1)[0])
                self.response_headers = [(name.lower(), value) for name, value in headers]
            except Exception:
                logger.debug("a response's head was not captured", exc_info=True)

            def observed_write(part: bytes) -> object:
                self.response.add(part)
                return write(part)

            return observed_write

        return start

    def wrap_body(self, body: Iterable[bytes], scope: Scope) -> Iterable[bytes]:
        """Return a body that the server or the middleware iterates, observed."""
        return _ObservedParts(body, self, scope)

    def add_whole(self, body: Any) -> None:
        """Note a body that is handed on as it is: a list, or the server's ``wsgi.file_wrapper``."""
        if isinstance(body, list):
            for part in body:
                self.response.add(part)
        else:
            names = ("filelike", "file", "_file")
            file = next((getattr(body, name) for name in names if hasattr(body, name)), None)
            self.response.add_file(file)
        self.response.complete = True


class ObservedInput:
    """A ``wsgi.input`` that notes what the application reads.

    Args:
        stream: The server's stream.
        captured: Where the parts go.
        expected: The size that the request declares, None if it does not.
    """

    def __init__(self, stream: Any, captured: Captured, expected: int | None) -> None:
        self._stream = stream
        self._captured = captured
        self._expected = expected
        self._position = 0

    def read(self, *size: Any) -> bytes:
        """Read as the stream does."""
        return self._note(self._read(self._stream.read, *size))

    def readline(self, *size: Any) -> bytes:
        """Read a line as the stream does."""
        return self._note(self._read(self._stream.readline, *size))

    def readlines(self, *hint: Any) -> list[bytes]:
        """Read lines as the stream does."""
        lines: list[bytes] = self._read(self._stream.readlines, *hint)
        for line in lines:
            self._note(line)
        return lines

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer as the stream does."""
        count: int = self._read(self._stream.readinto, buffer)
        self._note(bytes(memoryview(buffer)[: count or 0]))
        return count

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            yield self._note(line)

    def __next__(self) -> bytes:
        return self._note(next(self._stream))

    def seek(self, *place: Any) -> Any:
        """Move in the stream, if it can: what is read again is noted once."""
        self._position = position = self._stream.seek(*place)
        return position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _read(self, read: Callable[..., Any], *args: Any) -> Any:
        try:
            return read(*args)
        except Exception:
            self._captured.client_left = True
            raise

    def _note(self, part: bytes) -> bytes:
        self._position += len(part)
        body = self._captured.body
        new = self._position - body.size
        if new > 0:
            body.add(part[-new:])
        if not part and self._expected is not None and body.size < self._expected:
            self._captured.client_left = True
        return part


class _ObservedParts:
    """The parts of a WSGI response, noted as they pass; the exchange is finished by ``close()``."""

    def __init__(self, body: Iterable[bytes], captured: WsgiCapture, scope: Scope) -> None:
        self._next = iter(body).__next__
        self._close = getattr(body, "close", None)
        self._captured = captured
        self._scope = scope

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            part = self._next()
        except StopIteration:
            self._captured.response.complete = True
            raise
        self._captured.response.add(part)
        return part

    def close(self) -> None:
        """Close the application's body."""
        try:
            if self._close is not None:
                self._close()
        finally:
            self._captured.finish(self._scope)


def _decoded(headers: Iterable[Any]) -> list[tuple[str, str]]:
    return [
        (bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1"))
        for name, value in headers
    ]


def _headers_of(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    headers = []
    for name, value in environ.items():
        if name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if value:
                headers.append((name.replace("_", "-").lower(), str(value)))
        elif name.startswith("HTTP_"):
            headers.append((name[5:].replace("_", "-").lower(), str(value)))
    return headers


def _target_of(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return path and query as they were sent, if the server says so; else made from the decoded path."""
    query = quote(environ.get("QUERY_STRING") or "", _URL_CHARACTERS)
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    path = raw.partition("?")[0] if raw.startswith("/") else ""
    if not path and "://" in raw:
        try:
            path = urlsplit(raw).path
        except ValueError:
            path = ""
    if not path:
        decoded = (environ.get("SCRIPT_NAME") or "") + (environ.get("PATH_INFO") or "/")
        path = quote(decoded.encode("latin-1", "replace"))
    return quote(path, _URL_CHARACTERS), query


def _origin(scheme: str, headers: Iterable[tuple[str, str]], server: Any) -> str:
    host = next((value for name, value in headers if name == "host"), "")
    if not _HOST.fullmatch(host):
        name, port = (*(server or ("", None)), None)[:2]
        host = f"{name or 'localhost'}:{port}" if port else name or "localhost"
    return f"{scheme}://{host}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
