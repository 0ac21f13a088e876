"""The table of benchmarks, its exit code, and the walks through the package."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as table
from benchmarks import bench_walks
from benchmarks.measure import Row, best_of_each
from noukai_sdk.session import lost_scope
from tests.support.servers import ROOT


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (Row("shown", 5.0, None, "µs"), True),
        (Row("at most", 1.0, 1.0, "times"), True),
        (Row("at most", 1.1, 1.0, "times"), False),
        (Row("at least", 3.0, 3.0, "times", True), True),
        (Row("at least", 2.9, 3.0, "times", True), False),
    ],
)
def test_row_beyond_limit_is_missed(row: Row, holds: bool) -> None:
    assert row.holds is holds
    assert ("MISSED" in table.line(row)) is not holds
    assert row.name in table.line(row)


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (2.0, 1)])
def test_benchmark_exit_code_is_one_if_limit_is_missed(
    value: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def import_module(name: str) -> Any:
        assert name == "benchmarks.bench_client"
        return SimpleNamespace(run=lambda: [Row("speed", value, 1.25, "times")])

    monkeypatch.setattr(table.importlib, "import_module", import_module)
    assert table.main(["client"]) == code
    assert "speed" in capsys.readouterr().out


def test_each_benchmark_runs_in_its_process_and_those_with_missed_limits_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        ran.append(command[-1])
        return SimpleNamespace(returncode=1 if command[-1] == "client" else 0)

    monkeypatch.setattr(table.subprocess, "run", run)
    assert table.main([]) == 1
    assert {"client", "import", "engine"} <= set(ran)
    assert "limits missed in: client" in capsys.readouterr().out
    assert table.main(["import", "engine"]) == 0
    assert ran[-2:] == ["import", "engine"]


def test_best_of_each_runs_each_function_in_turn() -> None:
    order: list[str] = []
    best = best_of_each({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert all(0 <= value < 60 for value in best.values())


def test_walks_hold_their_limits_and_are_as_contributing_describes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    # Set by other tests in this process: calls outside of requests are looked at where apps are served.
    monkeypatch.setattr(lost_scope.requests, "served", False)
    walks = bench_walks.walks()
    counts = {name: bench_walks.changes(entries) for name, entries in walks.items()}
    assert {name: n for name, n in counts.items() if n > bench_walks.LIMITS[name]} == {}

    sections = (ROOT / "CONTRIBUTING.md").read_text().split("\n### ")
    described = {
        section.partition("\n")[0].lower(): re.findall(r"`([\w/]+\.py)` `(\w+)`", section)
        for section in sections
    }
    for name, title in [
        ("execute", "execute live"),
        ("execute in a replay", "execute in a replay"),
        ("captured FastAPI request", "a captured fastapi request"),
    ]:
        assert len(described[title]) > 9
        entries = iter(walks[name])
        assert [step for step in described[title] if step not in entries] == [], name
