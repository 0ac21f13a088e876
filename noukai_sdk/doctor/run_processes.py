"""Start the processes of an examination, several at once, and let them run plans."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from .observation import Observation
from .run_program import Orders
from .source_reads import Plan

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_MISSING = "the doctor needs time-machine: pip install time-machine"
_LAST_LINES = 12
_MOST_AT_ONCE = 4
# Beyond what a run may take: to start Python, and to import libraries.
_TO_START = 60.0


class Processes:
    """Runs plans in processes. Use it in a ``with`` block.

    Args:
        orders: What each process runs, but for the plan.
        on_run: Called after each run, with the number of runs.
        without: Variables of the environment that the processes do not get.

    Attributes:
        runs: How many runs there were.
    """

    def __init__(
        self,
        orders: Orders,
        on_run: Callable[[int], None] = lambda _: None,
        without: Sequence[str] = (),
    ) -> None:
        self._orders = orders
        self._on_run = on_run
        self._env = {name: value for name, value in os.environ.items() if name not in without}
        self.runs = 0
        self._at_once = max(1, min(_MOST_AT_ONCE, os.cpu_count() or 1))
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="noukai-doctor-")
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().stop()
        self._folder.cleanup()

    def run(self, plans: Sequence[Plan]) -> list[Observation]:
        """Run plans, and return what came out of each, in their order."""
        if find_spec("time_machine") is None:
            return [Observation(problem=_MISSING)] * len(plans)
        done: list[Observation] = []
        if not self._orders.modules:
            # The first run finds the libraries that all others share.
            first = self._run(plans[0])
            if first.problem is not None:
                return [first] * len(plans)
            self._orders = replace(self._orders, modules=first.modules)
            if not self._orders.live:
                # What libraries read when they are imported belongs to no run.
                first = self._run(plans[0])
            done, plans = [first], plans[1:]
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="noukai-doctor") as threads:
            return [*done, *threads.map(self._run, plans)]

    def _run(self, plan: Plan) -> Observation:
        with self._lock:
            folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        orders = replace(
            self._orders,
            plan=plan,
            result=str(folder / "result.json"),
            output=str(folder / "output.txt"),
        )
        process = self._take(plan) if orders.modules else self._start(plan)
        problem = process.run(orders, orders.timeout + _TO_START)
        # Without fork(), a process has the user's modules of its run.
        is_reusable = hasattr(os, "fork") and bool(orders.modules) and plan.hash_seed == 0
        if problem is None and is_reusable:
            self._idle.put(process)
        else:
            process.stop()
        with self._lock:
            self.runs += 1
        self._on_run(self.runs)
        result, output = Path(orders.result), Path(orders.output)
        if result.exists():
            return Observation.from_dict(json.loads(result.read_text("utf-8")))
        text = output.read_text("utf-8", "replace") if output.exists() else ""
        lines = text.rstrip().splitlines()[-_LAST_LINES:]
        return Observation(problem="\n".join([problem or "a run ended without a result", *lines]))

    def _take(self, plan: Plan) -> _Process:
        """Return a process that waits, or a new one. The seed of hashes is that of a whole process."""
        if plan.hash_seed == 0:
            with suppress(queue.Empty):
                return self._idle.get_nowait()
        return self._start(plan)

    def _start(self, plan: Plan) -> _Process:
        return _Process({**self._env, "PYTHONHASHSEED": str(plan.hash_seed)})


class _Process:
    """One process, which runs one plan after the other."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process: Any = subprocess.Popen(  # this Python, and a module of our own
            [sys.executable, "-m", "noukai_sdk.doctor.run_program"],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, orders: Orders, seconds: float) -> str | None:
        """Run orders; return what went wrong, None if nothing did."""
        watch = threading.Timer(seconds, self._process.kill)
        watch.start()
        try:
            self._process.stdin.write(orders.as_json() + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            watch.cancel()
        if answer:
            problem: str | None = json.loads(answer)["problem"]
            return problem
        self._process.kill()
        lines = self._process.stderr.read().rstrip().splitlines()[-_LAST_LINES:]
        return "\n".join(["the process of a run ended", *lines])

    def stop(self) -> None:
        """End the process, which runs nothing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(OSError):
                pipe.close()
