"""Split a bash block into commands, and decide for each: run it, start it as a server, or check it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SERVERS = {"noukai": 8080, "uvicorn": 8000, "gunicorn": 8000, "flask": 5000}
"""Programs that serve until they are stopped, with their default ports."""

RUN = {"cat", "curl", "echo", "export", "ls", "noukai", "pytest", "python"}
CHECKED = {"cd", "docker", "git", "make", "pip", "poetry", "source", "uv"}
CHECKED_MODULES = {"pip", "pytest", "venv"}

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_PORT_OPTIONS = {"--port", "-p", "--bind", "-b"}


@dataclass(frozen=True)
class Command:
    """One command: its text, its words, and the variables assigned in front of them."""

    text: str
    words: tuple[str, ...]
    env: dict[str, str]

    @property
    def serves(self) -> bool:
        """Whether it starts a server, to be kept running in the background."""
        program = self.words[0] if self.words else ""
        return program in SERVERS and (program != "noukai" or self.words[1:2] == ("dev",))

    @property
    def exports(self) -> dict[str, str]:
        """The variables that it sets for the rest of the page, if it is an ``export``."""
        words = self.words[1:] if self.words[:1] == ("export",) else ()
        return {match[1]: match[2] for word in words if (match := _ASSIGNMENT.fullmatch(word))}

    @property
    def runs(self) -> bool:
        """Whether it ends by itself and is harmless. A lone assignment is."""
        return not (self.serves or self.sets_up) and (not self.words or self.words[0] in RUN)

    @property
    def sets_up(self) -> bool:
        """Whether it changes the machine or takes long: it is checked, not run."""
        module = self.words[2:3] if self.words[:2] == ("python", "-m") else ()
        return bool({*self.words[:1]} & CHECKED or {*module} & CHECKED_MODULES)


def commands_of(code: str) -> Iterator[Command]:
    """Yield the commands of a block, in order. A command may take several lines.

    Raises:
        ValueError: A quotation is not closed.
    """
    pending = ""
    for line in code.replace("\\\n", " ").splitlines():
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # an open quotation continues in the next line
            pending += "\n"
            continue
        if words:
            yield _command(pending, words)
        pending = ""
    if pending:
        raise ValueError(f"a quotation is not closed: {pending}")


def _command(text: str, words: list[str]) -> Command:
    env = {}
    while words and (match := _ASSIGNMENT.fullmatch(words[0])):
        if match[2].startswith("$("):  # the value is the output of a command
            words = [match[2][2:], *words[1:]]
            break
        env[match[1]] = match[2]
        words = words[1:]
    return Command(text, tuple(words[:-1] if words[-1:] == ["&"] else words), env)


def listening(command: Command) -> tuple[int, list[str]]:
    """Return the port of a server command, and its words with ``{port}`` in place of the port."""
    port, words, rest = SERVERS[command.words[0]], [], iter(command.words)
    for word in rest:
        option, _, value = word.partition("=")
        if option in _PORT_OPTIONS:
            port = int((value or next(rest)).rpartition(":")[2])
        else:
            words.append(word)
    bind = ["--bind", "127.0.0.1:{port}"] if words[0] == "gunicorn" else ["--port", "{port}"]
    return port, [*words, *bind]


def check(command: Command, root: Path) -> None:
    """Check that the make targets and extras in a command exist."""
    words = command.words
    assert command.sets_up, (
        f"unknown command: {command.text}; tests/docs/shell.py lists the known ones"
    )
    if words[0] == "make":
        makefile = (root / "Makefile").read_text()
        targets = [word for word in words[1:] if "=" not in word]
        missing = [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)]
        assert not missing, f"not a target of the Makefile: {missing}"
    by_name = [word for word in words if re.match(r"noukai[-_]sdk\b", word)]
    assert not by_name, f"{by_name} is another package on the registry: install from a checkout"
    for extras in re.findall(r"(?:\.|/[\w-]+)\[([\w,]+)\]", command.text):
        project = (root / "pyproject.toml").read_text()
        unknown = [name for name in extras.split(",") if f"\n{name} = [" not in project]
        assert not unknown, f"not an extra in pyproject.toml: {unknown}"
