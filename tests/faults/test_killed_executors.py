"""Runs of ``Executor(store=...)`` whose process is killed, interrupted, or has no room on its disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from noukai_sdk.local import Executor, Node, RunExistsError, RunInProgressError
from tests.support.durable_run import INPUTS, ITEMS, RUN_ID, durable_calls, durable_workflow
from tests.support.engine import workflow_of
from tests.support.postgres import PostgresServer
from tests.support.servers import ROOT, wait_until

RUNS = 20 if "FAULTS" in os.environ else 1


def start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.durable_run", str(folder)],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls_of(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().split("\n")[:-1] if file.exists() else []


def wait_for_calls(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait_until(
        lambda: len(calls_of(folder)) >= count or process.poll() is not None,
        deadline=60,
        what=f"{count} calls",
    )


@pytest.mark.parametrize("seed", range(RUNS))
def test_killed_run_goes_on_and_repeats_nothing_that_was_durable(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    (tmp_path / "go").touch()
    durable: set[str] = set()
    for _ in range(3):
        before = len(calls_of(tmp_path))
        process = start(tmp_path)
        wait_for_calls(tmp_path, before + chosen.randint(1, 15), process)
        process.kill()
        process.communicate()
        calls = calls_of(tmp_path)
        assert durable.isdisjoint(calls[before:])
        durable = durable_calls(calls)
    before = len(calls_of(tmp_path))
    # Two at once: one of them runs the run. The other is refused, or is given the result afterwards.
    outcomes = []
    for process in [start(tmp_path), start(tmp_path)]:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 or "RunInProgressError" in errors, errors
        outcomes.append(json.loads(output) if process.returncode == 0 else None)
    assert ["completed", []] in outcomes
    calls = calls_of(tmp_path)
    assert durable.isdisjoint(calls[before:])
    # At most two items were under way at each kill.
    counts = Counter(calls)
    assert sum(counts.values()) - len(counts) <= 3 * 2
    assert len(counts) == 3 + 4 * len(ITEMS) + 1
    executor = Executor(store=tmp_path / "runs.db")
    result = executor.resume(durable_workflow(tmp_path), RUN_ID)
    assert result.get_node_output("flows") == ITEMS
    assert calls_of(tmp_path) == calls
    executor.close()


def test_interrupted_run_is_free_and_a_running_one_is_not(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for_calls(tmp_path, 3 + 4 * len(ITEMS) + 1, process)
    calls = calls_of(tmp_path)
    executor, workflow = Executor(store=tmp_path / "runs.db"), durable_workflow(tmp_path)
    assert executor.runs()[0].state == "running"
    with pytest.raises(RunInProgressError, match="under way"):
        executor.resume(workflow, RUN_ID)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert executor.runs()[0].state == "interrupted"
    (tmp_path / "go").touch()
    assert executor.resume(workflow, RUN_ID).is_success()
    assert calls_of(tmp_path) == [*calls, "wait "]
    executor.close()


def test_full_disk_fails_the_run_which_goes_on_when_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    process = start(tmp_path, LARGEST_FILE="150000")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output) == ["failed", ["RUN_STORE_FAILED"]]
    calls = calls_of(tmp_path)
    executor = Executor(store=tmp_path / "runs.db")
    result = executor.resume(durable_workflow(tmp_path), RUN_ID)
    assert result.is_success()
    assert result.inputs == INPUTS
    assert durable_calls(calls).isdisjoint(calls_of(tmp_path)[len(calls) :])
    executor.close()


def test_runs_in_postgres_have_one_owner_who_is_lost_with_the_connection(
    postgres: PostgresServer,
) -> None:
    url = postgres.new_database().render_as_string(hide_password=False)
    started, go, calls = threading.Event(), threading.Event(), list[str]()

    def work(name: str) -> str:
        calls.append(name)
        started.set()
        go.wait(60)
        return name

    workflow = workflow_of(
        Node.function("first", lambda: calls.append("first") or "one"),
        Node.function("second", work),
        edges="first>second",
    )
    one, other = Executor(store=url), Executor(store=url)
    with ThreadPoolExecutor() as pool:
        run = pool.submit(one.execute, workflow, run_id="run")
        assert started.wait(60)
        assert [info.state for info in other.runs()] == ["running"]
        with pytest.raises(RunInProgressError):
            other.resume(workflow, "run")
        with pytest.raises(RunExistsError):
            other.execute(workflow, run_id="run")
        # The connection of the first one breaks: the run has no owner, and its writes are refused.
        with psycopg.connect(url.replace("+asyncpg", ""), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            )
        wait_until(lambda: other.runs()[0].state == "interrupted")
        go.set()
        assert run.result(60).errors[0].code == "RUN_STORE_FAILED"
    result = other.resume(workflow, "run")
    assert (result.result, result.get_node_output("first")) == ("one", "one")
    assert calls == ["first", "one", "one"]
    assert one.resume(workflow, "run").result == "one"
    assert [info.state for info in one.runs()] == ["completed"]
    one.close()
    other.close()
