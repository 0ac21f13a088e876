"""Run all measurements and print one table: ``python -m benchmarks [NAME ...]``.

``bench_NAME.py`` files and folders are the benchmarks. Each runs in a process of its own, so that none is
measured with what another has imported. The exit code is 1 if a limit is missed.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Row

HERE = Path(__file__).parent


def main(wanted: list[str]) -> int:
    names = [path.stem.removeprefix("bench_") for path in sorted(HERE.glob("bench_*.py"))]
    names += [path.parent.name for path in sorted(HERE.glob("*/__init__.py"))]
    if len(wanted) == 1:
        return run(wanted[0])
    missed = [
        name
        for name in wanted or names
        if subprocess.run([sys.executable, "-m", "benchmarks", name], check=False).returncode
    ]
    print(f"\nlimits missed in: {', '.join(missed)}" if missed else "\nall limits held")
    return 1 if missed else 0


def run(name: str) -> int:
    """Run one benchmark in this process; return 1 if it misses a limit."""
    print(f"\n{name}", flush=True)
    module = f"bench_{name}" if (HERE / f"bench_{name}.py").exists() else name
    missed = 0
    for row in importlib.import_module(f"benchmarks.{module}").run():
        print(line(row), flush=True)
        missed += not row.holds
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
