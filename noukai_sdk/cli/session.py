"""``noukai session``: show, save, compare and replay recorded sessions."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem

from ..arguments import require_base_url
from ..client import Noukai
from ..errors import CassetteError
from ..protocol.fetching import fetch_session
from ..protocol.requests import require_session_id
from ..replay.cassette_file import CassetteFile, read_cassette, write_cassette
from ..replay.diff import differences
from ..replay.redaction import Redactor
from ..replay.sources import recordings_of
from .session_replay import AppRequest, Header, Outcome, send
from .session_views import call_details, call_rows, call_views, difference_table, open_console
from .shared_options import EXIT_CODES, CommandError, count, json_option

Env = Literal["production", "dev"]


def _parse_headers(_context: Any, _option: Any, texts: tuple[str, ...]) -> list[Header]:
    headers: list[Header] = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or "\n" in text or "\r" in text:
            raise click.BadParameter(f"{text!r} is not a valid header: write 'Name: value'")
        headers.append((name.strip(), value.strip()))
    return headers


def _check_base_url(_context: Any, _option: Any, url: str | None) -> str | None:
    try:
        return None if url is None else require_base_url("URL", url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _complete_file(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


source_argument = click.argument("source", metavar="SESSION", shell_complete=_complete_file)
env_option = click.option(
    "--env",
    type=click.Choice(["production", "dev"]),
    help="The service to fetch from.  [default: NOUKAI_ENV]",
)
base_url_option = click.option(
    "--base-url",
    metavar="URL",
    envvar="NOUKAI_BASE_URL",
    show_envvar=True,
    callback=_check_base_url,
    help="The address of the service to fetch from, in place of --env.",
)
data_option = click.option(
    "--data", "-d", help="Request body, JSON unless a Content-Type is given; @FILE reads a file."
)
method_option = click.option(
    "--request", "-X", "method", help="HTTP method.  [default: POST with --data, else GET]"
)
header_option = click.option(
    "--header",
    "-H",
    "headers",
    multiple=True,
    callback=_parse_headers,
    help="'Name: value'; repeatable.",
)


@click.group(epilog=EXIT_CODES)
def session() -> None:
    """Show, pull, compare and replay recorded sessions.

    SESSION is the id of a session or the path of a cassette file. For curl and replay, the app must be
    able to fetch the session: a cassette file stands for the session whose id is in it.
    """


@session.command()
@source_argument
@click.option("--full", is_flag=True, help="Print whole inputs and outputs.")
@click.option(
    "--call", "number", type=click.IntRange(min=1), help="Show only call N, in full.", metavar="N"
)
@env_option
@base_url_option
@json_option
def show(
    source: str,
    full: bool,
    number: int | None,
    env: Env | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Show the calls of a session: inputs, outputs, tokens, cost and times."""
    file = _load(source, env, base_url)
    rows = call_rows(file.recordings)
    if number is not None and number > len(rows):
        calls = count(len(rows), "call")
        raise CommandError(f"there is no call {number}: {_name(file, source)} has {calls}")
    chosen = [row for row in rows if number in (None, row["number"])]
    if as_json:
        _print_json({"sessionId": file.session_id, "calls": chosen})
        return
    if full or number is not None:
        # Lines are not broken, so that texts can be searched and copied.
        open_console().print(*call_details(chosen), sep="\n", soft_wrap=True)
    else:
        open_console().print(*call_views(_name(file, source), chosen), sep="\n")


@session.command()
@source_argument
@click.option(
    "--output",
    "-o",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="Cassette file to write.",
)
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
    file = _load(source, env, base_url)
    # A replay redacts its calls like the file, to compare them.
    write_cassette(
        path, file.session_id, file.recordings, Redactor(file.redacted, pii=file.redacted_pii)
    )
    number = len(file.recordings)
    if as_json:
        _print_json({"path": str(path), "sessionId": file.session_id, "calls": number})
    else:
        click.echo(f"{path}: {count(number, 'call')} of {_name(file, source)}")


