"""The command group ``noukai``. Each subcommand is imported when it is used."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

import click

from .._version import __version__
from ..errors import FlowExecutionError, NoukaiError
from ..replaying.controls import clean_lines
from . import packages_to_install
from .shared_options import EXIT_CODES, CommandError

# name: (module:function, help text). A command whose module is not installed is left out.
COMMANDS = {
    "dev": ("noukai_sdk.cli.dev:dev", "Serve flows on this machine, as the hosted service does."),
    "flows": ("noukai_sdk.cli.flows:flows", "List, check, run and publish flows."),
    "keys": ("noukai_sdk.cli.organisations:keys", "Create, list and revoke API keys."),
    "orgs": ("noukai_sdk.cli.organisations:orgs", "Set and list the limits of organisations."),
    "serve": ("noukai_sdk.cli.serve:serve", "Serve the HTTP API of a service, on Postgres."),
    "session": ("noukai_sdk.cli.session:session", "Show, compare and replay recorded sessions."),
    "sessions": ("noukai_sdk.cli.sessions:sessions", "Replay many captured requests at once."),
    "worker": ("noukai_sdk.cli.serve:worker", "Run the jobs of a service, on Postgres."),
}


COMPLETION = """\b
Shell completion:
  bash, zsh  eval "$(_NOUKAI_COMPLETE=bash_source noukai)"  (zsh_source)
  fish       _NOUKAI_COMPLETE=fish_source noukai | source
"""


class NoukaiGroup(click.Group):
    """The group ``noukai``: it imports a command when it is called, and reports its errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the installed commands."""
        return [name for name, (path, _) in COMMANDS.items() if find_spec(path.split(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or return None for an unknown name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note if errors are to be JSON: they may occur before the command has read its options."""
        ctx.meta["as_json"] = "--json" in args and args[:1] != ["sessions"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. With ``--json``, an error becomes a JSON object on standard output."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, NoukaiError, OSError, ModuleNotFoundError) as error:
            self._report(ctx, error)

    def _report(self, ctx: click.Context, error: Exception) -> NoReturn:
        # A run that failed is a result. Sessions are only read.
        is_result = isinstance(error, FlowExecutionError) and ctx.invoked_subcommand not in (
            "session",
            "sessions",
        )
        exit_code = 1 if is_result else 2
        message = str(error)
        if isinstance(error, click.ClickException):
            exit_code, message = error.exit_code, error.format_message()
        elif isinstance(error, ModuleNotFoundError):
            missing = (error.name or "").partition(".")[0]
            if missing in ("", "noukai_sdk"):
                raise error
            packages = packages_to_install(missing)
            message = f"this command needs {missing}: pip install {packages}"
        elif isinstance(error, BrokenPipeError):  # click ends the program quietly
            raise error
        message = clean_lines(message)  # it may quote a recording
        if ctx.meta["as_json"]:
            code = getattr(error, "code", None)
            described = {"type": type(error).__name__, "code": code, "message": message}
            with suppress(OSError):  # the error may be that standard output is full
                click.echo(json.dumps({"error": described}))
                ctx.exit(exit_code)
        if isinstance(error, click.ClickException):
            raise error
        shown = click.ClickException if exit_code == 1 else CommandError
        raise shown(message) from error


@click.group(
    "noukai",
    cls=NoukaiGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{EXIT_CODES}\n{COMPLETION}",
)
@click.version_option(__version__, prog_name="noukai")
def noukai() -> None:
    """Work with Noukai flows from the command line."""
