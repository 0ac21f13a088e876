"""Run the blocks of a page in order, in one folder, with the servers that the page starts."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import CodeType
from typing import Any
from unittest.mock import patch

import yaml

from tests.docs.blocks import Block
from tests.docs.shell import Command, check, commands_of, listening
from tests.support.servers import ROOT, Server, serve_command

_ADDRESS = re.compile(r"\b(?:localhost|127\.0\.0\.1):(\d+)")
_SHELL = """\
set -euo pipefail
[ -f {state} ] && source {state}
{script}
declare -p | grep -E '^declare -- [A-Za-z]' > {state} || true
"""


class Page:
    """The state that the blocks of one page share: files, namespace, variables, servers.

    Args:
        folder: The working directory of the blocks. Files of the page are written here.

    Attributes:
        ports: Maps a port in the text to the real port of the server.
    """

    def __init__(self, folder: Path) -> None:
        self.ports: dict[int, int] = {}
        self._folder = folder
        self._servers: dict[int, ExitStack] = {}
        self._namespace: dict[str, Any] = {}
        self._variables: dict[str, str] = {}
        self._printed = ""

    def close(self) -> None:
        """Stop the page's servers."""
        for server in self._servers.values():
            server.close()

    def run(self, block: Block) -> None:
        """Run, write, compare or check a block, as its notes and language say."""
        notes = block.notes
        if "file" in notes:
            self._write(notes["file"], block)
        elif "output" in notes:
            self._compare(block)
        elif "not-run" in notes:
            assert notes["not-run"], "give the reason why this block is not run"
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
        printed = re.sub(" +$", "", self._printed.strip(), flags=re.MULTILINE)
        pattern = re.escape(block.code.strip()).replace(r"\.\.\.", ".*")
        assert re.fullmatch(pattern, printed, re.DOTALL), (
            f"the block before it printed:\n{self._printed}"
        )

    def _python(self, block: Block) -> None:
        if "continues" not in block.notes:
            self._namespace = {"__name__": "__main__"}
        printed = io.StringIO()
        expected = block.notes.get("raises")
        with redirect_stdout(printed), patch.dict(os.environ, self._environment()):
            for code in _compiled(block, self._with_real_ports):
                self._execute(code, expected)
        self._printed = printed.getvalue()

    def _execute(self, code: CodeType, expected: str | None) -> None:
        try:
            exec(code, self._namespace)
        except Exception as error:  # any error, compared by its name
            if type(error).__name__ != expected:
                raise
        else:
            assert expected is None, f"this block should have ended in {expected}"

    def _bash(self, block: Block) -> None:
        script: list[str] = []
        self._printed = ""
        for command in commands_of(block.code):
            if command.exports:
                self._variables |= command.exports
            elif command.runs:
                script.append(command.text)
            else:
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
        text = self._with_real_ports("\n".join(script))
        wrapped = _SHELL.format(state=self._folder / ".shell", script=text)
        done = subprocess.run(
            ["bash", "-c", wrapped],
            cwd=self._folder,
            env={**os.environ, **self._environment()},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self._printed += done.stdout

    def _environment(self) -> dict[str, str]:
        """Return the variables that the page has exported. A restarted server has a new port."""
        return {name: self._with_real_ports(value) for name, value in self._variables.items()}

    def _with_real_ports(self, text: str) -> str:
        return _ADDRESS.sub(lambda m: f"127.0.0.1:{self.ports.get(int(m[1]), m[1])}", text)

    def _serve(self, command: Command) -> None:
        port, words = listening(command)
        # Readers stop a server before they start another one on its port.
        if port in self._servers:
            self._servers.pop(port).close()
        stack = self._servers[port] = ExitStack()
        server = stack.enter_context(
            serve_command(
                words,
                env={**self._environment(), **command.env},
                cwd=self._folder,
                ready="/healthz",
            )
        )
        self.ports[port] = port_of(server)


def port_of(server: Server) -> int:
    """Return the port that the server listens on."""
    return int(server.url.rpartition(":")[2])


def _compiled(block: Block, edit: Callable[[str], str] = str, flags: int = 0) -> list[CodeType]:
    # Line numbers are those of the page, so that a traceback points into it.
    sources = [block.notes.get("setup", ""), "\n" * block.line + block.code]
    return [
        compile(edit(source), block.page, "exec", flags, dont_inherit=True)
        for source in sources
        if source
    ]


def _check_syntax(block: Block) -> None:
    if block.language == "python":
        _compiled(block, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)  # for notebooks
    elif block.language == "bash":
        subprocess.run(["bash", "-n", "-c", block.code], check=True, timeout=10)
    elif block.language == "json":
        json.loads(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    else:
        assert block.language in {"text", "toml", "http", "mermaid"}, (
            f"{block.language or 'no language'}: this kind of block is unknown (tests/docs/page.py)"
        )
