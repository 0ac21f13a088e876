"""A circuit breaker: after too many failed calls in a row, calls fail at once for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from .errors import LlmCircuitOpenError

CircuitState = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Count failed calls, not the attempts inside them. Safe to use from many threads.

    Args:
        threshold: Failed calls in a row that open the circuit; 0 for never.
        cooldown: Seconds until one call is let through to try the provider again.
        clock: A monotonic clock, in seconds.

    Example:
        >>> breaker = CircuitBreaker(threshold=1, cooldown=30)
        >>> breaker.admit()
        >>> breaker.record_failure()
        >>> breaker.state
        'open'
    """

    def __init__(
        self, threshold: int, cooldown: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._cooldown = cooldown
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._trial = False

    @property
    def state(self) -> CircuitState:
        """``"closed"``: calls pass; ``"open"``: calls fail; ``"half_open"``: the next call may try."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "open" if self._seconds_left(self._opened_at) > 0 else "half_open"

    def admit(self) -> None:
        """Ask before a call. After it, call one of the ``record_...`` methods.

        Raises:
            LlmCircuitOpenError: The call must not be made now.
        """
        with self._lock:
            if self._opened_at is None:
                return
            seconds = self._seconds_left(self._opened_at)
            if seconds > 0 or self._trial:
                raise LlmCircuitOpenError(
                    f"{self._failures} calls in a row failed: not trying the provider again for "
                    f"{seconds:.1f} s",
                    retry_after=seconds,
                )
            self._trial = True

    def record_success(self) -> None:
        """Record that the provider responded, even if it rejected the request."""
        with self._lock:
            self._failures = 0
            self._opened_at = None
            self._trial = False

    def record_failure(self) -> None:
        """Record that the provider failed or could not be reached, in spite of retries."""
        with self._lock:
            self._failures += 1
            self._trial = False
            if self._threshold and self._failures >= self._threshold:
                self._opened_at = self._clock()

    def record_cancellation(self) -> None:
        """Record that the caller cancelled the call, which says nothing about the provider."""
        with self._lock:
            self._trial = False

    def _seconds_left(self, opened_at: float) -> float:
        return max(opened_at + self._cooldown - self._clock(), 0.0)
