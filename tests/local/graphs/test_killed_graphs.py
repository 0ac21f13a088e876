"""Random graphs in processes that are killed at random moments, and resumed in new ones.

``make graphs`` runs many more of them than ``make test``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import ROOT, wait_until

from .building import World
from .graph import Case, case_of
from .reference import Reference

BATCHES = int(os.environ.get("KILLED_GRAPHS", "20")) // 20
LIVES = 5
"""How many processes work on a batch of twenty graphs, at most: all but the last are killed."""


@pytest.mark.parametrize("batch", range(BATCHES))
def test_killed_graphs_are_resumed_and_agree(batch: int, tmp_path: Path) -> None:
    rng = random.Random(batch)
    cases = [case_of(seed).mended() for seed in range(20 * batch, 20 * batch + 20)]
    kept: dict[int, set[str]] = {case.seed: set() for case in cases}
    calls = {case.seed: World() for case in cases}
    for life in range(LIVES):
        size = rng.randint(1, 2_500) if life < LIVES - 1 else None
        run_until(size, [case.seed for case in cases], tmp_path)
        for case in cases:
            before, world = calls[case.seed], World(tmp_path / f"{case.seed}.calls")
            repeated = world.calls - before.calls
            paths = [path_of(case, where) for where in repeated if "/" in where]
            assert not [path for path in paths if is_kept(path, kept[case.seed])], case.seed
            calls[case.seed] = world
            kept[case.seed] = kept_parts(tmp_path / "runs.db", case.seed)
    for case in cases:
        check(case, json.loads((tmp_path / f"{case.seed}.json").read_text()), calls[case.seed])


def run_until(size: int | None, seeds: list[int], folder: Path) -> None:
    """Run a process, and kill it when its calls have written so many bytes; None to wait for its end."""
    command = [sys.executable, "-m", "tests.local.graphs.durable"]
    command += [",".join(map(str, seeds)), str(folder)]

    def written() -> int:
        return sum(file.stat().st_size for file in folder.glob("*.calls"))

    start = written()
    with (
        (folder / "log").open("a") as log,
        subprocess.Popen(command, cwd=ROOT, stderr=log) as process,
    ):
        # If the process hangs, it says where, and ends.
        wait_until(
            lambda: process.poll() is not None or (size and written() - start >= size), deadline=100
        )
        process.kill()
    assert process.returncode in (0, -signal.SIGKILL), (folder / "log").read_text()[-5_000:]


def path_of(case: Case, where: str) -> str:
    """Return where in the run a function stands, as the store names it."""
    kinds = {step.id: step.kind for _, step in case.graph.all_steps()}
    names = []
    parts = re.findall(r"@(\d+)/([^@.]+)(?:\.(\d+))?", where)
    for (_, step_id, item), inner in zip(parts, [*parts[1:], None], strict=True):
        name = step_id + (f"[{item}]" if item else "")
        if inner is not None and kinds[step_id] == "repeat":
            name += f"[{int(inner[0]) - 1}]"
        names.append(name)
    return "/".join(names)


def kept_parts(store: Path, seed: int) -> set[str]:
    """Return what the store has of a run: nodes, items and rounds."""
    if not store.exists():
        return set()
    select = "SELECT path, name FROM parts JOIN runs ON run = number WHERE id = ?"
    with closing(sqlite3.connect(store)) as connection:
        try:
            rows = connection.execute(select, (f"run {seed}",)).fetchall()
        except sqlite3.OperationalError:  # killed before it made the tables
            return set()
    kept = [(path, name) for path, name in rows if not path.startswith("#")]
    return {
        f"{path}[{name}]" if name.isdigit() else f"{path}/{name}".lstrip("/") for path, name in kept
    }


def is_kept(path: str, kept: set[str]) -> bool:
    """Return whether the part itself is kept, or one that it belongs to."""
    return not kept.isdisjoint([path, *(path[: m.start()] for m in re.finditer(r"[/[]", path))])


def check(case: Case, values: dict[str, Any], world: World) -> None:
    where = f"seed {case.seed}"
    reference = Reference(case)
    expected = asyncio.run(reference.run())
    outputs = {name.removeprefix("The "): value for name, value in values["outputs"].items()}
    skipped = {name.removeprefix("The ") for name in values["skipped"]}
    if expected.failed:
        assert values["errors"], where
        assert outputs.items() <= expected.outputs.items(), where
        return
    assert values["errors"] == [], where
    assert outputs == expected.outputs, where
    assert skipped == expected.skipped, where
    assert values["result"] == expected.result, where
    # An agent that is killed between its rounds asks its model again.
    is_asked_again = case.tools and values["tokens"] > reference.tokens
    assert values["tokens"] == reference.tokens or is_asked_again, where
    assert not reference.calls - world.calls, where
    assert max(world.done.values(), default=0) <= LIVES, where
