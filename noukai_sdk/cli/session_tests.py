"""``noukai session test``: write a regression test of a captured request."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from ..errors import CapturedRequestError
from ..models.exchanges import Exchange, Header
from ..pytest_plugin.folders import cassette_path
from ..replay.cassette_file import redacted_file, write_redacted
from ..replay.redaction import Redactor
from ..replay.resending import sent_again
from ..replaying.app_request import refuse_websocket
from ..replaying.apps import AppError, interface_of, load_app
from ..replaying.controls import clean_lines
from ..testing.trials import try_test
from ..testing.written_tests import call_source, name_of_test, source_of_test
from .session_app import app_output
from .session_source import (
    Env,
    base_url_option,
    env_option,
    load,
    name_of,
    source_argument,
)
from .session_views import print_json
from .shared_options import (
    CommandError,
    count,
    data_option,
    header_option,
    ignore_option,
    json_option,
    output_option,
)


@click.command("test")
@source_argument
@click.option(
    "--app",
    "app_name",
    required=True,
    metavar="MODULE:APP",
    help="The ASGI or WSGI app, such as main:app or main:create_app().",
)
@output_option("Test file to write, such as tests/test_grade.py.")
@click.option("--force", is_flag=True, help="Replace the test and its cassette if they exist.")
@header_option
@data_option
@ignore_option
@env_option
@base_url_option
@json_option
def test_command(
    source: str,
    app_name: str,
    path: Path,
    force: bool,
    headers: list[Header],
    data: str | None,
    ignore: tuple[str, ...],
    env: Env | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Write a pytest that sends the captured request through the app and compares the responses.

    The calls of the session become the cassette of the test. The test fails if the response differs, if
    calls are added or removed, or if their inputs change. It is tried at once: the exit code is 1 if it
    does not pass.

    If it would fail on another day, it holds clock, uuids and random numbers (freeze=True), which needs
    time-machine. If inputs differ all the same (a random number), its cassette gets those of a replay with
    a held clock; if they differ from run to run even then, the test allows that.
    """
    if path.suffix != ".py":
        raise CommandError(f"{path} is not the name of a Python file: write -o tests/test_grade.py")
    file = load(source, env, base_url, as_made=True)
    body = read_body(data)
    captured = _require_request(file.exchange, name_of(file, source), body)
    name = name_of_test(captured)
    cassette = cassette_path(path, name)
    for target in (path, cassette):
        if target.exists() and not force:
            raise CommandError(f"{target} exists: use --force to replace it")
    try:
        with app_output():
            interface_of(load_app(app_name, beside=path))
    except AppError as error:
        raise CommandError(str(error)) from error

    redactor = Redactor(file.redacted, pii=file.redacted_pii)
    contents = redacted_file(replace(file, exchange=captured), redactor, cassette)
    write_redacted(cassette, contents)
    path.parent.mkdir(parents=True, exist_ok=True)
    with app_output():
        trial = try_test(app_name, cassette, headers, body, ignore)
    problems, drift = trial.problems, trial.drift
    call = call_source(app_name, headers, body, ignore, freeze=trial.freeze)
    allow_drift = bool(drift) and not trial.inputs_held
    text = source_of_test(captured, file.session_id, name, call, allow_drift=allow_drift)
    path.write_text(text, "utf-8")

    masked = [each for each in captured.request.redacted if not _is_given(each, headers)]
    if problems and masked:
        problems.append(f"removed or masked at capture: {', '.join(masked)} (-H and --data add it)")
    command = f"python -m pytest {shlex.quote(str(path))}"
    if as_json:
        written = {"test": str(path), "cassette": str(cassette), "sessionId": file.session_id}
        result = {
            "calls": len(file.recordings),
            "passes": not problems,
            "problems": problems,
            "drift": drift,
            "freeze": trial.freeze,
            "inputsHeld": trial.inputs_held,
        }
        print_json({**written, **result, "command": command})
    else:
        click.echo(f"{path}: {name}, {count(len(file.recordings), 'call')} from {cassette}")
        if trial.freeze:
            click.echo("It holds clock, uuids and random numbers, and needs time-machine.")
        if drift:
            what = "so its cassette has these" if trial.inputs_held else "which the test allows"
            click.echo(f"The inputs of calls differ from the captured ones, {what}:")
            _print_indented(drift)
        if problems:
            click.echo("The test does not pass:")
            _print_indented(problems)
        click.echo(f"Run it: {command}")
    sys.exit(1 if problems else 0)


def _require_request(exchange: Exchange | None, name: str, body: str | None) -> Exchange:
    """Return the exchange if its request can be sent by a test."""
    if exchange is None:
        raise CapturedRequestError(
            f"{name} was captured without its request: pass capture_requests=True to the adapter of the "
            "app, and capture the request again"
        )
    refuse_websocket(exchange)
    if body is None:
        sent_again(exchange)
        masked = [each for each in exchange.request.redacted if each.startswith("body")]
        if masked:
            raise CapturedRequestError(
                f"secrets were masked in the request of {name} ({', '.join(masked)}): pass a body with "
                "other values with --data"
            )
    return exchange


def read_body(data: str | None) -> str | None:
    """Return the body that ``--data`` gives; ``@FILE`` is the content of a file."""
    if data is None or data[:1] != "@":
        return data
    try:
        return Path(data[1:]).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{data[1:]} is not text in UTF-8") from error


def _is_given(masked: str, headers: Sequence[Header]) -> bool:
    kind, _, name = masked.partition(" ")
    return kind == "body" or (kind == "header" and any(name == each.lower() for each, _ in headers))


def _print_indented(lines: Sequence[str]) -> None:
    for line in clean_lines("\n".join(lines)).splitlines():
        click.echo(f"  {line}")
