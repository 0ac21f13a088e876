"""``noukai session doctor``: find the lines that make a replay of a request differ by itself."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from ..doctor.diagnosis import Diagnosis
from ..doctor.examination import Examination
from ..doctor.run_comparison import live_changes
from ..doctor.run_processes import Processes
from ..doctor.run_program import Orders
from ..doctor.source_reads import Plan
from ..errors import CapturedRequestError
from ..models.exchanges import Header
from ..replay.cassette_file import CassetteFile, write_redacted
from ..replay.recording import seconds_of
from ..replaying.app_interfaces import resent_request
from ..replaying.controls import clean_lines
from .session_source import (
    Env,
    base_url_option,
    env_option,
    is_file,
    load,
    name_of,
    source_argument,
)
from .session_tests import read_body
from .session_views import open_console, print_json
from .shared_options import (
    CommandError,
    data_option,
    header_option,
    ignore_option,
    json_option,
)


@click.command("doctor")
@source_argument
@click.option(
    "--app",
    "app_name",
    required=True,
    metavar="MODULE:APP",
    help="The ASGI or WSGI app, such as main:app or main:create_app().",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1, max=100),
    default=5,
    show_default=True,
    metavar="N",
    help="How many other times, random numbers and orders are tried.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Run the request twice through the service too, in new sessions. This calls models.",
)
@click.option("--fail-on-findings", is_flag=True, help="Exit with 1 if something was found.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one run may take.",
)
@header_option
@data_option
@ignore_option
@env_option
@base_url_option
@json_option
def doctor_command(
    source: str,
    app_name: str,
    runs: int,
    live: bool,
    fail_on_findings: bool,
    timeout: float,
    headers: list[Header],
    data: str | None,
    ignore: tuple[str, ...],
    env: Env | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Replay the captured request many times, and list the lines that make the replays differ.

    Between two runs one thing alone changes: the clock, uuids, random numbers, the order of sets, the
    order in which calls complete, or the environment. No model is called, but with --live.

    The exit code is 0 if the request was examined, 1 if --fail-on-findings is given and something was
    found, and 2 if the request could not be examined.
    """
    file = load(source, env, base_url, as_made=True)
    if file.exchange is None:
        raise CapturedRequestError(
            f"{name_of(file, source)} was captured without its request: pass capture_requests=True to "
            "the adapter of the app, and capture the request again"
        )
    body = read_body(data)
    resent_request(file.exchange, dict(headers), body)  # raises if it cannot be sent
    with tempfile.TemporaryDirectory(prefix="noukai-doctor-") as folder:
        cassette = Path(folder) / "session.jsonl"
        write_redacted(cassette, file)
        orders = Orders(
            Plan(),
            app=app_name,
            cassette=str(cassette),
            beside=source if is_file(source) else "",
            headers=list(headers),
            body=body,
            timeout=timeout,
        )
        diagnosis = _examine(orders, file, runs, ignore, live=live)
    masked = file.exchange.request.redacted
    if masked and not (headers or data):
        names = ", ".join(masked)
        diagnosis.notes.append(f"removed or masked at capture: {names} (-H and --data add it)")
    if as_json:
        print_json(diagnosis.as_dict())
    else:
        print_diagnosis(diagnosis)
    if diagnosis.problem is not None:
        sys.exit(2)
    sys.exit(1 if fail_on_findings and diagnosis.findings else 0)


def _examine(
    orders: Orders, file: CassetteFile, runs: int, ignore: tuple[str, ...], *, live: bool
) -> Diagnosis:
    assert file.exchange is not None  # the command has checked
    captured_at = seconds_of(file.exchange.started_at) or time.time()
    with Console(stderr=True).status("starting") as status:

        def show(runs: int) -> None:
            status.update(f"run {runs}")

        with Processes(orders, show) as processes:
            examination = Examination(processes.run, clock=captured_at, runs=runs, ignore=ignore)
            diagnosis = examination.examine()
            diagnosis.runs = processes.runs
        if live and diagnosis.problem is None:
            status.update("running the request twice through the service: this calls models")
            with Processes(replace(orders, live=True)) as processes:
                one, other = processes.run([Plan(), Plan(hash_seed=1)])
            diagnosis.runs += processes.runs
            problem = one.problem or other.problem
            if problem is not None:
                raise CommandError(f"a live run failed: {problem}")
            examination.add_live(live_changes(one, other, ignore))
    return diagnosis


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print a diagnosis as text."""
    console = open_console()
    color = "green" if not diagnosis.findings and diagnosis.problem is None else "red"
    console.print(f"[{color}]{escape(clean_lines(diagnosis.headline))}[/]", soft_wrap=True)
    for finding in diagnosis.findings:
        first, *rest = (clean_lines(line) for line in finding.lines())
        console.print(f"\n[bold]{escape(first)}[/]", soft_wrap=True)
        for line in rest:
            console.print(line, markup=False, soft_wrap=True)
    for note in diagnosis.notes:
        console.print(f"note: {clean_lines(note)}", markup=False, soft_wrap=True)
