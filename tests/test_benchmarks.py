"""The table of measurements: its verdicts, and the exit code that stands for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as table
from benchmarks.measure import Row, best_of_each


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
def test_a_limit(row: Row, holds: bool) -> None:
    assert row.holds is holds
    assert ("MISSED" in table.line(row)) is not holds
    assert row.name in table.line(row)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Row]]:
    """What each module measures: fill it in."""
    rows: dict[str, list[Row]] = {}

    def module(name: str) -> Any:
        found = rows.get(name.removeprefix("benchmarks.").removeprefix("bench_"), [])
        return SimpleNamespace(run=lambda: found)

    monkeypatch.setattr(table.importlib, "import_module", module)
    return rows


def test_all_limits_held(
    measured: dict[str, list[Row]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured["client"] = [Row("fast enough", 1.0, 1.25, "times")]
    assert table.main([]) == 0
    shown = capsys.readouterr().out
    assert "bench_import" in shown
    assert "fast enough" in shown
    assert "all limits held" in shown


def test_a_limit_is_missed(
    measured: dict[str, list[Row]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured["client"] = [Row("too slow", 2.0, 1.25, "times")]
    assert table.main(["client"]) == 1
    shown = capsys.readouterr().out
    assert "bench_import" not in shown
    assert "1 limits missed" in shown


def test_the_fastest_of_each() -> None:
    counts = {"a": 0, "b": 0}

    def count(name: str) -> None:
        counts[name] += 1

    best = best_of_each({"a": lambda: count("a"), "b": lambda: count("b")}, 3)
    assert counts == {"a": 3, "b": 3}
    assert all(0 <= value < 60 for value in best.values())
