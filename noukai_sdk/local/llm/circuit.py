"""A circuit breaker: after too many failed calls in a row, calls fail at once for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from .errors import LlmCircuitOpenError

CircuitState = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Counts calls, not the attempts inside them. Safe to use from many threads.

    Args:
        threshold: How many calls in a row must fail; 0 switches it off.
        cooldown: Seconds until one call is let through to try the provider again.
        clock: Seconds that only go forward.

    Example:
        >>> breaker = CircuitBreaker(threshold=1, cooldown=30)
        >>> breaker.admit()
        >>> breaker.failed()
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
        """``"closed"``: calls pass; ``"open"``: none does; ``"half_open"``: the next one may try."""
        with self._lock:
            wait = self._wait()
        if wait is None:
            return "closed"
        return "open" if wait > 0 else "half_open"

    def admit(self) -> None:
        """Ask before a call; say :meth:`succeeded`, :meth:`failed` or :meth:`abandoned` after it.

        Raises:
            LlmCircuitOpenError: The call must not be made now.
        """
        with self._lock:
            wait = self._wait()
            if wait is None:
                return
            if wait > 0 or self._trial:
                raise LlmCircuitOpenError(
                    f"{self._failures} calls in a row failed: not trying the provider again for "
                    f"{wait:.1f} s",
                    retry_after=wait,
                )
            self._trial = True

    def succeeded(self) -> None:
        """The provider answered, be it with a refusal."""
        with self._lock:
            self._failures = 0
            self._opened_at = None
            self._trial = False

    def failed(self) -> None:
        """The provider failed or could not be reached, retries included."""
        with self._lock:
            self._failures += 1
            self._trial = False
            if self._threshold and self._failures >= self._threshold:
                self._opened_at = self._clock()

    def abandoned(self) -> None:
        """The caller gave up: this says nothing about the provider."""
        with self._lock:
            self._trial = False

    def _wait(self) -> float | None:
        """Seconds until a call may try; None where the circuit is closed."""
        if self._opened_at is None:
            return None
        return max(self._opened_at + self._cooldown - self._clock(), 0.0)
