"""``noukai session``: show, save, compare and replay recorded sessions."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from rich.markup import escape

from ..contexts.chosen import ChosenCall
from ..errors import APIConnectionError
from ..models.exchanges import CapturedBody, CapturedResponse, Exchange
from ..replay.boundary_recordings import boundary_recordings
from ..replay.cassette_file import redacted_file, write_redacted
from ..replay.diff import differences
from ..replay.redaction import Redactor
from ..replay.response_diff import ReceivedResponse
from ..replaying.app_request import (
    AppRequest,
    RequestEdits,
    build_request,
    refuse_websocket,
    replay_header,
)
from ..replaying.controls import clean_lines
from ..replaying.curl import curl_line
from ..replaying.outcome import Outcome
from ..replaying.sending import RequestSender
from .app_server import check_server, server_of
from .boundary_views import MOST_LINES, boundary_details, lines_in_time
from .page_links import linked, linked_to_replay, page_of_service
from .session_app import replay_in_app
from .session_context import context_option, print_context
from .session_doctor import doctor_command
from .session_list import list_command
from .session_open import html_command, open_command
from .session_source import (
    Env,
    base_url_option,
    complete_file,
    env_option,
    find_exchange,
    is_file,
    load,
    load_with_parent,
    name_of,
    replay_name,
    replayed_session_id,
    source_argument,
    stored_reports,
)
from .session_tests import test_command
from .session_views import (
    call_details,
    call_rows,
    call_views,
    difference_table,
    open_console,
    print_json,
    request_lines,
)
from .session_whatif import whatif_command
from .shared_options import (
    EXIT_CODES,
    CommandError,
    count,
    data_option,
    header_option,
    ignore_option,
    json_option,
    output_option,
)

_REQUEST_OPTIONS = (
    source_argument,
    click.argument("url", required=False),
    click.option(
        "--against",
        metavar="URL",
        envvar="NOUKAI_APP_URL",
        show_envvar=True,
        callback=check_server,
        help="The server to send the captured request to, such as http://localhost:8000.",
    ),
    data_option,
    click.option(
        "--request",
        "-X",
        "method",
        help="HTTP method.  [default: as captured; else POST with --data, GET without]",
    ),
    header_option,
    click.option(
        "--live-from",
        type=click.IntRange(min=0),
        metavar="N",
        help="Replay the first N calls, and run the rest live.",
    ),
    click.option(
        "--on-miss",
        type=click.Choice(["raise", "live"]),
        help="'live' runs calls live that have no recording.",
    ),
    click.option("--strict", is_flag=True, help="A changed input is an error."),
    click.option(
        "--pacing",
        type=click.Choice(["instant", "recorded"]),
        help="'recorded' lets each call take as long as it did.",
    ),
    click.option(
        "--lost",
        type=click.Choice(["refuse", "live"]),
        help="'live' runs calls live that belong to no request.",
    ),
    env_option,
    base_url_option,
    json_option,
)


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options that describe a request, for curl and replay."""
    for option in reversed(_REQUEST_OPTIONS):
        command = option(command)
    return command


@click.group(epilog=EXIT_CODES)
def session() -> None:
    """List, show, compare and replay recorded sessions, and turn them into tests.

    SESSION is the id of a session or the path of a cassette file. For curl and replay, the app must be
    able to read it: a file in the folder NOUKAI_CASSETTES, or else the session whose id is in the file.
    """


session.add_command(list_command)
session.add_command(open_command)
session.add_command(html_command)
session.add_command(test_command)
session.add_command(whatif_command)
session.add_command(doctor_command)


