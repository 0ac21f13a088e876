"""Trace and replay any ASGI application. Imports no framework."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from ..errors import NoukaiError
from ..session.carry_threads import carry_threads_by_default
from ..session.lost_scope import requests
from ..session.opening import load_other_parts, open_replay
from ..session.options import replay_enabled, requested_replay
from ..session.scope import active, capture_scope, joinable_scope
from .asgi_capture import AsgiCapture
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

if TYPE_CHECKING:
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

# The types of the ASGI specification: a message holds values of any type.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

_SCOPE_KEY = "noukai.scope"
_CAPTURED_KEY = "noukai.captured"
_REPLAY = HEADER_REPLAY.lower().encode()
_REPORT = HEADER_REPLAY_REPORT.lower().encode()
_EVENT_STREAM = EVENT_STREAM.encode()
_ASKED = (_REPLAY, _REPORT)
_OWN_HEADERS = frozenset(name.encode() for name in OWN_HEADERS)
_STREAM_STARTS = frozenset({"http.response.start", "http.response.body"})
_START_TYPES = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_ABNORMAL_CLOSURE = 1006
# Seconds in which the error layer of a framework responds to an exception, unless other middleware does.
LONGEST_RESPONSE = 1.0


class NoukaiTraceMiddleware:
    """Run every request and every websocket connection in its own scope.

    The response carries ``X-Noukai-Session``. A request with ``X-Noukai-Replay: <session id>`` is
    served from that session if ``NOUKAI_REPLAY_ENABLED`` allows it. A request that arrives inside a
    scope (in a test, for example) without that header joins the scope.

    Args:
        app: The ASGI application to wrap.
        client: The client that fetches recorded sessions, sync or async.
        carry_threads: Carry the scope into threads and thread pools; see
            :func:`noukai_sdk.carry_threads`.
        capture_requests: Store each captured request and its response with its session, without
            secrets. A list names more headers to keep; for more options pass a
            :class:`~noukai_sdk.adapters.CaptureRequests`.

    Raises:
        TypeError: ``client`` is not a client.

    Example:
        >>> app = NoukaiTraceMiddleware(app, client=noukai)  # doctest: +SKIP
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        client: Noukai | AsyncNoukai,
        carry_threads: bool = True,
        capture_requests: CaptureOption = False,
    ) -> None:
        self.app = app
        self.client = require_client(client)
        self._capture = capture_options(capture_requests)
        self._is_prepared = False
        self._responds_to_errors = False  # an error layer outside does, and adds our headers
        if carry_threads:
            carry_threads_by_default()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            requests.served = True
            await self.app(scope, receive, send)
            return

        current = joinable_scope()
        # Another NoukaiTraceMiddleware is outside of this one. The key alone does not prove it: a
        # caller may use the same dict for several requests.
        if current is not None and _SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return

        if not self._is_prepared:
            self._prepare(scope)
        for name, value in scope["headers"]:
            if name in _ASKED and await self._serve(name, bytes(value), scope, receive, send):
                return

        session = scope[_SCOPE_KEY] = current or capture_scope(self.client._transport.service)
        headers = session_headers(session)

        # Not async: returning the server's own awaitable saves a coroutine for each message.
        def send_with_session(message: Message) -> Awaitable[None]:
            if message["type"] in _START_TYPES:
                message = _with_headers(message, headers)
            return send(message)

        captured = None
        app_send: Send = send_with_session
        if self._capture is not None:
            connection = (scope, receive, send_with_session)
            captured = AsgiCapture.begin(self._capture, session, current is not None, *connection)
            if captured is not None:
                receive, app_send = captured.receive, captured.send
        try:
            with active(session):
                await self.app(scope, receive, app_send)
        except Exception:
            if captured is not None and self._ends_later(captured, scope, session):
                captured = None
            raise
        finally:
            if captured is not None:
                captured.finish(session)
            if current is None:
                session.end()

    def _prepare(self, scope: Message) -> None:
        """Let an error layer outside of this middleware add our headers, before the first request."""
        self._is_prepared = True

    def _ends_later(self, captured: AsgiCapture, scope: Message, session: Scope) -> bool:
        """Leave the end of what is captured to the error layer that responds now; False without one."""
        if captured.status is not None or not self._responds_to_errors:
            return False
        scope[_CAPTURED_KEY] = captured  # with_session() finishes it
        return _call_later(LONGEST_RESPONSE, captured.finish, session)

    async def _serve(
        self, name: bytes, value: bytes, scope: Message, receive: Receive, send: Send
    ) -> bool:
        """Serve a request for a replay or for a report; return False if replay is disabled."""
        serve = self._replay if name == _REPLAY else self._report
        return await serve(value.decode("latin-1"), scope, receive, send)

    async def _report(self, replay_id: str, scope: Message, _: Receive, send: Send) -> bool:
        """Respond with the report of an earlier replay; return False if that is not asked for."""
        asks_for_replay = any(name == _REPLAY for name, _ in scope["headers"])
        if scope["type"] != "http" or asks_for_replay or not replay_enabled():
            return False
        await _send_response(report_response(replay_id), scope, send)
        return True

    async def _replay(self, header: str, scope: Message, receive: Receive, send: Send) -> bool:
        """Serve a request that asks for a replay; return False if replay is disabled."""
        requested = None
        request_line = f"{scope.get('method', 'GET')} {scope['path']}"
        try:
            requested = requested_replay(header)
            if requested is None:
                return False
            session = await open_replay(requested, self.client, request_line)
        except NoukaiError as error:
            if scope["type"] == "websocket":
                await receive()  # a handshake must be received before it may be answered
            await _send_response(refuse_replay(error, requested, request_line), scope, send)
            return True

        import anyio

        scope[_SCOPE_KEY] = session
        captured = None
        if self._capture is not None and session.is_fork:  # a session of its own
            captured = AsgiCapture.begin(self._capture, session, False, scope, receive, send)
            if captured is not None:
                receive, send = captured.receive, captured.send
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                held = HeldResponse(session, scope, receive, send, tasks)
                try:
                    with active(session):
                        await self.app(scope, held.receive, held.send)
                except anyio.get_cancelled_exc_class():
                    raise
                # Not raised in here: the task group would raise a group of exceptions.
                except BaseException as error:  # noqa: BLE001
                    failure = error
                held.stop_timer()
            if failure is not None and not isinstance(failure, Exception):
                raise failure
            await load_other_parts(session)
            if failure is None:
                await wait_for_late_calls(session)
            await held.finish(failure)
        finally:
            if captured is not None:
                captured.finish(session)
            session.end()
        return True


