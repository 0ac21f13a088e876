"""Trace and replay any WSGI application. Imports no framework."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import NoukaiError
from ..session.carry_threads import carry_threads_by_default
from ..session.opening import load_other_parts_sync, open_replay_sync
from ..session.options import replay_enabled, requested_replay
from ..session.scope import capture_scope, context_with, joinable_scope
from .captured import capture_options
from .responses import (
    EVENT_STREAM,
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
    LATE_CALLS,
    LONGEST_HOLD,
    LONGEST_LEAVING,
    OWN_HEADERS,
    Response,
    finish_replay,
    refuse_replay,
    report_response,
    require_client,
    session_headers,
)
from .wsgi_capture import WsgiCapture

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ..client import AsyncNoukai, Noukai
    from ..session.scope import Scope
    from .captured import CaptureOption

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_ID",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTraceMiddleware",
]

Header = tuple[str, str]

_SCOPE_KEY = "noukai.scope"
_REPLAY = "HTTP_" + HEADER_REPLAY.upper().replace("-", "_")
_REPORT = "HTTP_" + HEADER_REPLAY_REPORT.upper().replace("-", "_")
# Their ``write()`` sends at once, from any thread. That of a test client may lose what it gets.
_WRITING_SERVERS = ("gunicorn/", "Werkzeug/", "WSGIServer/")


class NoukaiTraceMiddleware:
    """Run every request in its own scope, including each step of its response body.

    The application, its body and the body's ``close()`` run in one copy of the thread's context, so
    context variables that they set do not reach the thread's next request.

    The response carries ``X-Noukai-Session``. A request with ``X-Noukai-Replay: <session id>`` is
    served from that session if ``NOUKAI_REPLAY_ENABLED`` allows it. A request that arrives inside a
    scope (in a test, for example) without that header joins the scope.

    Args:
        app: The WSGI application to wrap.
        client: The client that fetches recorded sessions, sync or async.
        carry_threads: Carry the scope into threads and thread pools; see
            :func:`noukai_sdk.carry_threads`.
        capture_requests: Store each captured request and its response with its session, without
            secrets. A list names more headers to keep; for more options pass a
            :class:`~noukai_sdk.adapters.CaptureRequests`.

    Raises:
        TypeError: ``client`` is not a client.

    Example:
        >>> app.wsgi_app = NoukaiTraceMiddleware(app.wsgi_app, client=noukai)  # doctest: +SKIP
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        client: Noukai | AsyncNoukai,
        carry_threads: bool = True,
        capture_requests: CaptureOption = False,
    ) -> None:
        self.app = app
        self.client = require_client(client)
        self._capture = capture_options(capture_requests)
        if carry_threads:
            carry_threads_by_default()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        current = joinable_scope()
        # Another NoukaiTraceMiddleware is outside of this one. The key alone does not prove it: a
        # caller may use the same dict for several requests.
        if current is not None and _SCOPE_KEY in environ:
            return self.app(environ, start_response)

        if _REPLAY in environ or _REPORT in environ:
            response = self._replay(environ, start_response)
            if response is not None:
                return response

        session = environ[_SCOPE_KEY] = current or capture_scope(self.client._transport.service)
        opened = session if current is None else None
        own_headers = session_headers(session)

        captured = None
        if self._capture is not None:
            captured = WsgiCapture.begin(self._capture, session, current is not None, environ)

        def start_with_session(
            status: str, headers: list[Header], *exc_info: Any
        ) -> Callable[[bytes], object]:
            return start_response(status, _with_headers(headers, own_headers), *exc_info)

        start: StartResponse = start_with_session
        if captured is not None:
            start = captured.wrap_start(start_with_session)
        context = context_with(session)
        try:
            body = context.run(self.app, environ, start)
            # Reading a list runs no code of the application, and servers use its length.
            if type(body) is not list and not _is_file(body, environ):
                if captured is not None:
                    body = context.run(captured.wrap_body, body, session)
                return ScopedBody(body, context, opened)
            if captured is not None:
                captured.add_whole(body)
                captured.finish(session)
        except BaseException:
            if captured is not None:
                captured.finish(session)
            if opened is not None:
                opened.end()
            raise
        if opened is not None:
            opened.end()
        return body

    def _replay(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes] | None:
        """Serve a request for a replay or for a report; return None if replay is disabled."""
        header = environ.get(_REPLAY)
        if header is None and replay_enabled():
            return _send_response(report_response(environ[_REPORT]), environ, start_response)
        requested = None
        request_line = f"{environ['REQUEST_METHOD']} {_path(environ)}"
        try:
            requested = requested_replay(header)
            if requested is None:
                return None
            session = open_replay_sync(requested, self.client, request_line)
        except NoukaiError as error:
            refusal = refuse_replay(error, requested, request_line)
            return _send_response(refusal, environ, start_response)

        environ[_SCOPE_KEY] = session
        captured = None
        if self._capture is not None and session.is_fork:  # a session of its own
            captured = WsgiCapture.begin(self._capture, session, False, environ)
        if captured is None:
            return self._serve_replay(session, environ, start_response)
        try:
            start = captured.wrap_start(start_response)
            body = self._serve_replay(session, environ, start)
        except BaseException:
            captured.finish(session)
            raise
        if isinstance(body, StreamedBody):
            return captured.wrap_body(body, session)
        captured.add_whole(body)
        captured.finish(session)
        return body

    def _serve_replay(
        self, session: Scope, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        held = HeldResponse(session, environ, start_response)
        context = context_with(session)
        body: ScopedBody | None = None
        try:
            result = context.run(self.app, environ, held.start_response)
            if _is_file(result, environ):
                return held.finish(result)
            body = ScopedBody(result, context)
            for part in body:
                if not held.hold(part):
                    return StreamedBody(session, held, body, environ)
            body.close()
        except Exception as failure:  # noqa: BLE001  # finish() raises it again or responds with it
            if body is not None:
                body.close()
            return held.finish((), failure)
        except BaseException:  # a worker that is stopped
            session.end()
            raise
        return held.finish(held.parts)


class ScopedBody:
    """Run each step of a response body in its own context.

    No context variable stays set in the thread, even if the server drops the body half way.

    Args:
        body: The application's body.
        context: Where its steps run.
        opened: A scope that ends when the body is closed.
    """

    __slots__ = ("_close", "_next", "_opened", "_run")

    def __init__(
        self, body: Iterable[bytes], context: Context, opened: Scope | None = None
    ) -> None:
        self._run = context.run
        self._opened = opened
        self._close = getattr(body, "close", None)
        self._next = context.run(iter, body).__next__

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._run(self._next)

    def close(self) -> None:
        """Close the application's body, once."""
        close, self._close = self._close, None
        try:
            if close is not None:
                self._run(close)
        finally:
            if self._opened is not None:
                self._opened.end()

    def __del__(self) -> None:
        # Some servers and test clients drop a body without closing it. Generators in it reset
        # context variables when they end, which fails in any other context.
        self.close()


class HeldResponse:
    """Hold the response of a replayed request back until the result of the replay is known.

    The parts of the body wait until the application has ended, or until it yields a second part with
    content. The events of ``text/event-stream`` do not wait. Under a server that can send while the
    application is busy, no first part waits for longer than a moment: somebody may be waiting for it.
    From then on the response is a stream, and each part is passed on at once.

    Attributes:
        parts: The held parts of the body, in order.
        status: The status of the response, None before it starts.
    """

    def __init__(
        self, session: Scope, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.parts: list[bytes] = []
        self.status: int | None = None
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._session = session
        self._environ = environ
        self._start_response = start_response
        self._start: tuple[str, list[Header]] | None = None
        self._released = False
        self._write: Callable[[bytes], object] | None = None

    def start_response(
        self, status: str, headers: list[Header], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Hold status and headers; the application calls this function."""
        if self._released:
            return self._start_response(status, headers, exc_info)
        if self._start is not None and exc_info is None:
            raise AssertionError("start_response was called a second time without exc_info")
        self._start = (status, headers)
        self.status = int(status.split()[0])
        return self.write

    def write(self, part: bytes) -> None:
        """Hold a part, or write it if the response is a stream; the application calls this."""
        if self.hold(part):
            return
        assert self._write is not None  # an application that writes has called start_response
        while self.parts:
            self._write(self.parts.pop(0))

    def hold(self, part: bytes) -> bool:
        """Add a part of the body; return False if the response is a stream."""
        with self._lock:
            if part and (any(self.parts) or self._has_type(EVENT_STREAM)):
                self._release()
            self.parts.append(part)
            if part and not self._released:
                self._start_timer()
            return not self._released

    def _has_type(self, content_type: str) -> bool:
        headers = self._start[1] if self._start is not None else []
        types = [value for name, value in headers if name.lower() == "content-type"]
        return any(value.lower().startswith(content_type) for value in types)

    def _start_timer(self) -> None:
        server = self._environ.get("SERVER_SOFTWARE", "")
        headers = self._start[1] if self._start is not None else []
        # A response of known length is there as a whole, and not made part by part.
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        if self._timer is None and not has_length and server.startswith(_WRITING_SERVERS):
            self._timer = threading.Timer(LONGEST_HOLD, self._write_held)
            self._timer.daemon = True
            Context().run(self._timer.start)  # it belongs to no request

    def _write_held(self) -> None:
        """Send what is held while the thread of the request waits for the next part."""
        with self._lock:
            if self._timer is None or self._released:
                return
            # A client that has gone shows when the next part is sent.
            with suppress(Exception):
                self._release()
                while self.parts and self._write is not None:
                    self._write(self.parts.pop(0))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _release(self) -> None:
        """Start the response, unless it is started or the application has not called for it."""
        if self._start is None or self._released:
            return
        self._stop_timer()
        self._released = True
        status, headers = self._start
        own_headers = session_headers(self._session)
        self._write = self._start_response(status, _with_headers(headers, own_headers))

    def finish(self, body: Iterable[bytes], failure: Exception | None = None) -> Iterable[bytes]:
        """End the replay and return ``body``, or the body of the replay's error response.

        Args:
            body: The application's body.
            failure: The exception that the application raised. Raised again, unless it comes from
                the replay and the error response can be sent.
        """
        with self._lock:
            self._stop_timer()
        load_other_parts_sync(self._session)
        if failure is None:
            _wait_for_late_calls(self._session)
        response = finish_replay(self._session, failure, self.status, started=self._released)
        if response is not None and not self._released:
            getattr(body, "close", lambda: None)()
            return _send_response(response, self._environ, self._start_response)
        if failure is not None and not any(self.parts):
            raise failure
        self._release()
        # A response that had started when it was captured is cut off again.
        return body if failure is None else _cut_off(self.parts, failure)


def _cut_off(parts: list[bytes], failure: Exception) -> Iterator[bytes]:
    yield from parts
    raise failure


class StreamedBody:
    """Pass on the rest of a streamed body, and end the replay when the server closes it."""

    def __init__(
        self, session: Scope, held: HeldResponse, rest: ScopedBody, environ: WSGIEnvironment
    ) -> None:
        self._session = session
        self._environ = environ
        self._held = held.parts
        self._status = held.status
        self._rest = rest
        self._exhausted = False
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._held:
            return self._held.pop(0)
        try:
            return next(self._rest)
        except StopIteration:
            self._exhausted = True
            raise
        except Exception as failure:
            self._closed = True
            load_other_parts_sync(self._session)
            left = _leaves_too(self._session, self._environ)
            response = finish_replay(
                self._session, failure, self._status, started=True, client_left=left
            )
            if left and response is None:
                raise StopIteration from failure
            raise

    def close(self, *, dropped: bool = False) -> None:
        """Close the application's body, and end the replay.

        Args:
            dropped: The collector calls this, maybe within an HTTP client: make no requests.
        """
        closed, self._closed = self._closed, True
        try:
            self._rest.close()
            if not closed:
                if not dropped:
                    load_other_parts_sync(self._session)
                if self._exhausted:
                    _wait_for_late_calls(self._session)
                left = not self._exhausted or _leaves_too(self._session, self._environ)
                finish_replay(self._session, None, self._status, started=True, client_left=left)
        finally:
            self._session.end()

    def __del__(self) -> None:
        # Some servers and test clients drop a body without closing it.
        self.close(dropped=True)


def _wait_for_late_calls(session: Scope) -> None:
    deadline = time.monotonic() + LATE_CALLS
    while session.has_unplayed and time.monotonic() < deadline:
        time.sleep(0.002)


def _leaves_too(session: Scope, environ: WSGIEnvironment) -> bool:
    """Return whether the client leaves in a moment, if the captured client left before this point.

    Servers notice that only when they send something.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if not session.is_past_end or connection is None:
        return False
    deadline = time.monotonic() + LONGEST_LEAVING
    try:
        while time.monotonic() < deadline:
            if select.select([connection], [], [], 0)[0]:
                return not connection.recv(1, socket.MSG_PEEK)
            time.sleep(0.005)
    except OSError:  # reset by the client
        return True
    except ValueError:  # TLS
        return False
    return False


def _path(environ: WSGIEnvironment) -> str:
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _with_headers(headers: Iterable[Header], own_headers: Iterable[Header]) -> list[Header]:
    """Return ``headers`` with ours, without those that a gateway passed on from elsewhere."""
    kept = [header for header in headers if header[0].lower() not in OWN_HEADERS]
    kept += own_headers
    return kept


def _send_response(
    response: Response, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Start a complete response and return its body."""
    status_line = f"{response.status} {HTTPStatus(response.status).phrase}"
    start_response(status_line, list(response.headers))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]


def _is_file(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Return True for a body that the server can send faster if it gets it unwrapped."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)
