"""Observe the requests of a WSGI application, for ``capture_requests=``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from .captured import URL_CHARACTERS, Captured, CaptureRequests, logger, origin_of

if TYPE_CHECKING:
    from ..session.scope import Scope


class WsgiCapture(Captured):
    """Observes a request of a WSGI application: wrap what the application gets and returns."""

    def __init__(self, options: CaptureRequests, environ: MutableMapping[str, Any]) -> None:
        super().__init__(options)
        self.method = environ["REQUEST_METHOD"].upper()
        self.headers = _headers_of(environ)
        server = environ.get("SERVER_NAME"), environ.get("SERVER_PORT")
        self.origin = origin_of(environ.get("wsgi.url_scheme", "http"), self.headers, server)
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
            except Exception:  # noqa: BLE001  # observing must not disturb the application
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
        part = self._note(self._read(self._stream.read, *size))
        if self._expected is None and size in ((), (-1,), (None,)):
            self._captured.body.complete = True
        return part

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
        except Exception:  # observing must not disturb the application
            self._captured.client_left = True
            raise

    def _note(self, part: bytes) -> bytes:
        self._position += len(part)
        body = self._captured.body
        new = self._position - body.size
        if new > 0:
            body.add(part[-new:])
        # Without a declared size, an empty part is the end of a chunked body.
        at_end = not part if self._expected is None else body.size >= self._expected
        body.complete = body.complete or at_end
        if not part and not at_end:
            self._captured.client_left = True
        return part


class _ObservedParts:
    """The parts of a WSGI response, noted as they pass; the exchange is finished by ``close()``."""

    def __init__(self, body: Iterable[bytes], captured: WsgiCapture, scope: Scope) -> None:
        self._next = iter(body).__next__
        self._close = getattr(body, "close", None)
        self._captured = captured
        self._scope = scope
        self._has_ended = captured.method == "HEAD"  # a server need not read that body

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            part = self._next()
        except StopIteration:
            self._captured.response.complete = self._has_ended = True
            raise
        except BaseException:
            self._has_ended = True
            raise
        self._captured.response.add(part)
        return part

    def close(self) -> None:
        """Close the application's body."""
        if not self._has_ended:
            self._captured.client_left = True
        try:
            if self._close is not None:
                self._close()
        finally:
            self._captured.finish(self._scope)


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
    query = quote(environ.get("QUERY_STRING") or "", URL_CHARACTERS)
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
    return quote(path, URL_CHARACTERS), query