class HeldResponse:
    """Hold the response of a replayed request back until the result of the replay is known.

    Messages wait until the application returns, until it sends a second body part with content, or
    until it has sent nothing after the first for a moment: somebody may be waiting for that part. The
    events of ``text/event-stream`` do not wait. Nobody waits for a part of a response whose length is
    known; some middleware ends it only after the background tasks.

    Once a message goes out, the response is a stream, and each message is sent at once. A websocket's
    messages are never held once the handshake is accepted, because the client must be able to reply.

    Args:
        session: The scope of the replay.
        scope: That of the connection, as are the next two.
        receive: Returns the next message of the client.
        send: Sends a message to the client.
        tasks: Where the timer runs; a task group of anyio.
    """

    def __init__(
        self, session: Scope, scope: Message, receive: Receive, send: Send, tasks: Any
    ) -> None:
        import anyio

        self._session = session
        self._tasks = tasks
        self._timer_runs = False
        self._decided = anyio.Event()  # the timer has nothing to do any more
        self._releasing: anyio.Event | None = None
        self._failure: Exception | None = None
        self._is_events = False
        self._has_length = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._held: list[Message] = []
        self._status: int | None = None
        self._has_content = False
        self._released = False
        self._complete = False
        self._client_left = False

    async def receive(self) -> Message:
        """Receive a message for the application, and note whether the client has left."""
        if self._complete and not self._released and self._scope["type"] == "http":
            # Servers send this message at the end of a response. They have not got the response
            # yet, so waiting for theirs would take forever.
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect" and not (self._released and self._complete):
            self._client_left = True
        elif message["type"] == "websocket.disconnect":
            self._client_left = message.get("code") == _ABNORMAL_CLOSURE
        return message

    async def send(self, message: Message) -> None:
        """Hold a message of the application, or send it if the response is a stream."""
        if self._releasing is not None:
            await self._releasing.wait()
        if self._failure is not None:
            raise self._failure
        kind = message["type"]
        if kind.endswith("http.response.start"):
            self._status = message["status"]
            headers = {name.lower(): bytes(value) for name, value in message.get("headers", ())}
            self._is_events = headers.get(b"content-type", b"").lower().startswith(_EVENT_STREAM)
            self._has_length = b"content-length" in headers
        elif kind.endswith("http.response.body"):
            self._complete = not message.get("more_body", False)
        # Extensions send a file by its path or its handle instead of a body.
        has_content = bool(message.get("body") or "path" in message or "file" in message)
        self._held.append(message)
        if (
            self._released
            or "http.response." not in kind
            or (has_content and (self._has_content or self._is_events))
        ):
            await self._release()
        elif kind in _STREAM_STARTS and (has_content or self._is_events):
            self._start_timer()
        self._has_content = self._has_content or has_content

    def _start_timer(self) -> None:
        is_whole = self._complete or self._has_length
        if not (is_whole or self._timer_runs or self._decided.is_set()):
            self._timer_runs = True
            self._tasks.start_soon(self._release_later)

    async def _release_later(self) -> None:
        import anyio
        from anyio.lowlevel import checkpoint

        with anyio.move_on_after(LONGEST_HOLD):
            await self._decided.wait()
        # On a machine that stood still, the application may be about to continue.
        for _ in range(3):
            await checkpoint()
        if self._decided.is_set():
            return
        self._releasing = anyio.Event()
        try:
            await self._release()
        except Exception as error:  # noqa: BLE001  # the application's next message raises it
            self._failure = error
        finally:
            self._releasing.set()
            self._releasing = None

    def stop_timer(self) -> None:
        """Hold what is held until the end: the application has returned."""
        self._decided.set()

    async def _release(self) -> None:
        self._released = True
        self._decided.set()
        held, self._held = self._held, []
        for message in held:
            if message["type"] in _START_TYPES:
                message = _with_headers(message, session_headers(self._session))  # noqa: PLW2901
            await self._send(message)

    async def finish(self, failure: BaseException | None) -> None:
        """End the replay and send the held response, or the replay's error response.

        Args:
            failure: The exception that the application raised. Raised again, unless it comes from
                the replay and the error response could be sent.
        """
        assert failure is None or isinstance(failure, Exception)  # others are not reported
        left_now = not self._client_left and await self._leaves_too()
        self._client_left = self._client_left or left_now
        response = finish_replay(
            self._session,
            failure,
            self._status,
            started=self._released,
            client_left=self._client_left,
        )
        if not self._client_left:
            if response is not None and not self._released:
                await _send_response(response, self._scope, self._send)
                return
            # Also before an exception of the application: a response that had started when it was
            # captured is cut off again.
            if not self._released:
                await self._release()
        if failure is not None and not (left_now and response is None):
            raise failure

    async def _leaves_too(self) -> bool:
        """Return whether the client leaves in a moment, if the captured client left before this point."""
        import anyio

        if self._session.is_past_end and self._released and not self._complete:
            with anyio.move_on_after(LONGEST_LEAVING):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                return True
        return False


