"""What surrounds every call of a client: the circuit before it, the counts after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .chat import ChatDelta
from .circuit import CircuitBreaker
from .errors import LlmCircuitOpenError, LlmError
from .prices import cost_usd
from .response import LlmResponse
from .stats import LlmStats, StatsCounter


class Meter:
    """One per client. Safe to use from many threads."""

    def __init__(self, model: str, circuit: CircuitBreaker) -> None:
        self._model = model
        self._circuit = circuit
        self._stats = StatsCounter()

    def stats(self) -> LlmStats:
        """The counts as they are now."""
        return self._stats.snapshot(self._circuit.state)

    def reset(self) -> None:
        """Begin counting again; the circuit stays as it is."""
        self._stats.reset()

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Around one call.

        Raises:
            LlmCircuitOpenError: The call must not be made now.
        """
        try:
            self._circuit.admit()
        except LlmCircuitOpenError:
            self._stats.rejected()
            raise
        call = Call(self._model)
        try:
            yield call
        except LlmError as error:
            # A refusal, such as 400 or 401, shows that the provider is there.
            (self._circuit.failed if error.is_retryable else self._circuit.succeeded)()
            self._stats.failed()
            raise
        except BaseException:
            self._circuit.abandoned()
            self._stats.cancelled()
            raise
        self._circuit.succeeded()
        response = call.response
        self._stats.succeeded(response.tokens, response.cost_usd, response.latency_ms)


class Call:
    """One call under way."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = time.perf_counter()
        self.response = LlmResponse("", model)

    def ended(self, text: str, last: ChatDelta) -> LlmResponse:
        """Note the answer.

        Args:
            text: All of it.
            last: The piece that has the rest.
        """
        self.response = LlmResponse(
            text=text,
            model=self._model,
            tool_calls=last.tool_calls,
            tokens=last.usage,
            cost_usd=cost_usd(self._model, last.usage),
            latency_ms=(time.perf_counter() - self._started) * 1000,
            finish_reason=last.finish_reason,
        )
        return self.response