@session.command()
@source_argument
@click.option("--full", is_flag=True, help="Print whole inputs and outputs.")
@click.option(
    "--call", "number", type=click.IntRange(min=1), help="Show only call N, in full.", metavar="N"
)
@context_option
@env_option
@base_url_option
@json_option
def show(
    source: str,
    full: bool,
    number: int | None,
    context: tuple[ChosenCall, ...] | None,
    env: Env | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Show the calls of a session: inputs, outputs, tokens, cost and times."""
    if number is not None and context is not None:
        raise click.UsageError("--call and --context exclude each other")
    file, parent = load_with_parent(source, env, base_url)
    if context is not None:
        print_context(file, source, context, env, base_url, full=full, as_json=as_json)
        return
    rows = call_rows(file.recordings)
    if number is not None and number > len(rows):
        calls = count(len(rows), "call")
        raise CommandError(f"there is no call {number}: {name_of(file, source)} has {calls}")
    chosen = [row for row in rows if number in (None, row["number"])]
    if as_json:
        known = {
            name: None if value is None else value.model_dump(mode="json", by_alias=True)
            for name, value in (("exchange", file.exchange), ("parent", parent))
        }
        boundaries = [each.model_dump(mode="json", by_alias=True) for each in file.boundaries]
        found = {"sessionId": file.session_id, **known, "calls": chosen}
        print_json(found if number is not None else {**found, "boundaries": boundaries})
        return
    page = None if is_file(source) else page_of_service(env, base_url)
    lines = [] if number is not None else request_lines(file, parent, page)
    if number is None:
        chosen = lines_in_time(rows, file, None if full else MOST_LINES)
    if full or number is not None:
        # Lines are not broken, so that texts can be searched and copied.
        views = [*lines, *([""] if lines else [])]
        for row in chosen:
            views += boundary_details(row) if "boundary" in row else [*call_details([row]), ""]
        views = views[:-1] if chosen else views
        open_console().print(*views, sep="\n", soft_wrap=True)
    else:
        name = linked(escape(name_of(file, source)), page, file.session_id)
        title = "\n".join([name, *lines])
        open_console().print(*call_views(title, chosen), sep="\n")
        more = len(file.boundaries) - MOST_LINES
        if more > 0:
            click.echo(f"and {count(more, 'more call')} of recorded functions: --full has all")


@session.command()
@source_argument
@output_option("Cassette file to write.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@env_option
@base_url_option
@json_option
def pull(
    source: str, path: Path, force: bool, env: Env | None, base_url: str | None, as_json: bool
) -> None:
    """Write a session to a cassette file, to replay it in tests."""
    if path.exists() and not force:
        raise CommandError(f"{path} exists: use --force to replace it")
    file = load(source, env, base_url, as_made=True)
    # A replay redacts its calls like the file, to compare them.
    redactor = Redactor(file.redacted, pii=file.redacted_pii)
    missing = file.missing_calls
    write_redacted(path, redacted_file(file, redactor, path))
    number = len(file.recordings)
    if missing:
        verb = "is" if missing == 1 else "are"
        click.echo(f"{count(missing, 'call')} with other API keys {verb} not in the file", err=True)
    if as_json:
        print_json({"path": str(path), "sessionId": file.session_id, "calls": number})
    else:
        page = None if is_file(source) else page_of_service(env, base_url)
        name = linked(escape(name_of(file, source)), page, file.session_id)
        what = count(number, "call")
        if file.boundaries:
            what += f" and {count(len(file.boundaries), 'call')} of recorded functions"
        line = f"{escape(clean_lines(str(path)))}: {what} of {name}"
        open_console().print(line, soft_wrap=True)


@session.command()
@click.argument("a", metavar="SESSION", shell_complete=complete_file)
@click.argument("b", metavar="SESSION", shell_complete=complete_file)
@env_option
@base_url_option
@json_option
def diff(a: str, b: str, env: Env | None, base_url: str | None, as_json: bool) -> None:
    """Compare the calls of two sessions. The exit code is 1 if they differ."""
    one, other = (load(each, env, base_url) for each in (a, b))
    listed = differences(
        [*one.recordings, *boundary_recordings(one.boundaries)],
        [*other.recordings, *boundary_recordings(other.boundaries)],
    )
    if as_json:
        print_json({"differences": [each.as_dict() for each in listed]})
    elif listed:
        open_console().print(difference_table(listed))
    else:
        click.echo("no differences")
    sys.exit(1 if listed else 0)


@session.command()
@request_options
@click.pass_context
def curl(context: click.Context, /, source: str, as_json: bool, **options: Any) -> None:
    """Print the curl command for a request that replays the session.

    Without URL, this is the captured request, so the app must capture requests (capture_requests=True).
    """
    request, _ = _prepare(context, source, options, compares=False)
    line = curl_line(request)
    if request.masked:
        click.echo(f"note: {_masked_note(request)}", err=True)
    print_json({"command": line, "masked": request.masked}) if as_json else click.echo(line)


@session.command()
@request_options
@click.option(
    "--app",
    "app_name",
    metavar="MODULE:APP",
    help="Replay in this process, without a server: the ASGI or WSGI app, such as main:app or "
    "main:create_app().",
)
@click.option(
    "--freeze",
    is_flag=True,
    help="With --app: hold clock, uuids and random numbers; the clock at the time of the captured request.",
)
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the body to expect, instead of the captured response.",
)
@ignore_option
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the report of the replay, at most.",
)
@click.pass_context
def replay(
    context: click.Context,
    /,
    source: str,
    as_json: bool,
    app_name: str | None,
    freeze: bool,
    expect: Path | None,
    ignore: tuple[str, ...],
    wait: float,
    **options: Any,
) -> None:
    """Send a request that replays the session, and compare the response with the captured one.

    Without URL, this is the captured request, so the app must capture requests (capture_requests=True).

    With --app the request goes through the app in this process: breakpoint() works, and no server is
    needed. What the app prints is on stderr, unless stdout is a terminal.

    The exit code is 0 if all calls were served as recorded and the response is as captured, 1 if
    something differs, and 2 if the request could not be sent, the app did not replay, or its report
    was not found.
    """
    expected_body = None if expect is None else expect.read_bytes()
    if app_name is not None:
        if options["url"] is not None or _is_given(context, "against"):
            raise click.UsageError(
                "--app excludes URL and --against: the request goes to no server"
            )
        file = load(source, options["env"], options["base_url"], as_made=True)
        outcome, request = replay_in_app(
            app_name,
            file,
            _edits(options, server=None),
            options,
            expect=expected_body,
            ignore=ignore,
            freeze=freeze,
        )
        _finish(outcome, request, None, as_json)
    if freeze:
        raise click.UsageError("--freeze needs --app: the clock of a server cannot be held")
    request, exchange = _prepare(context, source, options, compares=True)
    session_id = replayed_session_id(source)
    captured = exchange.response if exchange is not None else None
    env, base_url = options["env"], options["base_url"]

    def expected(received: ReceivedResponse) -> CapturedResponse | None:
        if expected_body is None:
            return captured
        status = received.status if captured is None else captured.status
        text = expected_body.decode("utf-8", "replace")
        headers = tuple(each for each in received.headers if each[0].lower() == "content-type")
        return CapturedResponse(status=status, headers=headers, body=CapturedBody(text=text))

    reports = stored_reports(session_id, env, base_url)
    sender = RequestSender(request, stored_reports=reports)
    try:
        outcome = asyncio.run(sender.replay(session_id, expected, ignore=ignore, wait=wait))
    except APIConnectionError as error:
        if options["url"] is not None or options["against"] is not None:
            raise
        hint = "the request was captured at this address: --against names another server"
        raise APIConnectionError(f"{error.message} ({hint})") from error
    if outcome.status == 404 and outcome.error is not None and is_file(source):
        outcome.notes.append(
            f"the app fetches the session of {source} by its id, and its service does not have it"
        )
    page = None if as_json else page_of_service(env, base_url)
    _finish(outcome, request, page, as_json)


def _finish(outcome: Outcome, request: AppRequest, page: str | None, as_json: bool) -> NoReturn:
    """Print the outcome of a replay, and exit."""
    if request.masked and outcome.exit_code != 0:
        outcome.notes.append(_masked_note(request))
    if as_json:
        print_json(outcome.as_dict())
    else:
        _print_outcome(outcome, page)
    sys.exit(outcome.exit_code)


def _is_given(context: click.Context, name: str) -> bool:
    """Return whether an option is on the command line, and not in the environment only."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _prepare(
    context: click.Context, source: str, options: dict[str, Any], *, compares: bool
) -> tuple[AppRequest, Exchange | None]:
    """Return the request to send, and the captured exchange if it is known.

    With ``compares``, the exchange is wanted even if the command line says all about the request.
    """
    url, against = options["url"], options["against"]
    if url is not None and against is not None:
        if _is_given(context, "against"):
            raise click.UsageError("URL and --against exclude each other: URL is the whole address")
        against = None
    edits = _edits(options, against)
    names = ("live_from", "on_miss", "strict", "pacing", "lost")
    header = replay_header(replay_name(source), **{name: options[name] for name in names})
    exchange = None
    if compares or not edits.is_complete:
        exchange = find_exchange(source, options["env"], options["base_url"], required=url is None)
    if exchange is None and url is None:
        raise CommandError(
            f"{source} was captured without its request: give URL, and --data if it had a body. To "
            "capture requests, pass capture_requests=True to the adapter"
        )
    if url is None and against is None and exchange is not None:
        refuse_websocket(exchange)
        edits = replace(edits, server=server_of(exchange))
    return build_request(edits, header, exchange), exchange


