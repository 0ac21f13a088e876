"""``noukai session test``: write a regression test of a captured request."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import click

from ..errors import CapturedRequestError, CassetteError, ReplayError
from ..models.exchanges import Exchange, Header
from ..pytest_plugin.folders import cassette_path
from ..replay.cassette_file import redacted_file, write_redacted
from ..replay.redaction import Redactor
from ..replay.resending import sent_again
from ..replaying.app_request import refuse_websocket
from ..replaying.apps import AppError, interface_of, load_app
from ..replaying.controls import clean_lines
from ..testing.captured_requests import replay_request
from ..testing.freezing import FreezeError
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

# Another year, month, weekday, hour, minute and second.
_ANOTHER_TIME = timedelta(days=500, hours=5, minutes=7, seconds=11)


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
    time-machine. If the inputs differ already now (a time to the microsecond, a uuid), it allows that.
    """
    if path.suffix != ".py":
        raise CommandError(f"{path} is not the name of a Python file: write -o tests/test_grade.py")
    file = load(source, env, base_url, as_made=True)
    body = _read_body(data)
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
    problems, drift, freeze = _try(app_name, cassette, headers, body, ignore)
    call = call_source(app_name, headers, body, ignore, freeze=freeze)
    text = source_of_test(captured, file.session_id, name, call, allow_drift=bool(drift))
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
            "freeze": freeze,
        }
        print_json({**written, **result, "command": command})
    else:
        click.echo(f"{path}: {name}, {count(len(file.recordings), 'call')} from {cassette}")
        if freeze:
            click.echo("It holds clock, uuids and random numbers, and needs time-machine.")
        if drift:
            click.echo("The inputs of calls differ from the captured ones, which the test allows:")
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


def _read_body(data: str | None) -> str | None:
    if data is None or data[:1] != "@":
        return data
    try:
        return Path(data[1:]).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{data[1:]} is not text in UTF-8") from error


def _is_given(masked: str, headers: Sequence[Header]) -> bool:
    kind, _, name = masked.partition(" ")
    return kind == "body" or (kind == "header" and any(name == each.lower() for each, _ in headers))


def _try(
    app_name: str,
    cassette: Path,
    headers: Sequence[Header],
    body: str | None,
    ignore: Sequence[str],
) -> tuple[list[str], list[str], bool]:
    """Do what the test does.

    Returns:
        Why it does not pass; how calls differ from the captured ones; and whether it passes only if clock,
        uuids and random numbers are held.
    """

    def attempt(held: timedelta | None) -> tuple[list[str], list[str]]:
        drift: list[str] = []
        try:
            with app_output():
                replayed = replay_request(
                    app_name, cassette, headers=dict(headers), body=body, ignore=ignore, held=held
                )
            drift = replayed.report.lines() if replayed.report.drift else []
            replayed.assert_unchanged()
        except CassetteError:
            raise
        except (ReplayError, AppError, AssertionError) as error:
            cause = error.__cause__
            reason = [] if cause is None else [f"the app raised {type(cause).__name__}: {cause}"]
            return [str(error), *reason], drift
        return [], drift

    problems, drift = attempt(None)
    try:
        # What passes today may fail tomorrow: a date in a prompt.
        problems_later, drift_later = attempt(_ANOTHER_TIME)
        if problems or drift or problems_later or drift_later:
            problems_held, drift_held = attempt(timedelta())
            # Held, an input may still differ from that of production, as a uuid does.
            helps = problems or problems_later or not drift_held
            if helps and not problems_held:
                return problems_held, drift_held, True
    except FreezeError:  # time-machine is not installed
        pass
    return problems, drift, False


def _print_indented(lines: Sequence[str]) -> None:
    for line in clean_lines("\n".join(lines)).splitlines():
        click.echo(f"  {line}")