def _call_later(seconds: float, function: Callable[..., object], *args: Any) -> bool:
    """Call ``function`` later; return False on trio, where only tasks can wait."""
    try:
        asyncio.get_running_loop().call_later(seconds, function, *args)
    except RuntimeError:
        return False
    return True


async def wait_for_late_calls(session: Scope) -> None:
    """Wait a moment for the calls of a replay that threads or tasks make after the response."""
    if session.has_unplayed:
        import anyio

        deadline = time.monotonic() + LATE_CALLS
        while session.has_unplayed and time.monotonic() < deadline:  # noqa: ASYNC110  # threads play too
            await anyio.sleep(0.002)


def with_session(response: ASGIApp, scope: Message) -> ASGIApp:
    """Return ``response`` with the headers of the session that the connection ``scope`` belongs to."""
    session = scope.get(_SCOPE_KEY)
    if session is None:
        return response

    async def respond(scope: Message, receive: Receive, send: Send) -> None:
        def send_with_session(message: Message) -> Awaitable[None]:
            if message["type"] in _START_TYPES:
                message = _with_headers(message, session_headers(session))
            return send(message)

        captured = scope.pop(_CAPTURED_KEY, None)
        if captured is None:
            await response(scope, receive, send_with_session)
            return
        try:
            await response(scope, receive, captured.sending(send_with_session))
        finally:
            captured.finish(session)

    return respond


def _with_headers(start: Message, headers: Iterable[tuple[str, str]]) -> Message:
    """Return ``start`` with our headers, without those that a gateway passed on from elsewhere.

    The result is a new message, because an application may send the same object every time.
    """
    raw = [header for header in start.get("headers", ()) if header[0].lower() not in _OWN_HEADERS]
    for name, value in headers:
        raw.append((name.lower().encode(), value.encode()))
    return {**start, "headers": raw}


async def _send_response(response: Response, scope: Message, send: Send) -> None:
    """Send a complete response, also to a websocket handshake."""
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket."
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers]
    start = {"type": f"{prefix}http.response.start", "status": response.status, "headers": headers}
    await send(start)
    await send({"type": f"{prefix}http.response.body", "body": response.body})