@session.command()
@click.argument("a", metavar="SESSION", shell_complete=_complete_file)
@click.argument("b", metavar="SESSION", shell_complete=_complete_file)
@env_option
@base_url_option
@json_option
def diff(a: str, b: str, env: Env | None, base_url: str | None, as_json: bool) -> None:
    """Compare the calls of two sessions. The exit code is 1 if they differ."""
    listed = differences(_load(a, env, base_url).recordings, _load(b, env, base_url).recordings)
    if as_json:
        _print_json({"differences": [each.as_dict() for each in listed]})
    elif listed:
        open_console().print(difference_table(listed))
    else:
        click.echo("no differences")
    sys.exit(1 if listed else 0)


@session.command()
@source_argument
@click.argument("url")
@data_option
@method_option
@header_option
@json_option
def curl(
    source: str,
    url: str,
    data: str | None,
    method: str | None,
    headers: list[Header],
    as_json: bool,
) -> None:
    """Print the curl command for a request that replays the session."""
    request = AppRequest(_session_id_of(source), url, method, data, headers)
    line = shlex.join(request.curl())
    _print_json({"command": line}) if as_json else click.echo(line)


@session.command()
@source_argument
@click.argument("url")
@data_option
@method_option
@header_option
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the body of the captured response, to compare the replayed one with.",
)
@json_option
def replay(
    source: str,
    url: str,
    data: str | None,
    method: str | None,
    headers: list[Header],
    expect: Path | None,
    as_json: bool,
) -> None:
    """Send a request that replays the session, and show the result.

    The exit code is 0 if all calls were served as recorded and the response is the expected one, 1 if
    something differs, and 2 if the request could not be sent or the app did not replay.
    """
    expected = None if expect is None else expect.read_bytes()
    request = AppRequest(_session_id_of(source), url, method, data, headers)
    outcome = send(request, expected)
    if outcome.status == 404 and outcome.problems and _is_file(source):
        hint = (
            f"the app fetches the session of {source} by its id, and its service does not have it"
        )
        outcome.problems.append(hint)
    _print_json(outcome.as_dict()) if as_json else _print_outcome(outcome)
    sys.exit(outcome.exit_code)


def _load(source: str, env: Env | None, base_url: str | None) -> CassetteFile:
    """Return the recordings of a session, from its cassette file or the service."""
    if _is_file(source):
        return read_cassette(source)
    session_id = _require_id(source)
    with _open_client(env, base_url) as client:
        transport = client._transport
        session = transport.run(fetch_session(transport.service, session_id))
    return CassetteFile(session.session_id, recordings_of(session))


def _open_client(env: Env | None, base_url: str | None) -> Noukai:
    try:
        return Noukai(env=env, base_url=base_url)
    except ValueError as error:  # NOUKAI_ENV
        raise CommandError(str(error)) from error


def _name(file: CassetteFile, source: str) -> str:
    """Return the name of the session for messages; recordings made by hand may have no id."""
    return f"session {file.session_id}" if file.session_id else source


def _session_id_of(source: str) -> str:
    """Return the id that an app can fetch a session by, also if ``source`` is a cassette file."""
    if not _is_file(source):
        return _require_id(source)
    session_id = read_cassette(source).session_id
    if session_id is None:
        message = "this file has no session id, by which an app could fetch its session"
        raise CassetteError(f"{source}: {message}", path=source)
    return require_session_id(session_id)


def _is_file(source: str) -> bool:
    return os.path.isfile(source)  # noqa: PTH113  # Path.is_file() raises if the name is too long


def _require_id(source: str) -> str:
    if "/" in source or os.sep in source or source.endswith(".jsonl"):
        raise CassetteError(f"{source}: no such file, and not a valid session id")
    return require_session_id(source)


def _print_outcome(outcome: Outcome) -> None:
    console = open_console()
    color = {0: "green", 1: "red"}.get(outcome.exit_code, "yellow")
    console.print(f"[{color}]{outcome.summary}[/]", soft_wrap=True)
    console.print(f"HTTP {outcome.status}  {outcome.report or 'no report'}")
    for problem in outcome.problems:
        console.print(f"  {problem}", markup=False, soft_wrap=True)
    if outcome.body_differs:
        bodies = ("expected:", outcome.expected, "received:", outcome.body)
        console.print(*bodies, sep="\n", markup=False)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, default=str))
