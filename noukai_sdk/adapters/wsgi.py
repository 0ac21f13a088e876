"""Trace and replay any WSGI application. Imports no framework."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import NoukaiError
from ..session.carry_threads import carry_threads_by_default
from ..session.opening import open_replay_sync
from ..session.options import requested_replay
from ..session.scope import capture_scope, context_with, joinable_scope
from .captured import capture_options
from .responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
    LATE_CALLS,
    Response,
    finish_replay,
    refuse_replay,
    require_client,
    session_headers,
)
from .wsgi_capture import WsgiCapture

if TYPE_CHECKING:
    from contextvars import Context

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ..client import AsyncNoukai, Noukai
    from ..session.scope import Scope
    from .captured import CaptureOption

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTraceMiddleware",
]

Header = tuple[str, str]

_SCOPE_KEY = "noukai.scope"
_REPLAY = "HTTP_" + HEADER_REPLAY.upper().replace("-", "_")
_OWN_HEADERS = frozenset({HEADER_RESPONSE_SESSION.lower(), HEADER_REPLAY_REPORT.lower()})


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

        header = environ.get(_REPLAY)
        if header is not None:
            replayed = self._replay(header, environ, start_response)
            if replayed is not None:
                return replayed

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
        self, header: str, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes] | None:
        """Serve a request that asks for a replay; return None if replay is disabled."""
        session_id = None
        try:
            requested = requested_replay(header)
            if requested is None:
                return None
            session_id = requested.session_id
            session = open_replay_sync(requested, self.client)
        except NoukaiError as error:
            return _send_response(refuse_replay(error, session_id), environ, start_response)

        environ[_SCOPE_KEY] = session
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
                    return StreamedBody(session, held.parts, body)
            body.close()
        except Exception as failure:  # noqa: BLE001  # finish() raises it again or responds with it
            if body is not None:
                body.close()
            return held.finish((), failure)
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
    content. From then on the response is a stream, and each part is passed on at once.

    Attributes:
        parts: The held parts of the body, in order.
    """

    def __init__(
        self, session: Scope, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.parts: list[bytes] = []
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
        if part and any(self.parts):
            self._release()
        self.parts.append(part)
        return not self._released

    def _release(self) -> None:
        """Start the response, unless it is started or the application has not called for it."""
        if self._start is None or self._released:
            return
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
        status = int(self._start[0].split()[0]) if self._start else None
        if failure is None:
            _wait_for_late_calls(self._session)
        response = finish_replay(self._session, failure, status)
        if response is not None and not self._released:
            getattr(body, "close", lambda: None)()
            return _send_response(response, self._environ, self._start_response)
        if failure is not None:
            raise failure
        self._release()
        return body


class StreamedBody:
    """Pass on the rest of a streamed body, and end the replay when the server closes it."""

    def __init__(self, session: Scope, held: list[bytes], rest: ScopedBody) -> None:
        self._session = session
        self._held = held
        self._rest = rest
        self._exhausted = False

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
            finish_replay(self._session, failure, None)
            raise

    def close(self) -> None:
        """Close the application's body, and log the replay's result if the client read all of it."""
        try:
            self._rest.close()
            if self._exhausted:
                self._exhausted = False
                _wait_for_late_calls(self._session)
                finish_replay(self._session, None, None)
        finally:
            self._session.end()


def _wait_for_late_calls(session: Scope) -> None:
    deadline = time.monotonic() + LATE_CALLS
    while session.has_unplayed and time.monotonic() < deadline:
        time.sleep(0.002)


def _with_headers(headers: Iterable[Header], own_headers: Iterable[Header]) -> list[Header]:
    """Return ``headers`` with ours, without those that a gateway passed on from elsewhere."""
    kept = [header for header in headers if header[0].lower() not in _OWN_HEADERS]
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
