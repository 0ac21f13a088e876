"""``noukai flows``: list, check, run and draw flow files."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import FlowNotFoundError
from ..local.engine.approval import ApprovalRequest
from ..local.engine.executor import Executor
from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.config import LlmConfig
from ..local.workflow.plan import Flow
from ..local.workflow.templates import as_text
from ..models.events import StreamEvent
from .flow_progress import show_progress
from .flow_text import flow_text
from .shared_options import (
    EXIT_CODES,
    count,
    flow_folders,
    flows_option,
    json_option,
    let_flows_import,
    model_option,
)

_PIPE_COLUMNS = 1000
# Fields of an event that are printed even if they are null. All others are left out then.
_ALWAYS = {"inputData", "outputData", "output", "result"}
_OF_THE_SERVICE = ("publish", "versions")


def _complete_address(ctx: click.Context, _argument: click.Parameter, incomplete: str) -> list[str]:
    flows = _open_catalog(ctx.params.get("directory")).all()
    return sorted({str(flow) for flow in flows if str(flow).startswith(incomplete)})


address_argument = click.argument("address", shell_complete=_complete_address)
version_option = click.option(
    "--version", type=click.IntRange(min=1), help="Published version.  [default: the working copy]"
)


class _FlowGroup(click.Group):
    """Imports the commands that call the service when they are used: the client takes 0.15 s."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [*super().list_commands(ctx), *_OF_THE_SERVICE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command."""
        if cmd_name not in _OF_THE_SERVICE:
            return super().get_command(ctx, cmd_name)
        from . import flow_versions

        command: click.Command = getattr(flow_versions, cmd_name)
        return command


@click.group(cls=_FlowGroup, epilog=EXIT_CODES)
def flows() -> None:
    """List, validate, run, show and publish flows.

    The address of a flow is ORG/PROJECT/SLUG.
    """


@flows.command("list")
@flows_option
@model_option
@json_option
def list_(directory: Path | None, model: str, as_json: bool) -> None:
    """List the flows that can be run."""
    catalog = _open_catalog(directory, model)
    if as_json:
        _print_json([_describe(flow) for flow in catalog.all()])
        return
    table = Table("Flow", "Version", "Steps", "Capture", "Description", box=None)
    for flow in catalog.all():
        version = str(flow.version) if flow.version else ""
        steps = str(len(flow.steps))
        table.add_row(str(flow), version, steps, flow.capture_mode, escape(flow.description))
    _open_console(sys.stdout).print(table)
    problems = catalog.problems()
    if problems:
        click.echo(f"{count(len(problems), 'problem')}: see noukai flows validate", err=True)


@flows.command()
@flows_option
@json_option
def validate(directory: Path | None, as_json: bool) -> None:
    """Check all flow files.

    Prints file, line and field of each problem. The exit code is 1 if there are problems.
    """
    catalog = _open_catalog(directory, check_models=True)
    problems = catalog.problems()
    if as_json:
        _print_json({"flows": len(catalog.all()), "problems": [vars(p) for p in problems]})
    else:
        for problem in problems:
            click.echo(str(problem))
        if not problems:
            click.echo(f"{count(len(catalog.all()), 'flow')}, no problems")
    if problems:
        sys.exit(1)


@flows.command()
@address_argument
@click.option("--message", "-m", help="Message for the flow; - reads it from standard input.")
@click.option("--parameter", "-p", "parameters", multiple=True, help="NAME=VALUE; repeatable.")
@click.option("--approve", is_flag=True, help="Give all approvals that the flow waits for.")
@version_option
@flows_option
@model_option
@json_option
def run(
    address: str,
    message: str | None,
    parameters: tuple[str, ...],
    approve: bool,
    version: int | None,
    directory: Path | None,
    model: str,
    as_json: bool,
) -> None:
    """Run a flow on this machine and show its progress.

    With --json, prints one event per line. On a terminal, asks for the approvals that the flow waits for.
    The exit code is 1 if the run fails, or waits for approvals.
    """
    flow = _find(_open_catalog(directory, model), address, version)
    inputs: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or not name:
            raise click.UsageError(f"a parameter is NAME=VALUE, not {parameter!r}")
        try:
            inputs[name] = json.loads(value)
        except ValueError:
            inputs[name] = value
    if message is not None:
        inputs["message"] = sys.stdin.read() if message == "-" else message
    executor = Executor()
    stream = executor.execute_streaming(flow, inputs)
    if as_json:
        for event in stream:
            click.echo(_event_line(event))
    else:
        show_progress(flow, stream, _open_console(sys.stderr))
    result = stream.result
    while result is not None and result.approvals:
        result = executor.resume(flow, result, approvals=_decisions(result.approvals, approve))
    if result is not None and not as_json:
        for error in result.errors if stream.result is not result else ():
            click.echo(f"Error: {error}", err=True)
    if result is None or not result.is_success():
        sys.exit(1)
    if not as_json:
        click.echo(_printable(as_text(result.result)))


