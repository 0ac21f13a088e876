"""``noukai flows``: list, check, run and draw flow files."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import FlowNotFoundError, NoukaiError
from ..local.engine.executor import Executor
from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.config import LlmConfig
from ..local.workflow.plan import Flow
from ..local.workflow.templates import as_text
from ..models.events import StreamEvent
from .flow_options import folder, folders, import_from_here, model
from .flow_progress import follow

F = TypeVar("F", bound=Callable[..., Any])

_PIPE_COLUMNS = 1000
# What is said even where it is null: the rest of an event's fields are left out then.
_ALWAYS = {"inputData", "outputData", "output", "result"}

version = click.option(
    "--version", type=click.IntRange(min=1), help="Published version.  [default: the working copy]"
)
as_json = click.option("--json", "machine", is_flag=True, help="Print JSON, for machines.")


def told(command: F) -> F:
    """Errors of the engine end the command with their message."""

    @wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"flow files need {error.name}: pip install 'noukai-sdk[backend]'"
            ) from error
        except NoukaiError as error:
            raise click.ClickException(error.message) from error

    return run  # type: ignore[return-value]  # wraps() keeps the signature


@click.group()
def flows() -> None:
    """Flow files: list, validate, run, show.

    A flow's address is ORG/PROJECT/SLUG.
    """
    import_from_here()


@flows.command("list")
@folder
@model
@as_json
@told
def list_(directory: Path | None, model: str, machine: bool) -> None:
    """Every flow that can be run."""
    catalog = _catalog(directory, model)
    found = catalog.all()
    if machine:
        _print_json([_described(flow) for flow in found])
        return
    table = Table("Flow", "Version", "Steps", "Capture", "Description", box=None)
    for flow in found:
        number = str(flow.version) if flow.version else ""
        steps = str(len(flow.steps))
        table.add_row(str(flow), number, steps, flow.capture_mode, escape(flow.description))
    # What reads a pipe wants whole lines.
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)
    problems = catalog.problems()
    if problems:
        click.echo(f"{len(problems)} problems: see noukai flows validate", err=True)


@flows.command()
@folder
@as_json
@told
def validate(directory: Path | None, machine: bool) -> None:
    """Check every flow file. Each problem has file, line and field; exit code 1 where there is one."""
    catalog = FlowCatalog(*folders(directory), check_model=LlmConfig.from_spec)
    problems = catalog.problems()
    if machine:
        _print_json({"flows": len(catalog.all()), "problems": [vars(p) for p in problems]})
    else:
        for problem in problems:
            click.echo(str(problem))
        if not problems:
            click.echo(f"{len(catalog.all())} flows, no problems")
    if problems:
        sys.exit(1)


@flows.command()
@click.argument("address")
@click.option("--message", "-m", help="What the flow is asked; - reads it from standard input.")
@click.option("--parameter", "-p", "parameters", multiple=True, help="NAME=VALUE; repeatable.")
@version
@folder
@model
@as_json
@told
def run(
    address: str,
    message: str | None,
    parameters: tuple[str, ...],
    version: int | None,
    directory: Path | None,
    model: str,
    machine: bool,
) -> None:
    """Run a flow here and show it as it goes. --json prints one event a line.

    Exit code 1 where the run fails.
    """
    flow = _find(_catalog(directory, model), address, version)
    inputs = dict(map(_parameter, parameters))
    if message is not None:
        inputs["message"] = sys.stdin.read() if message == "-" else message
    stream = Executor().execute_streaming(flow, inputs)
    if machine:
        for event in stream:
            click.echo(_line(event))
    else:
        follow(flow, stream, Console(stderr=True))
    result = stream.result
    if result is None or not result.is_success():
        sys.exit(1)
    if not machine:
        click.echo(_printable(as_text(result.result)))


@flows.command()
@click.argument("address")
@version
@folder
@told
def show(address: str, version: int | None, directory: Path | None) -> None:
    """A picture of a flow, as the text of a Mermaid flowchart."""
    click.echo(_find(_catalog(directory), address, version).to_mermaid())


def _catalog(directory: Path | None, model: str = "offline") -> FlowCatalog:
    return FlowCatalog(*folders(directory), default_model=model)


def _find(catalog: FlowCatalog, address: str, version: int | None) -> Flow:
    names = address.split("/")
    if len(names) != 3:
        raise click.UsageError(f"an address is ORG/PROJECT/SLUG, not {address!r}")
    org, project, slug = names
    try:
        return catalog.get(org, project, slug, version)
    except FlowNotFoundError as error:
        known = sorted({str(flow) for flow in catalog.all()})
        near = difflib.get_close_matches(address, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ": see noukai flows list"
        raise click.ClickException(f"{error.message}{hint}") from error


def _parameter(text: str) -> tuple[str, Any]:
    name, is_given, value = text.partition("=")
    if not is_given or not name:
        raise click.UsageError(f"a parameter is NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _described(flow: Flow) -> dict[str, Any]:
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


def _wire(event: StreamEvent) -> dict[str, Any]:
    fields = event.model_dump(by_alias=True)
    return {name: v for name, v in fields.items() if v is not None or name in _ALWAYS}


def _line(event: StreamEvent) -> str:
    fields = _wire(event)
    try:
        line = json.dumps(fields, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # keys that are no text; a list within itself
        told = {name: as_text(v) if name in _ALWAYS else v for name, v in fields.items()}
        line = json.dumps(told, ensure_ascii=False, default=str)
    return _printable(line)


def _printable(text: str) -> str:
    # Half of a character, as a model's cut text can hold it, is none that can be written.
    return text.encode("utf-8", "backslashreplace").decode()


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
