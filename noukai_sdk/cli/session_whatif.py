"""``noukai session whatif``: run named calls of a session live, with a change, beside their recordings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from ..client import AsyncNoukai
from ..masking.values import REDACTED
from ..replay.cassette_file import CassetteFile
from ..replay.player import ReplayOptions
from ..replaying.app_request import RequestEdits, build_request, replay_header
from ..replaying.app_runner import running_app
from ..replaying.apps import AppError
from ..replaying.rerun import named_calls
from ..replaying.sending import RequestSender
from ..replaying.whatif_runs import Once, WhatIfRun, fill, in_app, run_all, without_app
from ..transport.background import flush
from ..whatif.changes import SETTINGS, WhatIfOptions
from ..whatif.several_runs import compare
from .app_server import check_server
from .page_links import page_of_service
from .session_source import (
    Env,
    base_url_option,
    env_option,
    is_file,
    load,
    replay_name,
    replayed_session_id,
    source_argument,
    stored_reports,
)
from .session_views import open_console, print_json
from .shared_options import EXIT_CODES, CommandError, count, header_option, json_option
from .whatif_views import run_lines, views_of

_MOST_RUNS = 1_000
_STOPPED = 130


@dataclass(frozen=True)
class _Way:
    """How the calls are made: through an app, through a server, or alone."""

    app: str | None
    against: str | None
    headers: Sequence[tuple[str, str]]
    on_miss: Literal["raise", "live"]


def _value(text: str) -> Any:
    """Return a value of the command line: JSON, a file's text for ``@FILE``, or else the text."""
    if text[:1] == "@":
        return Path(text[1:]).read_text()
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_pairs(_context: Any, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{text!r} is not valid: write NAME=VALUE")
        if name.strip() in pairs:
            raise click.BadParameter(f"{name.strip()!r} is given twice")
        try:
            pairs[name.strip()] = _value(value)
        except OSError as error:
            raise click.BadParameter(f"{text!r}: {error}") from error
    return pairs


def _read_text(_context: Any, _option: Any, text: str | None) -> str | None:
    if text is None or text[:1] != "@":
        return text
    try:
        return Path(text[1:]).read_text()
    except OSError as error:
        raise click.BadParameter(str(error)) from error


@click.command(name="whatif", epilog=EXIT_CODES)
@source_argument
@click.option(
    "--live",
    multiple=True,
    required=True,
    metavar="FLOW",
    help="What runs live: a flow (grade-3), one call of it (grade-3#2) or a step (grade-3/score); "
    "repeatable.",
)
@click.option(
    "--model", metavar="MODEL", help="The model of its steps, such as openai:gpt-4o-mini."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_pairs,
    help=f"A setting of its steps: {', '.join(n for n in SETTINGS if n != 'model')}; repeatable. VALUE is "
    "JSON or text, @FILE reads a file.",
)
@click.option(
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_pairs,
    help="A parameter of the call; repeatable.",
)
@click.option(
    "--message", callback=_read_text, help="The input text of the call; @FILE reads a file."
)
@click.option(
    "--runs",
    type=click.IntRange(1, _MOST_RUNS),
    default=1,
    show_default=True,
    metavar="N",
    help="How often; then it shows how answers, tokens, cost and time vary.",
)
@click.option(
    "--app",
    metavar="MODULE:APP",
    help="Send the captured request through this app, in this process.",
)
@click.option(
    "--against",
    metavar="URL",
    callback=check_server,
    help="Send the captured request to the app at this server, such as http://localhost:8000.",
)
@header_option
@click.option(
    "--on-miss",
    type=click.Choice(["raise", "live"]),
    default="raise",
    show_default=True,
    help="'live' runs later calls of the app live that have no recording.",
)
@click.option(
    "--most",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    metavar="N",
    help="How many runs at once.",
)
@env_option
@base_url_option
@json_option
def whatif_command(
    source: str,
    live: tuple[str, ...],
    model: str | None,
    settings: dict[str, Any],
    parameters: dict[str, Any],
    message: str | None,
    runs: int,
    app: str | None,
    against: str | None,
    headers: list[tuple[str, str]],
    on_miss: Literal["raise", "live"],
    most: int,
    env: Env | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Run named calls of a session live, with a change, and compare them with their recordings.

    Without --app and --against, these calls alone are made, with their recorded inputs. With one of them,
    the captured request goes through the app: it sees the live answer, its other calls are replayed, and
    its response is compared. Live calls cost money. They go into new sessions.

    The exit code is 0 if all runs were done, also if answers differ, 1 if a live call failed or a later
    call had no recording, 2 if no run could be done, and 130 after Ctrl-C.
    """
    if app is not None and against is not None:
        raise click.UsageError("--app and --against exclude each other")
    try:
        options = WhatIfOptions.of(
            live, model=model, settings=settings, parameters=parameters, message=message
        )
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    file = load(source, env, base_url, as_made=True)
    named = named_calls(file, options)
    way = _Way(app, against, headers, on_miss)
    _announce(options, len(named), runs, way)
    if app is None and against is None and any(REDACTED in str(each.request) for *_, each in named):
        click.echo(f"note: a recorded input has masks ({REDACTED}), which the model gets", err=True)
    done = asyncio.run(_run(source, file, options, way, runs, most, env, base_url, quiet=as_json))
    flush()
    ended, was_stopped = done
    compared = compare([(run.number, run.calls) for run in ended])
    exit_code = _exit_code(ended, was_stopped)
    if as_json:
        print_json(
            {
                "sessionId": file.session_id,
                "live": [str(target) for target in options.targets],
                "changes": options.changes.as_dict(),
                "runs": [run.as_dict() for run in ended],
                "calls": [each.as_dict() for each in compared],
                "exitCode": exit_code,
            }
        )
    else:
        page = page_of_service(env, base_url)
        console = open_console(without_terminal=100)
        for view in views_of(compared, ended, page):
            console.print(view, soft_wrap=isinstance(view, str))
    sys.exit(exit_code)


def _announce(options: WhatIfOptions, calls: int, runs: int, way: _Way) -> None:
    what = ", ".join(str(target) for target in options.targets)
    total = calls * runs
    each = f", {count(calls, 'call')} in each of {runs} runs" if runs > 1 else ""
    about = "about " if way.app or way.against else ""
    extra = ", and calls without a recording" if way.on_miss == "live" else ""
    click.echo(
        f"{what} with {options.changes}: {about}{count(total, 'live call')}{each}{extra}", err=True
    )


def _exit_code(runs: Sequence[WhatIfRun], was_stopped: bool) -> int:
    if was_stopped:
        return _STOPPED
    if all(run.problem is not None and not run.calls for run in runs):
        return 2
    return 1 if any(run.is_bad for run in runs) else 0


async def _run(
    source: str,
    file: CassetteFile,
    options: WhatIfOptions,
    way: _Way,
    runs: int,
    most: int,
    env: Env | None,
    base_url: str | None,
    *,
    quiet: bool,
) -> tuple[list[WhatIfRun], bool]:
    """Do the runs; return those that began, and whether Ctrl-C ended them."""

    def on_end(run: WhatIfRun) -> None:
        if runs > 1 and not quiet:
            click.echo(run_lines(run), err=True)

    with _ctrl_c() as stop:
        try:
            async with _way_to_run(source, file, options, way, env, base_url) as once:
                ended = await run_all(once, runs, most=most, on_end=on_end, stop=stop)
        except AppError as error:
            raise CommandError(str(error)) from error
        return ended, stop.is_set()


@asynccontextmanager
async def _way_to_run(
    source: str,
    file: CassetteFile,
    options: WhatIfOptions,
    way: _Way,
    env: Env | None,
    base_url: str | None,
) -> AsyncIterator[Once]:
    is_stored = not is_file(source)
    async with AsyncExitStack() as stack:
        if way.app is not None:
            # The app makes its clients with the environment: they must reach the same service.
            os.environ.update({"NOUKAI_BASE_URL": base_url} if base_url else {})
            os.environ.update({"NOUKAI_ENV": env} if env else {})
            beside = Path(source) if is_file(source) else None
            app = await stack.enter_async_context(
                running_app(way.app, beside=beside, live_calls="allow")
            )
            replay = ReplayOptions(
                lost="refuse", what_if=options, on_miss=way.on_miss, is_stored=is_stored
            )
            yield in_app(app, file, replay)
        elif way.against is not None:
            yield _at_server(source, file, options, way, env, base_url)
        else:
            client = AsyncNoukai(env=env, base_url=base_url)
            await stack.enter_async_context(client)
            yield without_app(client, file, options, is_stored=is_stored)


def _at_server(
    source: str,
    file: CassetteFile,
    options: WhatIfOptions,
    way: _Way,
    env: Env | None,
    base_url: str | None,
) -> Once:
    """Return what sends the captured request to a running app."""
    exchange = file.exchange
    if exchange is None:
        raise CommandError(
            f"{source} was captured without its request: pass capture_requests=True to the adapter, or "
            "leave --against out to make the calls alone"
        )
    on_miss = "live" if way.on_miss == "live" else None
    header = replay_header(replay_name(source), on_miss=on_miss, what_if=options)
    request = build_request(RequestEdits(server=way.against, headers=way.headers), header, exchange)
    session_id = replayed_session_id(source)

    reports = stored_reports(session_id, env, base_url)

    async def once(run: WhatIfRun) -> None:
        sender = RequestSender(request, stored_reports=reports)
        fill(run, await sender.replay(session_id, lambda _: exchange.response, wait=30.0))

    return once


class _ctrl_c:  # noqa: N801  # used like a function: with _ctrl_c() as stop
    """Set an event at Ctrl-C, in place of ending the process: what is there is printed."""

    def __enter__(self) -> asyncio.Event:
        self._remove: Callable[[], object] = lambda: None
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        with suppress(
            NotImplementedError, RuntimeError, ValueError
        ):  # Windows; not the main thread
            loop.add_signal_handler(signal.SIGINT, stop.set)
            self._remove = lambda: loop.remove_signal_handler(signal.SIGINT)
        return stop

    def __exit__(self, *_: object) -> None:
        self._remove()