@flows.command()
@address_argument
@version_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid"]),
    help="[default: text on a terminal, else mermaid]",
)
@flows_option
def show(address: str, version: int | None, form: str | None, directory: Path | None) -> None:
    """Show the steps of a flow, as text or as a Mermaid flowchart."""
    flow = _find(_open_catalog(directory), address, version)
    if form == "text" or (form is None and sys.stdout.isatty()):
        _open_console(sys.stdout).print(flow_text(flow))
    else:
        click.echo(flow.to_mermaid())


def _open_catalog(
    directory: Path | None, model: str = "offline", *, check_models: bool = False
) -> FlowCatalog:
    folders = flow_folders(directory)
    let_flows_import(folders)
    return FlowCatalog(
        *folders,
        default_model=model,
        check_model=LlmConfig.from_spec if check_models else None,
    )


def _open_console(file: TextIO) -> Console:
    # Programs that read the output through a pipe need each flow, and each step, on one line.
    return Console(file=file, width=None if file.isatty() else _PIPE_COLUMNS)


def _decisions(requests: Sequence[ApprovalRequest], approve: bool) -> dict[str, bool]:
    """Return the decisions on what a run waits for; exit if nobody can be asked."""
    questions = {request.node: f"{request.name}: {request.prompt}" for request in requests}
    if approve:
        return dict.fromkeys(questions, True)
    if not sys.stdin.isatty():
        for question in questions.values():
            click.echo(f"waits for an approval: {question}", err=True)
        click.echo("Run it on a terminal, or with --approve.", err=True)
        sys.exit(1)
    return {node: click.confirm(question, err=True) for node, question in questions.items()}


def _find(catalog: FlowCatalog, address: str, version: int | None) -> Flow:
    names = address.split("/")
    if len(names) != 3:
        raise click.UsageError(f"an address is ORG/PROJECT/SLUG, not {address!r}")
    org, project, slug = names
    try:
        return catalog.get(org, project, slug, version)
    except FlowNotFoundError as error:
        addresses = sorted({str(flow) for flow in catalog.all()})
        close = difflib.get_close_matches(address, addresses, n=1)
        hint = f"; did you mean {close[0]}?" if close else ": see noukai flows list"
        raise FlowNotFoundError(
            f"{error.message}{hint}", status_code=error.status_code, code=error.code
        ) from error


def _describe(flow: Flow) -> dict[str, Any]:
    return {
        "flow": str(flow),
        "version": flow.version,
        "flowId": flow.flow_id,
        "capture": flow.capture_mode,
        "description": flow.description,
        "steps": [
            {"id": s.id, "name": s.name, "kind": s.kind, "model": s.model} for s in flow.steps
        ],
    }


def _event_line(event: StreamEvent) -> str:
    fields = event.model_dump(by_alias=True)
    fields = {name: v for name, v in fields.items() if v is not None or name in _ALWAYS}
    try:
        line = json.dumps(fields, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # an output with keys that are not texts, or a circular one
        texts = {name: as_text(v) if name in _ALWAYS else v for name, v in fields.items()}
        line = json.dumps(texts, ensure_ascii=False, default=str)
    return _printable(line)


def _printable(text: str) -> str:
    """Escape lone surrogates, which cannot be encoded: a model may be cut off inside a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
