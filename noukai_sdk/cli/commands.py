"""The command group ``noukai``. Each subcommand is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click

from .._version import __version__

# name: (module:function, help text). A command whose module is not installed is left out.
COMMANDS = {
    "dev": ("noukai_sdk.cli.dev:dev", "Serve flows on this machine, as the hosted service does."),
    "flows": ("noukai_sdk.cli.flows:flows", "List, check and run flow files."),
    "session": ("noukai_sdk.cli.session:session", "Show, compare and replay recorded sessions."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called."""

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


@click.group("noukai", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="noukai")
def noukai() -> None:
    """Work with Noukai flows from the command line."""