def _edits(options: dict[str, Any], server: str | None) -> RequestEdits:
    """Return what the command line says about the request."""
    data = options["data"]
    is_file_name = data is not None and data[:1] == "@"
    return RequestEdits(
        url=options["url"],
        server=server,
        method=options["method"],
        content=None if data is None or is_file_name else data.encode(),
        file=data[1:] if is_file_name else None,
        headers=options["headers"],
    )


def _masked_note(request: AppRequest) -> str:
    return f"removed or masked at capture: {', '.join(request.masked)} (-H and --data add it)"


# More lines help nobody; --json has all.
_MOST_DIFFERENCES = 20
_MOST_LINES = 60


def _print_outcome(outcome: Outcome, page: str | None) -> None:
    console = open_console()
    color = {0: "green", 1: "red"}.get(outcome.exit_code, "yellow")
    headline = linked_to_replay(escape(outcome.headline), page, outcome.replay_id)
    hint = " (--wait SECONDS waits longer)" if outcome.result == "unknown" else ""
    console.print(f"[{color}]{headline}[/]{hint}", soft_wrap=True)
    report = clean_lines(outcome.summary or "no report")
    console.print(f"HTTP {outcome.status}  {report}", markup=False, soft_wrap=True)
    listed = [str(difference) for difference in outcome.differences or ()]
    if len(listed) > _MOST_DIFFERENCES:
        listed[_MOST_DIFFERENCES:] = [f"and {len(listed) - _MOST_DIFFERENCES} more differences"]
    for text in (*outcome.problems, *listed):
        lines = clean_lines(text).splitlines()
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES:] = [f"and {len(lines) - _MOST_LINES} more lines"]
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)
