"""Options and error handling that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from ..errors import NoukaiError

P = ParamSpec("P")
T = TypeVar("T")

FLOWS_FOLDER = Path("flows")

flows_option = click.option(
    "--flows",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of flow files, <org>/<project>/<slug>.yaml."
    f"  [default: {FLOWS_FOLDER}, if it exists]",
)
model_option = click.option(
    "--model",
    default="offline",
    show_default=True,
    envvar="NOUKAI_DEV_MODEL",
    show_envvar=True,
    help="Model for steps without one: offline, smollm2, openai:NAME, ...",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def flow_folders(directory: Path | None) -> tuple[Path, ...]:
    """Return the folders to search for flow files: ``directory``, or ``flows`` if it exists."""
    folder = directory or FLOWS_FOLDER
    return (folder,) if folder.is_dir() else ()


def add_cwd_to_path() -> None:
    """Let flow files import modules from the current folder, as ``python -m`` does."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def report_errors(exit_code: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a command report SDK errors in one line and exit with ``exit_code``."""

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return command(*args, **kwargs)
            except ModuleNotFoundError as error:
                raise click.ClickException(
                    f"flow files need {error.name}: pip install 'noukai-sdk[backend]'"
                ) from error
            except (NoukaiError, OSError) as error:
                click.ClickException(str(error)).show()
                sys.exit(exit_code)

        return run

    return decorate
