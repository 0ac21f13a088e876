"""Counters over the runs of one executor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .result import WorkflowResult
from .usage import total_cost

Count = Callable[[WorkflowResult], WorkflowResult]


@dataclass
class RunStats:
    """Counts runs, from any thread."""

    successful: int = 0
    failed: int = 0
    duration_ms: float = 0.0
    tokens: int = 0
    cost_usd: str | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def counted(self) -> Iterator[Count]:
        """Count one run: give its result to the function that this yields."""
        results: list[WorkflowResult] = []

        def count(result: WorkflowResult) -> WorkflowResult:
            results.append(result)
            return result

        started = time.perf_counter()
        try:
            yield count
        finally:
            self._add(results[0] if results else None, time.perf_counter() - started)

    def _add(self, result: WorkflowResult | None, seconds: float) -> None:
        """None for a run that was cancelled."""
        with self._lock:
            self.duration_ms += seconds * 1000
            if result is None or result.is_failed():
                self.failed += 1
            else:
                self.successful += 1
            if result is not None:
                self.tokens += (result.tokens.total or 0) if result.tokens else 0
                costs = [cost for cost in (self.cost_usd, result.cost_usd) if cost is not None]
                self.cost_usd = total_cost(costs)

    def told(self) -> dict[str, Any]:
        """As ``get_stats`` gives it."""
        with self._lock:
            total = self.successful + self.failed
            return {
                "total_executions": total,
                "successful_executions": self.successful,
                "failed_executions": self.failed,
                "success_rate": self.successful / total if total else 0.0,
                "total_duration_ms": self.duration_ms,
                "average_duration_ms": self.duration_ms / total if total else 0.0,
                "total_tokens": self.tokens,
                "total_cost_usd": self.cost_usd,
            }
