"""The flow engine beside GraphBit, LangGraph and the bare HTTP client: python -m benchmarks.engine.

GraphBit and LangGraph are measured where they are installed: pip install graphbit==0.6.8 langgraph.
"""

from __future__ import annotations

from benchmarks.engine.compared import Compared, measured_rows
from benchmarks.measure import Row

__all__ = ["Compared", "run"]


def run() -> list[Row]:
    """As the other benchmarks: ours, then the same on the other engines, which have no limit."""
    return [row for compared in measured_rows() for row in compared.as_rows()]
