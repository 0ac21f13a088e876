"""``noukai session``: look at recorded sessions, keep them, compare them, replay them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from ..replay.cassette_file import write_cassette
from ..replay.diff import differences
from .session_replay import Outcome, send
from .session_requests import ReplayRequest, read_headers
from .session_sources import load, session_id_of, told
from .session_views import console, difference_table, rows, views

as_json = click.option("--json", "machine", is_flag=True, help="Print JSON, for machines.")
env = click.option(
    "--env", type=click.Choice(["production", "dev"]), help="The service.  [default: NOUKAI_ENV]"
)
data = click.option(
    "--data", "-d", help="Request body, JSON unless a Content-Type is given; @FILE reads a file."
)
method = click.option("--request", "-X", "method", help="HTTP method.  [default: POST with --data]")
header = click.option(
    "--header",
    "-H",
    "headers",
    multiple=True,
    callback=lambda _context, _option, given: read_headers(given),
    help="'Name: value'; repeatable.",
)


@click.group()
def session() -> None:
    """Recorded sessions: show, pull, diff, curl, replay.

    Where a session is asked for, its id or the path of a cassette file will do.
    """


@session.command()
@click.argument("source")
@env
@as_json
@told
def show(source: str, env: str | None, machine: bool) -> None:
    """The calls of a session: inputs, outputs, tokens, cost, time."""
    session_id, recordings = load(source, env)
    if machine:
        _print_json({"sessionId": session_id, "calls": rows(recordings)})
    else:
        console().print(*views(f"session {session_id or source}", recordings), sep="\n")


@session.command()
@click.argument("session_id")
@click.option("--output", "-o", "path", required=True, type=click.Path(path_type=Path))
@env
@as_json
@told
def pull(session_id: str, path: Path, env: str | None, machine: bool) -> None:
    """Write a session to a cassette file, to replay it in a test."""
    session_id_, recordings = load(session_id, env)
    write_cassette(path, session_id_, recordings)
    if machine:
        _print_json({"path": str(path), "sessionId": session_id_, "calls": len(recordings)})
    else:
        click.echo(f"{path}: {len(recordings)} calls of session {session_id_}")


@session.command()
@click.argument("a")
@click.argument("b")
@env
@as_json
@told
def diff(a: str, b: str, env: str | None, machine: bool) -> None:
    """Which calls of two sessions differ, and how. Exit code 1 where any does."""
    found = differences(load(a, env)[1], load(b, env)[1])
    if machine:
        _print_json({"differences": [each.as_dict() for each in found]})
    elif found:
        console().print(difference_table(found))
    else:
        click.echo("no differences")
    sys.exit(1 if found else 0)


@session.command()
@click.argument("session_id")
@click.argument("url")
@data
@method
@header
@as_json
@told
def curl(
    session_id: str, url: str, data: str | None, method: str | None, headers: Any, machine: bool
) -> None:
    """The line to paste: a request that replays the session."""
    request = ReplayRequest(session_id_of(session_id), url, method, data, headers)
    line = shlex.join(request.curl())
    _print_json({"command": line}) if machine else click.echo(line)


@session.command()
@click.argument("session_id")
@click.argument("url")
@data
@method
@header
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The body of the captured answer: the replayed one must equal it.",
)
@as_json
@told
def replay(
    session_id: str,
    url: str,
    data: str | None,
    method: str | None,
    headers: Any,
    expect: Path | None,
    machine: bool,
) -> None:
    """Send a request that replays the session, and tell how it went.

    Exit code 0: all calls were served as recorded, and the answer is the expected one. 1: something
    differs. 2: the request could not be sent, or the app does not replay.
    """
    expected = None if expect is None else expect.read_bytes()
    request = ReplayRequest(session_id_of(session_id), url, method, data, headers)
    outcome = send(request, expected)
    _print_json(outcome.as_dict()) if machine else _print_outcome(outcome)
    sys.exit(outcome.exit_code)


def _print_outcome(outcome: Outcome) -> None:
    out = console()
    color = {0: "green", 1: "red"}.get(outcome.exit_code, "yellow")
    out.print(f"[{color}]{outcome.verdict}[/]", soft_wrap=True)
    out.print(f"HTTP {outcome.status}  {outcome.report or 'no report'}")
    for problem in outcome.problems:
        out.print(f"  {problem}", markup=False, soft_wrap=True)
    if outcome.body_differs:
        out.print("expected:", outcome.expected, "answered:", outcome.body, sep="\n", markup=False)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, default=str))
