"""Prints the table; the exit code is 1 where a limit does not hold."""

from __future__ import annotations

import sys

from benchmarks.engine import graphbit_runs, langgraph_runs
from benchmarks.engine.compared import Compared, measured_rows

_LINE = "{:42} {:>12} {:>12} {:>9} {:>8} {:>4}  {}"


def main() -> int:
    for name, module in (("GraphBit", graphbit_runs), ("LangGraph", langgraph_runs)):
        if not module.runs():
            print(f"{name} is not installed: pip install graphbit==0.6.8 langgraph")
    print(_LINE.format("", "ours", "base", "ratio", "limit", "", "others"))
    rows = []
    for row in measured_rows():
        rows.append(row)
        print(_line(row), flush=True)
    return 0 if all(row.holds for row in rows) else 1


def _line(row: Compared) -> str:
    base = "" if row.base is None else f"{row.base:.3f}"
    ratio = "" if row.base is None else f"{row.judged:.2f}"
    limit = "" if row.limit is None else f"{row.limit:g}"
    verdict = "" if row.limit is None else ("ok" if row.holds else "NO")
    others = [_other(row, name, value) for name, value in row.others.items()]
    note = [f"base: {row.note}"] if row.note else []
    told = ", ".join([*note, *others])
    return _LINE.format(row.name, f"{row.ours:.3f} {row.unit}", base, ratio, limit, verdict, told)


def _other(row: Compared, name: str, value: float) -> str:
    times = "" if row.base is None else f" ({value / row.base:.2f} times)"
    return f"{name} {value:.3f}{times}"


if __name__ == "__main__":
    sys.exit(main())
