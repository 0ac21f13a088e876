"""``noukai session replay --app``: replay a captured request in this process, without a server."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

import click
import httpx

from ..adapters.responses import HEADER_REPLAY
from ..models.exchanges import CapturedBody, Exchange
from ..replay.cassette_file import CassetteFile
from ..replay.pacing import PACES
from ..replay.player import ReplayOptions
from ..replaying.app_request import AppRequest, RequestEdits, build_request
from ..replaying.app_runner import running_app
from ..replaying.apps import AppError
from ..replaying.outcome import Outcome
from ..testing.freezing import FreezeError, frozen_replay
from .session_source import name_of
from .shared_options import CommandError

# Seconds that the app may take, unless somebody at a terminal may be at a breakpoint.
_LONGEST = 300.0


def replay_in_app(
    app_name: str,
    file: CassetteFile,
    edits: RequestEdits,
    options: Mapping[str, Any],
    *,
    expect: bytes | None,
    ignore: Sequence[str],
    freeze: bool,
) -> tuple[Outcome, AppRequest]:
    """Replay a session in an app.

    What the app prints goes where :func:`app_output` says: debuggers need a terminal.

    Args:
        app_name: The app, as ``module:attribute``.
        file: The session.
        edits: What the user says about the request.
        options: Those of the command line.
        expect: The body to expect, in place of the captured response.
        ignore: What may differ in the response.
        freeze: Hold clock, uuids and random numbers.

    Raises:
        CommandError: There is no captured request, the app cannot be imported or does not start, or the
            clock cannot be held.
    """
    exchange = file.exchange
    if exchange is None:
        raise CommandError(
            f"{name_of(file, 'the file')} was captured without its request: pass capture_requests=True to "
            "the adapter, and capture the request again"
        )
    request = build_request(edits, (HEADER_REPLAY, ""), exchange)
    if expect is not None:
        file = replace(file, exchange=_expecting(exchange, expect))
    replay_options = ReplayOptions(
        lost=options["lost"] or "refuse",
        strict_inputs=options["strict"],
        pace=PACES[options["pacing"] or "instant"],
        on_miss=options["on_miss"] or "raise",
        live_from=options["live_from"],
    )
    goes_live = replay_options.allow_live or replay_options.lost == "live"
    if freeze and goes_live:
        raise click.UsageError(
            "--freeze excludes calls that go live (--live-from, --on-miss live, --lost live): a service "
            "would see the time of the capture"
        )
    sent = httpx.Request(
        request.method,
        request.url,
        headers=[
            (name.encode(), value.encode())
            for name, value in request.headers
            if name != HEADER_REPLAY
        ],
        content=request.body(),
    )

    async def run() -> Outcome:
        async with running_app(app_name, live_calls="allow" if goes_live else "refuse") as running:
            return await running.replay(
                file,
                options=replay_options,
                ignore=ignore,
                request=sent,
                timeout=float("inf") if sys.stdin.isatty() else _LONGEST,
                hold=partial(frozen_replay, file=file) if freeze else nullcontext,
            )

    with app_output():
        try:
            return asyncio.run(run()), request
        except (AppError, FreezeError) as error:
            raise CommandError(str(error)) from error


@contextmanager
def app_output() -> Iterator[None]:
    """Send what an app prints to stderr, unless stdout is a terminal.

    The commands print what a replay found. Its log is for apps that have set up logging.
    """
    logger, handler = logging.getLogger("noukai_sdk"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        with nullcontext() if sys.stdout.isatty() else redirect_stdout(sys.stderr):
            yield
    finally:
        logger.removeHandler(handler)


def _expecting(exchange: Exchange, body: bytes) -> Exchange:
    expected = CapturedBody(text=body.decode("utf-8", "replace"), size=len(body))
    response = exchange.response.model_copy(update={"body": expected})
    return exchange.model_copy(update={"response": response})
