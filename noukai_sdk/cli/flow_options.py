"""Where commands find flow files, and what these may name."""

from __future__ import annotations

import sys
from pathlib import Path

import click

FOLDER = Path("flows")

folder = click.option(
    "--flows",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=f"Folder of flow files, <org>/<project>/<slug>.yaml.  [default: {FOLDER}, where it is there]",
)
model = click.option(
    "--model",
    default="offline",
    show_default=True,
    envvar="NOUKAI_DEV_MODEL",
    show_envvar=True,
    help="Model of the steps that name none: offline, smollm2, openai:NAME, ...",
)


def folders(directory: Path | None) -> tuple[Path, ...]:
    """The folders to look for flows in: the one that was named, else ``flows`` where it is there."""
    found = directory or FOLDER
    return (found,) if found.is_dir() else ()


def import_from_here() -> None:
    """Find modules that flow files name where the command runs, as with ``python -m``."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
