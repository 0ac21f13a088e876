"""The program of the processes that run a request, or a test, with what a plan changes.

``python -m noukai_sdk.doctor.run_program`` reads orders from standard input, one in each line of JSON. It
runs each in a copy of this process, if the platform has ``fork``: then libraries are imported once for all
runs, and the user's code anew for each. It answers each line with one of its own.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from .source_reads import Plan, Sources

_PAUSE = 0.005


@dataclass
class Orders:
    """What a process is to run.

    Attributes:
        plan: What is changed.
        result: The file for the observation.
        output: The file for what the run prints.
        app: The app, as ``module:attribute``.
        cassette: The file with the session and its request.
        beside: A file of the project, to find the app; empty if there is none.
        headers, body: Of the request, in place of what was captured.
        live: Run the request through the service, and change nothing.
        pytest: The arguments of pytest, in place of an app.
        timeout: How many seconds the run may take.
        modules: The modules that are imported once for all runs.
    """

    plan: Plan
    result: str = ""
    output: str = ""
    app: str = ""
    cassette: str = ""
    beside: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str | None = None
    live: bool = False
    pytest: list[str] = field(default_factory=list)
    timeout: float = 60.0
    modules: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        """Return the orders as JSON, in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Orders:
        """Read what :meth:`as_json` has written."""
        value = json.loads(text)
        headers = [(name, each) for name, each in value["headers"]]
        return cls(**{**value, "plan": Plan(**value["plan"]), "headers": headers})


def main() -> None:
    """Run the orders that come from standard input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sources = Sources()
    is_controlled = False
    for line in sys.stdin:
        orders = Orders.from_json(line)
        if not is_controlled:
            # Before any library is imported: it may take a function as it is then.
            control(sources, changes=not orders.live)
            is_controlled = True
            for name in orders.modules:
                _preload(name)
        answers.write(json.dumps({"problem": _run_apart(orders, sources)}) + "\n")
        answers.flush()


def _run_apart(orders: Orders, sources: Sources) -> str | None:
    """Run orders in a copy of this process; return what went wrong, None if nothing did."""
    if not hasattr(os, "fork"):
        return _run(orders, sources)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = 0 if _run(orders, sources) is None else 1
        finally:
            # What the app has left running, such as threads, must not keep the process.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    last = time.perf_counter() + orders.timeout
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return None if code == 0 else f"a run ended with code {code}"
        if time.perf_counter() > last:
            os.kill(process, 9)
            os.waitpid(process, 0)
            return f"a run did not end within {orders.timeout:g} seconds"
        time.sleep(_PAUSE)


def _run(orders: Orders, sources: Sources) -> str | None:
    """Run orders in this process; return what went wrong, None if nothing did."""
    with Path(orders.output).open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if orders.plan.zone is not None and hasattr(time, "tzset"):
        os.environ["TZ"] = orders.plan.zone
        time.tzset()
    sources.begin(orders.plan)
    try:
        run = run_tests if orders.pytest else run_request
        observation = {**run(orders, sources), "reads": sources.as_list()}
        observation["modules"] = _library_modules()
        Path(orders.result).write_text(json.dumps(observation, default=str), "utf-8")
    except BaseException:  # noqa: BLE001  # an app may end the process: SystemExit
        traceback.print_exc()
        return "a run ended without a result"
    return None


def control(sources: Sources, *, changes: bool) -> None:
    """Take the sources of this process over."""
    from .chance import control_random, control_uuids
    from .clock import control_clock
    from .completion import note_completions
    from .instrumented_code import instrument_code
    from .set_order import SetOrder
    from .surroundings import control_surroundings

    instrument_code(SetOrder(sources).helpers())
    note_completions(sources)
    if changes:
        control_surroundings(sources)
        control_uuids(sources)
        control_random(sources)
        control_clock(sources)


def _preload(name: str) -> None:
    try:
        import_module(name)
    except BaseException:  # noqa: BLE001  # it was imported in another order, and is again by the app
        sys.modules.pop(name, None)


def _library_modules() -> list[str]:
    """Return the modules of this process that are not the user's, in the order of their imports."""
    from .sites import owner_of

    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and name != "__main__" and owner_of(file) != "user":
            found.append(name)
    return found


def run_request(orders: Orders, sources: Sources) -> Mapping[str, Any]:
    """Send the captured request through the app, and return what came out."""
    from .request_run import run_request as run

    return run(orders, sources)


def run_tests(orders: Orders, sources: Sources) -> Mapping[str, Any]:
    """Run a test, and return what came out."""
    from .pytest_run import run_test

    return run_test(orders, sources)


if __name__ == "__main__":
    main()
