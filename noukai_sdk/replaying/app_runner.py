"""Replay captured requests through an app that runs in this process, many at once."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from ..adapters.asgi import wait_for_late_calls
from ..adapters.responses import finish_replay
from ..errors import CapturedRequestError
from ..models.exchanges import Exchange
from ..replay.cassette_file import CassetteFile
from ..replay.player import ReplayConcurrencyWarning, ReplayOptions
from ..replay.redaction import Redactor
from ..replay.response_diff import ReceivedResponse, compare_responses, without_ignored
from ..replay.verdicts import Verdict
from ..session.replay_scope import ReplayScope
from ..session.scope import active
from ..transport.live_calls import live_calls_refused
from .app_interfaces import (
    AppResponse,
    Message,
    resent_request,
    send_to_asgi,
    send_to_wsgi,
    size_of_part,
    started,
)
from .apps import api_key_for_clients, interface_of, load_app
from .outcome import AppException, Outcome, body_text, replay_error

T = TypeVar("T")

LONGEST_REPLAY = 60.0
# Seconds that a cancelled request may take to end. One that takes longer is left behind.
_LONGEST_CANCEL = 2.0
_REASON = "the request is replayed, and this call is not part of it"


@asynccontextmanager
async def running_app(
    app: Any, *, beside: Path | None = None, live_calls: Literal["refuse", "allow"] = "refuse"
) -> AsyncIterator[RunningApp]:
    """Start an app, and stop it at the end.

    Meanwhile no live call leaves this process, except those of clients that were made with
    ``http_client=``. Without ``NOUKAI_API_KEY`` the app sees one that is not valid anywhere.

    Args:
        app: An ASGI or WSGI app, or its name: ``"main:app"`` or ``"main:create_app()"``.
        beside: For a name: a file of the project, as for :func:`~noukai_sdk.replaying.apps.load_app`.
        live_calls: ``"allow"`` lets calls leave, for replays with options that let some calls go live.

    Raises:
        AppError: The app cannot be imported, has neither interface, or does not start.

    Example:
        >>> async with running_app("main:app") as running:          # doctest: +SKIP
        ...     outcome = await running.replay(read_cassette("cassettes/grade.jsonl"))
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(api_key_for_clients())
        if live_calls == "refuse":
            stack.enter_context(live_calls_refused(_REASON))
        # Who compares responses need not hear of how concurrent calls were matched.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        loaded = load_app(app, beside=beside) if isinstance(app, str) else app
        is_asgi = interface_of(loaded) == "asgi"
        state = await stack.enter_async_context(started(loaded)) if is_asgi else None
        yield RunningApp(loaded, state)


