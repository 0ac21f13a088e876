"""What several commands share: options, exit codes, folders, words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class CommandError(click.ClickException):
    """A command cannot do its work: the exit code is 2."""

    exit_code = 2


EXIT_CODES = """\b
Exit codes:
  0  done
  1  done, but the result is bad: invalid flow files, a failed run,
     sessions or replays that differ
  2  not done: wrong arguments, something is not found, the service
     cannot be reached, a file cannot be read or already exists
"""

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

trusted_host_option = click.option(
    "--trusted-host",
    "trusted_hosts",
    multiple=True,
    metavar="HOST",
    help="Accept requests to this name too, in the Host header; repeatable.",
)

no_ui_option = click.option(
    "--no-ui", is_flag=True, help="Do not serve the page with sessions, flows and jobs."
)


def _check_origins(_context: Any, _option: Any, urls: tuple[str, ...]) -> tuple[str, ...]:
    if urls:
        from ..replaying.targets import Origin, TargetError

        try:
            return tuple(str(Origin.parse(url)) for url in urls)
        except TargetError as error:
            raise click.BadParameter(str(error)) from error
    return urls


replay_to_option = click.option(
    "--replay-to",
    multiple=True,
    metavar="URL",
    envvar="NOUKAI_REPLAY_TO",
    show_envvar=True,
    callback=_check_origins,
    help="Let the page replay requests at this server, such as http://app:8000; repeatable.",
)

blobs_option = click.option(
    "--blobs",
    metavar="FOLDER|URL",
    help="Folder, or URL such as s3://bucket/prefix, for payloads of more than 64 kB. All processes on a "
    "database need the same.  [default: the database]",
)


def _parse_headers(_context: Any, _option: Any, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or "\n" in text or "\r" in text:
            raise click.BadParameter(f"{text!r} is not a valid header: write 'Name: value'")
        headers.append((name.strip(), value.strip()))
    return headers


data_option = click.option(
    "--data",
    "-d",
    help="Request body; @FILE reads a file. JSON unless a Content-Type was captured or is given.",
)
header_option = click.option(
    "--header",
    "-H",
    "headers",
    multiple=True,
    callback=_parse_headers,
    help="'Name: value'; repeatable. Adds what was removed at capture, such as Authorization.",
)
ignore_option = click.option(
    "--ignore",
    multiple=True,
    metavar="PATH",
    help="What may differ in the response, such as '$.id' or '$.items[*].at'; repeatable.",
)


def output_option(help_text: str) -> Callable[[F], F]:
    """Return the option ``--output``, the file that a command writes: its argument ``path``."""
    file = click.Path(path_type=Path, dir_okay=False)
    return click.option("--output", "-o", "path", required=True, type=file, help=help_text)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def flow_folders(directory: Path | None) -> tuple[Path, ...]:
    """Return the folders to search for flow files: ``directory``, or ``flows`` if it exists."""
    folder = directory or FLOWS_FOLDER
    return (folder,) if folder.is_dir() else ()


def let_flows_import(folders: Iterable[Path]) -> None:
    """Let flow files import modules of the current folder, as ``python -m`` does, and of these folders."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    # Last, so that an organisation's folder cannot hide a package of its name.
    sys.path += [
        str(folder.resolve()) for folder in folders if str(folder.resolve()) not in sys.path
    ]


def count(number: int, noun: str) -> str:
    """Return the number with its noun.

    Example:
        >>> count(1, "problem"), count(2, "problem")
        ('1 problem', '2 problems')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
