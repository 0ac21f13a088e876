"""Run all measurements and print one table: ``python -m benchmarks [NAME ...]``.

``bench_NAME.py`` files and folders are the benchmarks. The exit code is 1 if a limit is missed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.measure import Row

HERE = Path(__file__).parent


def main(wanted: list[str]) -> int:
    names = [path.stem for path in sorted(HERE.glob("bench_*.py"))]
    names += [path.parent.name for path in sorted(HERE.glob("*/__init__.py"))]
    missed = 0
    for name in names:
        if wanted and name.removeprefix("bench_") not in wanted:
            continue
        print(f"\n{name}", flush=True)
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(line(row), flush=True)
            missed += not row.holds
    print(f"\n{missed} limits missed" if missed else "\nall limits held")
    return 1 if missed else 0


def line(row: Row) -> str:
    """Format one row of the table."""
    if row.limit is None:
        judged = ""
    else:
        bound = "at least" if row.at_least else "at most"
        judged = f"{bound} {row.limit:<8g} {'ok' if row.holds else 'MISSED'}"
    return f"  {row.name:60} {row.value:10.2f} {row.unit:9} {judged}".rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
