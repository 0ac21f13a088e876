"""Processes of the service that take a fifth of the CPU to start: their imports are done already.

A process that has imported the service forks them (the "forkserver" of multiprocessing). Each has its own
arguments, environment, folder, output and signal handlers, as a process of ``python -m`` has.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_IMPORTED = ["noukai_sdk.cli.commands", "noukai_sdk.backend.app", "noukai_sdk.backend.jobs.worker"]


def is_possible(words: Sequence[str]) -> bool:
    """Return whether this command line runs the service, by ``python -m noukai_sdk.cli`` or ``python -c``.

    Coverage measures processes that Python starts afresh.
    """
    runs = words[1:3] == ["-m", "noukai_sdk.cli"] or (words[1] == "-c" and "noukai_sdk" in words[2])
    return words[0] == sys.executable and runs and "coverage" not in sys.modules


class WarmProcess:
    """A process with the methods of ``subprocess.Popen`` that tests use."""

    def __init__(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> None:
        self.args = words
        self._process = _context().Process(
            target=_run, args=(list(words[1:]), str(cwd), dict(env), str(log)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _run(words: list[str], cwd: str, env: dict[str, str], log: str) -> None:
    """Be the process of ``python -m MODULE ARGUMENTS`` or ``python -c CODE ARGUMENTS``."""
    with Path(log).open("ab") as output, Path(os.devnull).open("rb") as nothing:
        for number, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text file
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    kind, program, *arguments = words
    sys.argv = [kind, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: Any = 0
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(program, {"__name__": "__main__"})
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:  # noqa: BLE001 - as Python ends
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.exit(code)
