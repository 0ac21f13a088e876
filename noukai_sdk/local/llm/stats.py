"""What a client has done so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from ...models.events import Tokens
from .circuit import CircuitState
from .prices import decimal_text


class LlmStats(TypedDict):
    """Counts since the client was made or ``reset_stats`` was called.

    Attributes:
        total_requests: Calls that have ended, streams and each prompt of a batch included; retries
            inside a call are not counted.
        cancelled_requests: Calls that the caller gave up, early-closed streams included.
        rejected_requests: Calls that the open circuit did not let through.
        average_latency_ms: Mean time of the successful calls in milliseconds, None without any.
        total_cost_usd: Sum of the known costs in US dollars, a decimal string.
        unpriced_requests: Successful calls whose cost is not known and not in that sum.
        circuit_state: ``"closed"``, ``"open"`` or ``"half_open"``.
    """

    total_requests: int
    successful_requests: int
    failed_requests: int
    cancelled_requests: int
    rejected_requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    average_latency_ms: float | None
    total_cost_usd: str
    unpriced_requests: int
    circuit_state: CircuitState


@dataclass
class _Counts:
    successful: int = 0
    failed: int = 0
    cancelled: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float = 0.0
    cost: Decimal = Decimal(0)
    unpriced: int = 0


class StatsCounter:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = _Counts()

    def reset(self) -> None:
        """Begin again at zero."""
        with self._lock:
            self._counts = _Counts()

    def succeeded(self, tokens: Tokens | None, cost: str | None, latency_ms: float) -> None:
        """Count a call that ended well."""
        with self._lock:
            counts = self._counts
            counts.successful += 1
            counts.latency_ms += latency_ms
            counts.cost += Decimal(cost or 0)
            counts.unpriced += cost is None
            if tokens is not None:
                counts.prompt_tokens += tokens.prompt or 0
                counts.completion_tokens += tokens.completion or 0

    def failed(self) -> None:
        """Count a call that ended with an error."""
        with self._lock:
            self._counts.failed += 1

    def cancelled(self) -> None:
        """Count a call that the caller gave up."""
        with self._lock:
            self._counts.cancelled += 1

    def rejected(self) -> None:
        """Count a call that was not made."""
        with self._lock:
            self._counts.rejected += 1

    def snapshot(self, circuit_state: CircuitState) -> LlmStats:
        """The counts as they are now."""
        with self._lock:
            counts = self._counts
            mean = counts.latency_ms / counts.successful if counts.successful else None
            return {
                "total_requests": counts.successful + counts.failed + counts.cancelled,
                "successful_requests": counts.successful,
                "failed_requests": counts.failed,
                "cancelled_requests": counts.cancelled,
                "rejected_requests": counts.rejected,
                "prompt_tokens": counts.prompt_tokens,
                "completion_tokens": counts.completion_tokens,
                "total_tokens": counts.prompt_tokens + counts.completion_tokens,
                "average_latency_ms": mean,
                "total_cost_usd": decimal_text(counts.cost),
                "unpriced_requests": counts.unpriced,
                "circuit_state": circuit_state,
            }
