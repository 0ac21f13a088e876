"""The subcommands of ``noukai``, each imported when it is used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import click

from .._version import __version__

# name: (where it is, what ``noukai --help`` says about it). A module that is not there is left out.
COMMANDS = {
    "dev": ("noukai_sdk.cli.dev:dev", "Serve flows on this machine, as the hosted service does."),
    "flows": ("noukai_sdk.cli.flows:flows", "List, check and run flow files."),
    "session": ("noukai_sdk.cli.session:session", "Show, compare and replay recorded sessions."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands that are there."""
        return [name for name, (place, _) in COMMANDS.items() if find_spec(place.split(":")[0])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, None where there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group("noukai", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="noukai")
def noukai() -> None:
    """Work with Noukai flows from the command line."""
