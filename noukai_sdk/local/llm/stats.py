"""Measure the calls of one client: counts, tokens, cost and latency, and the circuit breaker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TypedDict

from .chat import ChatDelta
from .circuit import CircuitBreaker, CircuitState
from .errors import LlmCircuitOpenError, LlmError, LlmRateLimitError
from .prices import cost_usd, decimal_text
from .response import LlmResponse

logger = logging.getLogger("noukai_sdk.local.llm")


class LlmStats(TypedDict):
    """Counts since the client was created or ``reset_stats`` was called.

    Attributes:
        total_requests: Calls that have ended, including streams and each prompt of a batch; retries
            inside a call are not counted.
        cancelled_requests: Calls that the caller cancelled, including streams closed early.
        rejected_requests: Calls that the open circuit did not let through.
        average_latency_ms: Mean time of the successful calls in milliseconds, None without any.
        cached_tokens: The part of ``prompt_tokens`` that providers have read from their caches.
        total_cost_usd: Sum of the known costs in US dollars, a decimal string.
        unpriced_requests: Successful calls whose cost is unknown and not in that sum.
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
    cached_tokens: int
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
    cached_tokens: int = 0
    latency_ms: float = 0.0
    cost: Decimal = Decimal(0)
    unpriced: int = 0


class CallMeter:
    """Wrap every call of a client. Safe to use from many threads.

    Args:
        model: The model's name, the key to its price.
        circuit: Asked before every call, and told how the call ended.
        debug: Log every call, without prompts and responses.
    """

    def __init__(self, model: str, circuit: CircuitBreaker, debug: bool = False) -> None:
        self._model = model
        self._circuit = circuit
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._debug = debug
        if debug:
            logger.setLevel(logging.DEBUG)

    @contextmanager
    def measure(self) -> Iterator[MeasuredCall]:
        """Make one call inside the block, and set its response.

        Raises:
            LlmCircuitOpenError: The call must not be made now.
        """
        try:
            self._circuit.admit()
        except LlmCircuitOpenError:
            with self._lock:
                self._counts.rejected += 1
            self._log("rejected by the open circuit")
            raise
        call = MeasuredCall(self._model)
        try:
            yield call
        except LlmError as error:
            # A rejected request, such as 400, 401 or 429, shows that the provider can be reached.
            if error.is_retryable and not isinstance(error, LlmRateLimitError):
                self._circuit.record_failure()
            else:
                self._circuit.record_success()
            with self._lock:
                self._counts.failed += 1
            self._log("failed after %.0f ms: %s", call.elapsed_ms, type(error).__name__)
            raise
        except BaseException:
            self._circuit.record_cancellation()
            with self._lock:
                self._counts.cancelled += 1
            self._log("cancelled after %.0f ms", call.elapsed_ms)
            raise
        self._circuit.record_success()
        response = call.response
        if self._debug:
            tokens = response.tokens.total if response.tokens else None
            self._log("completed after %.0f ms, %s tokens", response.latency_ms, tokens)
        with self._lock:
            counts = self._counts
            counts.successful += 1
            counts.latency_ms += response.latency_ms
            counts.cost += Decimal(response.cost_usd or 0)
            counts.unpriced += response.cost_usd is None
            if response.tokens is not None:
                counts.prompt_tokens += response.tokens.prompt or 0
                counts.completion_tokens += response.tokens.completion or 0
                counts.cached_tokens += response.tokens.cached or 0

    def _log(self, message: str, *values: object) -> None:
        if self._debug:
            logger.debug("%s: " + message, self._model, *values)

    def reset(self) -> None:
        """Set the counts to zero; the circuit keeps its state."""
        with self._lock:
            self._counts = _Counts()

    def snapshot(self) -> LlmStats:
        """Return the current counts."""
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
                "cached_tokens": counts.cached_tokens,
                "average_latency_ms": mean,
                "total_cost_usd": decimal_text(counts.cost),
                "unpriced_requests": counts.unpriced,
                "circuit_state": self._circuit.state,
            }


class MeasuredCall:
    """One call in progress."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = time.perf_counter()
        self.response = LlmResponse("", model)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the start."""
        return (time.perf_counter() - self._started) * 1000

    def finish(self, text: str, last: ChatDelta) -> LlmResponse:
        """Set and return the response.

        Args:
            text: The whole text.
            last: The last delta, which has everything else.
        """
        self.response = LlmResponse(
            text=text,
            model=self._model,
            tool_calls=last.tool_calls,
            tokens=last.usage,
            cost_usd=cost_usd(self._model, last.usage),
            latency_ms=self.elapsed_ms,
            finish_reason=last.finish_reason,
        )
        return self.response
