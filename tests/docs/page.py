"""A page as its reader goes through it: block after block, in one folder, beside its servers."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import CodeType
from typing import Any

import yaml

from tests.docs.blocks import Block
from tests.docs.shell import Command, check, commands_of, listening
from tests.support.servers import ROOT, Server, serve_command

_ADDRESS = re.compile(r"\b(?:localhost|127\.0\.0\.1):(\d+)")
_SHELL = """\
set -euo pipefail
[ -f {state} ] && source {state}
{script}
declare -p | grep -E '^declare -[-x]+ [A-Za-z]' > {state}
"""


class Page:
    """Runs the blocks of one page.

    Args:
        folder: Where they run; files that they name are written here.

    Attributes:
        ports: The port that the text names, and that of the server that runs in its place.
    """

    def __init__(self, folder: Path) -> None:
        self.ports: dict[int, int] = {}
        self._folder = folder
        self._servers: dict[int, ExitStack] = {}
        self._namespace: dict[str, Any] = {}
        self._printed = ""
        # One loop a page: a client that a block opened can be used in the next one.
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Stop the page's servers."""
        for server in self._servers.values():
            server.close()
        # As asyncio.run() ends: a client that nobody closed closes its connections with the loop.
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def run(self, block: Block) -> None:
        """Do with a block what its language and its notes say. Raises what goes wrong in it."""
        notes = block.notes
        if "file" in notes:
            self._write(notes["file"], block)
        elif "output" in notes:
            self._compare(block)
        elif "not-run" in notes:
            assert notes["not-run"], "say why this block is not run"
            _check_syntax(block)
        elif block.language == "python":
            self._python(block)
        elif block.language == "bash":
            self._bash(block)
        else:
            _check_syntax(block)

    def _write(self, name: str, block: Block) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code)
        _check_syntax(block)

    def _compare(self, block: Block) -> None:
        pattern = re.escape(block.code.strip()).replace(r"\.\.\.", ".*")
        assert re.fullmatch(pattern, self._printed.strip(), re.DOTALL), (
            f"the block before printed:\n{self._printed}"
        )

    def _python(self, block: Block) -> None:
        if "continues" not in block.notes:
            self._namespace = {"__name__": "__main__"}
        printed = io.StringIO()
        expected = block.notes.get("raises")
        with redirect_stdout(printed):
            for code in _compiled(block, self._at_our_ports):
                self._execute(code, expected)
        self._printed = printed.getvalue()

    def _execute(self, code: CodeType, expected: str | None) -> None:
        try:
            outcome = eval(code, self._namespace)
            if code.co_flags & inspect.CO_COROUTINE:
                self._loop.run_until_complete(outcome)
        except Exception as error:  # whatever it is, it is compared by name
            if type(error).__name__ != expected:
                raise
        else:
            assert expected is None, f"this block should have ended in {expected}"

    def _bash(self, block: Block) -> None:
        script: list[str] = []
        self._printed = ""
        for command in commands_of(block.code):
            if command.runs:
                script.append(command.text)
                continue
            self._shell(script)
            script = []
            if command.serves:
                self._serve(command)
            else:
                check(command, ROOT)
        self._shell(script)

    def _shell(self, script: list[str]) -> None:
        if not script:
            return
        text = self._at_our_ports("\n".join(script))
        whole = _SHELL.format(state=self._folder / ".shell", script=text)
        done = subprocess.run(
            ["bash", "-c", whole], cwd=self._folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self._printed += done.stdout

    def _at_our_ports(self, text: str) -> str:
        return _ADDRESS.sub(lambda m: f"127.0.0.1:{self.ports.get(int(m[1]), m[1])}", text)

    def _serve(self, command: Command) -> None:
        port, words = listening(command)
        # As a reader would, who stops a server before starting another one in its place.
        if port in self._servers:
            self._servers.pop(port).close()
        stack = self._servers[port] = ExitStack()
        server = stack.enter_context(
            serve_command(words, env=command.env, cwd=self._folder, ready="/healthz")
        )
        self.ports[port] = port_of(server)


def port_of(server: Server) -> int:
    """Where it listens."""
    return int(server.url.rpartition(":")[2])


def _compiled(block: Block, edit: Callable[[str], str] = str) -> list[CodeType]:
    # With the lines of the page, so that a traceback points into it.
    sources = [block.notes.get("setup", ""), "\n" * block.line + block.code]
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return [
        compile(edit(source), block.page, "exec", flags=flags, dont_inherit=True)
        for source in sources
        if source
    ]


def _check_syntax(block: Block) -> None:
    if block.language == "python":
        _compiled(block)
    elif block.language == "bash":
        subprocess.run(["bash", "-n", "-c", block.code], check=True, timeout=10)
    elif block.language == "json":
        json.loads(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    else:
        assert block.language in {"text", "toml", "http", "mermaid"}, (
            f"{block.language or 'a block without a language'}: say what it is (tests/docs/page.py)"
        )