class RunningApp:
    """An app that has started. Requests to an ASGI app are tasks of one loop, those to a WSGI app threads.

    Args:
        app: The app.
        state: What an ASGI app has set up in its lifespan; None for a WSGI app.
    """

    def __init__(self, app: Any, state: Message | None) -> None:
        self.app = app
        self._state = state

    async def replay(
        self,
        file: CassetteFile,
        *,
        options: ReplayOptions | None = None,
        ignore: Sequence[str] = (),
        request: httpx.Request | None = None,
        timeout: float = LONGEST_REPLAY,
        hold: Callable[[ReplayScope], AbstractContextManager[object]] = nullcontext,
    ) -> Outcome:
        """Send the captured request through the app, in a scope of its own that replays its calls.

        Safe to call many times at once. A call without a scope is reported to all replays under way.

        Args:
            file: The session, with its captured request.
            options: How its calls are replayed. By default calls that lost the scope are refused.
            ignore: What may differ in the response, such as ``$.id``, with all that is inside.
            request: The request to send instead of the captured one.
            timeout: How many seconds the app may take. One that takes longer is cancelled; a thread
                cannot be, and is left behind.
            hold: Returns a block to be in while the app works, such as one that holds the clock.

        Raises:
            CapturedRequestError: The session has no captured request, or only a part of its body.
        """
        captured = file.exchange
        if captured is None:
            name = f"session {file.session_id}" if file.session_id else "the cassette"
            raise CapturedRequestError(
                f"{name} has no captured request: capture it with capture_requests=True"
            )
        sent = resent_request(captured) if request is None else request
        redactor = Redactor(file.redacted, pii=file.redacted_pii)
        options = options or ReplayOptions(lost="refuse")
        options = replace(options, redactor=options.redactor or redactor)

        def open_scope() -> ReplayScope:
            scope = ReplayScope(file.cassette(), options)
            line = f"{captured.request.method} {captured.request.path}"
            scope.verdict = Verdict(
                file.session_id, scope.report, request_line=line, allow_leftovers=options.allow_live
            )
            return scope

        # In the thread that serves it: a replay takes the event loop that it is made in for its own.
        scope = open_scope() if self._state is not None else await _in_thread(open_scope)
        try:
            with hold(scope):
                result = await self._send(scope, sent, size_of_part(captured), timeout)
                if result is not None and result.failure is None:
                    await wait_for_late_calls(scope)
            if result is None:
                return _timed_out(scope, timeout)
            return _outcome(scope, captured, result, ignore)
        finally:
            scope.end()

    async def _send(
        self, scope: ReplayScope, request: httpx.Request, enough: int | None, timeout: float
    ) -> AppResponse | None:
        """Return the response of the app, None if there is none in time."""
        request.read()
        running: asyncio.Future[AppResponse]
        if self._state is not None:
            with active(scope):  # the task takes it along; this one does not belong to the replay
                running = asyncio.ensure_future(
                    send_to_asgi(self.app, request, enough, self._state)
                )
        else:

            def serve() -> AppResponse:
                with active(scope):
                    return send_to_wsgi(self.app, request, enough)

            running = _in_thread(serve)
        try:
            await asyncio.wait([running], timeout=timeout)
            if not running.done():
                return None
            if running.cancelled():  # by the app itself: a server would close the connection
                failure = RuntimeError("the app cancelled its own request")
                return AppResponse(httpx.Response(500, request=request), failure)
            return running.result()
        finally:
            if not running.done():
                running.cancel()
                await asyncio.wait([running], timeout=_LONGEST_CANCEL)


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run a function in a thread of its own, which does not keep the process alive if it hangs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(settle: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            settle(value)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # raised where it is awaited
            arguments: tuple[Any, Any] = (future.set_exception, error)
        else:
            arguments = (future.set_result, result)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, *arguments)

    threading.Thread(target=run, name="noukai-replay", daemon=True).start()
    return future


def _timed_out(scope: ReplayScope, seconds: float) -> Outcome:
    verdict = scope.verdict
    assert verdict is not None  # replay() has set it
    message = f"the app did not respond within {seconds:g} seconds"
    verdict.error = {"error": "replay_timeout", "message": message}
    scope.end()
    return Outcome(
        status=0,
        body="",
        session_id=scope.session_id,
        summary_line=scope.report.summary(),
        replayed=True,
        replay_id=verdict.replay_id,
        verdict=verdict.stored(),
        timed_out=seconds,
    )


def _outcome(
    scope: ReplayScope, captured: Exchange, result: AppResponse, ignore: Sequence[str]
) -> Outcome:
    """End a replay, and judge it as an adapter and the sender of a request do together."""
    response, status = result.response, result.response.status_code
    error_response = finish_replay(scope, result.failure, status, client_left=result.client_left)
    content, headers = response.content, tuple(response.headers.multi_items())
    if error_response is not None:
        status, content, headers = (
            error_response.status,
            error_response.body,
            error_response.headers,
        )
    error = None if error_response is None else replay_error(content)
    found = compare_responses(captured.response, ReceivedResponse(status, headers, content))
    differences = without_ignored(found, ignore)
    if error is not None:  # it replaces the app's response
        differences = [each for each in differences if each.where == "status"]
    verdict = scope.verdict
    assert verdict is not None  # replay() has set it
    return Outcome(
        status=status,
        body=body_text(content, response.encoding or "utf-8"),
        session_id=scope.session_id,
        summary_line=scope.report.summary(),
        replayed=True,
        replay_id=verdict.replay_id,
        verdict=verdict.stored(),
        error=error,
        differences=differences,
        exception=None if result.failure is None else AppException.of(result.failure),
        headers=headers,
    )
