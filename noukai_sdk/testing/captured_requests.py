"""Send a captured request through an app again, and compare the responses."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from ..errors import CapturedRequestError, ReplayError
from ..models.exchanges import Exchange
from ..models.reports import ReplayReport
from ..replay.cassette_file import CassetteFile, read_cassette
from ..replay.player import ReplayConcurrencyWarning, ReplayOptions
from ..replay.redaction import Redactor
from ..replay.response_diff import (
    ReceivedResponse,
    ResponseDifference,
    compare_responses,
    without_ignored,
)
from ..replaying.app_interfaces import (
    AppResponse,
    resent_request,
    send_to_asgi,
    send_to_wsgi,
    size_of_part,
    started,
)
from ..replaying.apps import api_key_for_clients, interface_of, load_app
from ..session.replay_scope import ReplayScope
from ..session.scope import active, current_scope
from ..transport.live_calls import live_calls_refused
from .freezing import frozen_replay
from .shuffling import run_in_loop


@dataclass(frozen=True)
class ReplayedRequest:
    """A captured request, and what the app responded to it now.

    Attributes:
        captured: The captured request and response.
        response: The response that the app sends now.
        differences: Between the two responses: status, media type, ``Location`` and body.
        report: What the replay of the flow calls found: hits, drift and so on.
        failure: The exception that the app raised, None if it raised none.
    """

    captured: Exchange
    response: httpx.Response
    differences: tuple[ResponseDifference, ...]
    report: ReplayReport
    failure: Exception | None = None

    def assert_unchanged(self) -> None:
        """Fail if the response differs from the captured one.

        Raises:
            AssertionError: It differs; the cause is the exception that the app raised, if it did.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        if self.differences:
            request = self.captured.request
            lines = (f"  {line}" for each in self.differences for line in str(each).splitlines())
            raise AssertionError(
                "\n".join([f"{request.method} {request.path}: the response has changed", *lines])
            ) from self.failure


def send_captured_request(
    app: Any,
    cassette: str | os.PathLike[str] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    body: str | bytes | None = None,
    ignore: Sequence[str] = (),
    freeze: bool = False,
) -> ReplayedRequest:
    """Send the request that a cassette was captured with through an app, in this process.

    The app's flow calls are served from the cassette: no model is called, and no service is needed.
    Without ``NOUKAI_API_KEY`` the app gets a dummy key, so it can create its clients.

    Args:
        app: An ASGI or WSGI app, or its name: ``"main:app"`` or ``"main:create_app()"``.
        cassette: The file. Not needed in a test with the marker ``noukai_cassette``, which has one.
        headers: Headers to add or to replace, such as those that were removed at capture.
        body: The body to send instead of the captured one.
        ignore: What may differ, such as ``$.id`` or ``$.items[*].created_at``, including everything
            inside it.
        freeze: Hold clock, uuids and random numbers of this process while the app responds: the clock at
            the time of the captured request. Needs time-machine.

    Returns:
        The response, and how it differs from the captured one. Nothing differs while the cassette is
        recorded again.

    Raises:
        CapturedRequestError: The cassette has no captured request, or only a part of its body.
        ReplayError: The app made a call that is not in the cassette; or, without the marker, it did
            not make one that is.
        AppError: The app cannot be imported, or does not start.
        FreezeError: time-machine is not installed, or another replay holds the clock of this process.

    Example:
        >>> @pytest.mark.noukai_cassette                                    # doctest: +SKIP
        ... def test_grade():
        ...     send_captured_request("main:app").assert_unchanged()
    """
    held = timedelta() if freeze else None
    return replay_request(app, cassette, headers=headers, body=body, ignore=ignore, held=held)


def replay_request(
    app: Any,
    cassette: str | os.PathLike[str] | None,
    *,
    headers: Mapping[str, str] | None,
    body: str | bytes | None,
    ignore: Sequence[str],
    held: timedelta | None,
) -> ReplayedRequest:
    """Do the work of :func:`send_captured_request`: hold the clock so much later than it was captured.

    With ``held=None`` nothing is held.
    """
    scope = current_scope()
    path = cassette if cassette is not None else getattr(scope, "cassette_path", None)
    if path is None:
        raise TypeError(
            "which cassette? Mark the test with @pytest.mark.noukai_cassette, or pass cassette="
        )
    file = read_cassette(path)
    captured = file.exchange
    if captured is None:
        raise CapturedRequestError(
            f"{os.fspath(path)} has no captured request: capture it with capture_requests=True"
        )
    request = resent_request(captured, headers, body)
    enough = size_of_part(captured)
    with api_key_for_clients():
        loaded = load_app(app, beside=Path(path)) if isinstance(app, str) else app
        with nullcontext(scope) if scope is not None else replay_of(file) as scope:
            with warnings.catch_warnings():
                # A test that compares the response need not warn of how concurrent calls were matched.
                warnings.simplefilter("ignore", ReplayConcurrencyWarning)
                hold = nullcontext() if held is None else frozen_replay(scope, file, later=held)
                result = _send(loaded, request, enough, hold)
            # An app that catches a miss may respond with anything.
            if isinstance(result.failure, ReplayError):
                raise result.failure
            if scope.report.misses:
                scope.verify()
    response = result.response
    received = ReceivedResponse(
        response.status_code, tuple(response.headers.multi_items()), response.content
    )
    differences = compare_responses(captured.response, received)
    kept = without_ignored(differences, ignore) if scope.mode == "replay" else ()
    return ReplayedRequest(captured, response, tuple(kept), scope.report, result.failure)


@contextmanager
def replay_of(file: CassetteFile) -> Iterator[ReplayScope]:
    """Replay a cassette in a scope of its own, for tests without the marker."""
    redactor = Redactor(file.redacted, pii=file.redacted_pii)
    scope = ReplayScope(file.cassette(), ReplayOptions(lost="refuse", redactor=redactor))
    try:
        with (
            active(scope),
            live_calls_refused("the request is replayed, and this call is not part of it"),
        ):
            yield scope
        scope.verify()
    finally:
        scope.end()


def _send(
    app: Any, request: httpx.Request, enough: int | None, hold: AbstractContextManager[None]
) -> AppResponse:
    """Send a request through an app of either interface, in this thread if it can be.

    An ASGI app is started before, and stopped afterwards. ``hold`` is entered for the request alone.
    """
    if interface_of(app) == "wsgi":
        with hold:
            return send_to_wsgi(app, request, enough)

    async def send() -> AppResponse:
        async with started(app) as state:
            with hold:
                return await send_to_asgi(app, request, enough, state)

    return run_in_loop(send())
