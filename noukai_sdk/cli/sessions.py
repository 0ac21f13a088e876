"""``noukai sessions``: replay many captured requests through the code as it is now."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from ..batch.causes import SessionResult, Status, skipped
from ..batch.loading import NO_REQUEST
from ..batch.state_file import (
    BatchHeader,
    BatchState,
    StateError,
    StateWriter,
    fingerprint_of_code,
)
from ..batch.workers import BatchError, BatchSettings, replay_sessions
from ..models.exchanges import Header
from .app_server import check_server
from .batch_files import BatchRun, write_html, write_json, write_junit
from .batch_view import MOST_IN_FULL, ProgressView, print_batch
from .page_links import page_of_service
from .session_list import LARGEST_PAGE, Since, read_page
from .session_source import Env, base_url_option, env_option, is_file, open_client, require_id
from .shared_options import EXIT_CODES, CommandError, count, header_option, ignore_option

_STATE = Path(".noukai/sessions-replay.jsonl")
_STATUSES: tuple[Status, ...] = ("changed", "drifted", "missed", "error", "skipped")
_FAILURES = "changed,drifted,missed,error"
# Sessions without a captured request are passed over, but not without end.
_MOST_LISTED = 10_000
_NAMED_SKIPPED = 1_000
_DONE = ("equal", "skipped")


@click.group(epilog=EXIT_CODES)
def sessions() -> None:
    """Work with many recorded sessions at once."""


class FailOn(click.ParamType):  # type: ignore[type-arg]  # generic only in some versions of click
    """Results, separated by commas, or ``none``."""

    name = "results"

    def convert(self, value: Any, param: Any, ctx: Any) -> frozenset[Status]:
        """Return the results."""
        if isinstance(value, frozenset):
            return value
        names = {each.strip() for each in str(value).split(",")} - {"none", ""}
        wrong = names - {*_STATUSES}
        if wrong:
            self.fail(f"{', '.join(sorted(wrong))}: use {', '.join(_STATUSES)}, or none", param)
        return frozenset(each for each in _STATUSES if each in names)


@dataclass
class Selection:
    """The sessions to replay, and the others that were selected."""

    sources: list[str] = field(default_factory=list)
    skipped: list[SessionResult] = field(default_factory=list)


@sessions.command("replay")
@click.argument("sources", metavar="[SESSION]...", nargs=-1)
@click.option("--app", metavar="MODULE:APP", help="The app to run, such as main:app.")
@click.option(
    "--against",
    metavar="URL",
    envvar="NOUKAI_APP_URL",
    show_envvar=True,
    callback=check_server,
    help="A running app to send the requests to, instead of --app.",
)
@click.option("--failed", is_flag=True, help="Only sessions with a failed call or response.")
@click.option("--flow", metavar="SLUG", help="Only sessions that called this flow.")
@click.option("--since", type=Since(), metavar="TIME", help="'7d', '12h', '30m', or a date.")
@click.option("--until", type=Since(), metavar="TIME", help="Likewise: only sessions from before.")
@click.option(
    "--search", "--query", "-q", "text", metavar="TEXT", help="Only sessions with this text."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="How many to replay at most, the newest.",
)
@header_option
@ignore_option
@click.option(
    "--freeze",
    is_flag=True,
    help="With --app: hold clock, uuids and random numbers; the clock at the time of each request.",
)
@click.option(
    "--fail-on",
    type=FailOn(),
    default=_FAILURES,
    show_default=True,
    metavar="RESULTS",
    help="The results for which the exit code is 1; also 'skipped', or 'none'.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request may take.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that run the app.  [default: the number of processors, at most 4]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="How many requests are under way at once.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that was interrupted.")
@click.option("--only-failed", is_flag=True, help="Repeat what was not equal in the last run.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_STATE,
    show_default=True,
    help="The file that keeps what is done.",
)
@click.option(
    "--json",
    "json_to",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write JSON; - prints it.",
)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write one HTML page."
)
@env_option
@base_url_option
def replay(
    sources: tuple[str, ...],
    app: str | None,
    against: str | None,
    failed: bool,
    flow: str | None,
    since: str | None,
    until: str | None,
    text: str | None,
    limit: int,
    headers: list[Header],
    ignore: tuple[str, ...],
    freeze: bool,
    fail_on: frozenset[Status],
    timeout: float,
    workers: int | None,
    concurrency: int,
    resume: bool,
    only_failed: bool,
    state: Path,
    json_to: Path | None,
    junit: Path | None,
    html: Path | None,
    env: Env | None,
    base_url: str | None,
) -> None:
    """Replay captured requests through the code as it is now, and group what differs by its cause.

    SESSION is the id of a session, the path of a cassette file, or - to read ids from standard input.
    Without one, the sessions of the service are replayed, the newest first. Sessions that were captured
    without their request are skipped.

    The exit code is 0 if all are equal, 1 if something differs (see --fail-on), and 2 if nothing could
    be replayed, or the run was interrupted.
    """
    filters = {"failed": failed, "flow": flow, "since": since, "until": until, "search": text}
    named = next((f"--{name}" for name, value in filters.items() if value), None)
    repeats = "--resume" if resume else "--only-failed" if only_failed else None
    if sources and named:
        raise click.UsageError(f"{named} selects sessions, and so does {sources[0]!r}: use one")
    if repeats and (sources or named or (resume and only_failed)):
        raise click.UsageError(f"{repeats} repeats the sessions of the last run: name no others")
    if app is not None:
        against = None

    header = _header_of(state if repeats else None, app, against, ignore, freeze)
    known: dict[str, SessionResult] = {}
    if repeats:
        selection, known = _of_last_run(state, header, only_failed=only_failed)
    elif sources:
        selection = Selection(_named(sources))
    else:
        query = {"flow": flow, "status": "failed" if failed else None, "since": since, "q": text}
        selection = _listed(env, base_url, limit, until, query)
    if not selection.sources:
        problem = "no session was found"
        if selection.skipped:
            problem = f"none of {len(selection.skipped)} sessions has a captured request"
        raise CommandError(problem)
    header = replace(header, sources=tuple(selection.sources))
    settings = BatchSettings(
        header.app,
        header.server,
        tuple(headers),
        header.ignore,
        timeout,
        workers or min(os.cpu_count() or 1, 4),
        concurrency,
        header.freeze,
        env,
        base_url,
    )
    # Who looks at a few sessions of the last run wants to go on with that run.
    keep = None if sources and len(header.sources) <= MOST_IN_FULL else state
    run = _run(settings, header, known, selection.skipped, keep)
    for write, target in ((write_json, json_to), (write_junit, junit), (write_html, html)):
        if target is not None:
            write(run, target)
    if json_to != Path("-"):
        print_batch(run, header, page_of_service(env, base_url))
    if run.problem is not None:
        raise CommandError(run.problem)
    if all(each.status == "skipped" for each in run.results):
        raise CommandError("no session could be replayed")
    sys.exit(1 if any(each.problems & fail_on for each in run.results) else 0)


def _header_of(
    state: Path | None,
    app: str | None,
    server: str | None,
    ignore: tuple[str, ...],
    freeze: bool,
) -> BatchHeader:
    """Return what is given; what is not is as in the last run, if ``state`` names its file."""
    earlier = BatchHeader((), None, None, ()) if state is None else _read_state(state).header
    if app is None and server is None:
        app, server = earlier.app, earlier.server
    if app is None and server is None:
        raise click.UsageError("name the app: --app main:app, or --against http://localhost:8000")
    if freeze and app is None:
        raise click.UsageError("--freeze needs --app: the clock of a server cannot be held")
    code = None if app is None else fingerprint_of_code(Path.cwd())
    return replace(
        earlier,
        app=app,
        server=server,
        ignore=ignore or earlier.ignore,
        freeze=freeze or (earlier.freeze and app is not None),
        code=code,
    )


def _read_state(state: Path) -> BatchState:
    try:
        return BatchState.read(state)
    except StateError as error:
        raise CommandError(str(error)) from error


def _of_last_run(
    state: Path, header: BatchHeader, *, only_failed: bool
) -> tuple[Selection, dict[str, SessionResult]]:
    """Return the sessions of the last run, and the results that still hold."""
    earlier = _read_state(state)
    if only_failed:
        done = {name for name, each in earlier.results.items() if each.status in _DONE}
        left = [name for name in earlier.header.sources if name not in done]
        if not left:
            raise CommandError("all sessions of the last run were equal")
        return Selection(left), {}
    known = earlier.results
    if known and not header.is_same_run(earlier.header):
        click.echo("the app has changed since: all sessions are replayed again", err=True)
        known = {}
    return Selection([*header.sources]), known


def _named(sources: Sequence[str]) -> list[str]:
    """Return the sessions that are named, each once."""
    names: list[str] = []
    for source in sources:
        names += sys.stdin.read().split() if source == "-" else [source]
    return list(
        dict.fromkeys(source if is_file(source) else require_id(source) for source in names)
    )


def _listed(
    env: Env | None, base_url: str | None, limit: int, until: str | None, query: dict[str, Any]
) -> Selection:
    """Return the newest sessions of the service whose requests were captured."""
    selection = Selection()
    cursor: str | None = None
    listed = 0
    with open_client(env, base_url) as client:
        while listed < _MOST_LISTED:
            page = read_page(client._transport, LARGEST_PAGE, cursor, query)
            for each in page.sessions:
                listed += 1
                if until is not None and _time(each.started_at) >= _time(until):
                    continue
                if each.request is not None and each.status != "running":
                    selection.sources.append(each.session_id)
                    if len(selection.sources) == limit:
                        return selection
                elif len(selection.skipped) < _NAMED_SKIPPED:
                    reason = "still running" if each.status == "running" else NO_REQUEST
                    selection.skipped.append(skipped(each.session_id, reason, each.session_id))
            if page.next_cursor in (None, cursor) or not page.sessions:
                break
            cursor = page.next_cursor
    return selection


def _time(text: str | None) -> datetime:
    time = datetime.fromisoformat((text or "9999-01-01").replace("Z", "+00:00"))
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)


def _run(
    settings: BatchSettings,
    header: BatchHeader,
    known: dict[str, SessionResult],
    skipped_before: Sequence[SessionResult],
    state: Path | None,
) -> BatchRun:
    """Replay the sessions, and keep what is done in the state, if there is one."""
    results = {source: known[source] for source in header.sources if source in known}
    left = [source for source in header.sources if source not in results]
    problem = None
    started = time.monotonic()

    async def run(view: ProgressView, writer: StateWriter | None) -> None:
        async with aclosing(replay_sessions(left, settings)) as finished:
            async for result in finished:
                results[result.source] = result
                if writer is not None and result.is_fetched:
                    writer.add(result)
                view.add(result)

    try:
        with (
            nullcontext()
            if state is None
            else StateWriter(state, header, [*results.values()]) as writer,
            ProgressView(len(header.sources), [*results.values()]) as view,
        ):
            asyncio.run(run(view, writer))
    except KeyboardInterrupt:
        done = f"{len(results)} of {len(header.sources)}"
        problem = f"interrupted after {done} sessions: --resume goes on"
    except BatchError as error:
        if not results:
            raise CommandError(str(error)) from error
        problem = str(error)
    missing = sum(not each.is_fetched for each in results.values())
    if missing and problem is None:
        problem = f"{count(missing, 'session')} could not be fetched: --resume tries again"
    listed = [results[source] for source in header.sources if source in results]
    seconds = time.monotonic() - started
    target = header.app or header.server or ""
    return BatchRun((*listed, *skipped_before), target, seconds, problem)
