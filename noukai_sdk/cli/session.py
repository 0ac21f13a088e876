"""``noukai session``: show, save, compare and replay recorded sessions."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

import click

from ..client import Noukai
from ..errors import CassetteError
from ..protocol.fetching import fetch_session
from ..protocol.requests import require_session_id
from ..replay.cassette_file import read_cassette, write_cassette
from ..replay.diff import differences
from ..replay.recording import Recording
from ..replay.sources import recordings_of
from .session_replay import AppRequest, Header, Outcome, send
from .session_views import call_rows, call_views, difference_table, open_console
from .shared_options import json_option, report_errors

Env = Literal["production", "dev"]


def _parse_headers(_context: Any, _option: Any, texts: tuple[str, ...]) -> list[Header]:
    headers: list[Header] = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or "\n" in text or "\r" in text:
            raise click.BadParameter(f"{text!r} is not a valid header: write 'Name: value'")
        headers.append((name.strip(), value.strip()))
    return headers


env_option = click.option(
    "--env",
    type=click.Choice(["production", "dev"]),
    help="The service to fetch from.  [default: NOUKAI_ENV]",
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


@click.group()
def session() -> None:
    """Show, pull, compare and replay recorded sessions.

    SESSION is the id of a session or the path of a cassette file.
    """


@session.command()
@click.argument("source", metavar="SESSION")
@env_option
@json_option
@report_errors(exit_code=2)
def show(source: str, env: Env | None, as_json: bool) -> None:
    """Show the calls of a session: inputs, outputs, tokens, cost and times."""
    session_id, recordings = _load(source, env)
    if as_json:
        _print_json({"sessionId": session_id, "calls": call_rows(recordings)})
    else:
        views = call_views(f"session {session_id or source}", recordings)
        open_console().print(*views, sep="\n")


@session.command()
@click.argument("source", metavar="SESSION")
@click.option(
    "--output",
    "-o",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="Cassette file to write.",
)
@env_option
@json_option
@report_errors(exit_code=2)
def pull(source: str, path: Path, env: Env | None, as_json: bool) -> None:
    """Write a session to a cassette file, to replay it in tests."""
    session_id, recordings = _load(source, env)
    write_cassette(path, session_id, recordings)
    if as_json:
        _print_json({"path": str(path), "sessionId": session_id, "calls": len(recordings)})
    else:
        click.echo(f"{path}: {len(recordings)} calls of session {session_id}")


@session.command()
@click.argument("a", metavar="SESSION")
@click.argument("b", metavar="SESSION")
@env_option
@json_option
@report_errors(exit_code=2)
def diff(a: str, b: str, env: Env | None, as_json: bool) -> None:
    """Compare the calls of two sessions. The exit code is 1 if they differ."""
    listed = differences(_load(a, env)[1], _load(b, env)[1])
    if as_json:
        _print_json({"differences": [each.as_dict() for each in listed]})
    elif listed:
        open_console().print(difference_table(listed))
    else:
        click.echo("no differences")
    sys.exit(1 if listed else 0)


@session.command()
@click.argument("source", metavar="SESSION")
@click.argument("url")
@data_option
@method_option
@header_option
@json_option
@report_errors(exit_code=2)
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
@click.argument("source", metavar="SESSION")
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
@report_errors(exit_code=2)
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
    _print_json(outcome.as_dict()) if as_json else _print_outcome(outcome)
    sys.exit(outcome.exit_code)


def _load(source: str, env: Env | None) -> tuple[str | None, list[Recording]]:
    """Return the id and the recordings of a session, from its cassette file or the service."""
    if _is_file(source):
        file = read_cassette(source)
        return file.session_id, file.recordings
    session_id = _require_id(source)
    with Noukai(env=env) as client:
        transport = client._transport
        session = transport.run(fetch_session(transport.service, session_id))
    return session.session_id, recordings_of(session)


def _session_id_of(source: str) -> str:
    """Return the id that an app can fetch a session by, also if ``source`` is a cassette file."""
    if not _is_file(source):
        return _require_id(source)
    session_id = read_cassette(source).session_id
    if session_id is None:
        raise CassetteError(f"{source}: this file has no session id to replay", path=source)
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
