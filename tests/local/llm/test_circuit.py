"""The circuit breaker, with the test's own clock."""

from __future__ import annotations

import pytest

from noukai_sdk.local.llm.circuit import CircuitBreaker
from noukai_sdk.local.llm.errors import LlmCircuitOpenError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.admit()
        breaker.record_failure()


def test_circuit_opens_after_failures_in_a_row_and_reports_the_wait() -> None:
    clock = Clock()
    breaker = CircuitBreaker(2, 30, clock)
    for _ in range(5):
        fail(breaker)
        breaker.admit()
        breaker.record_success()
    assert breaker.state == "closed"
    fail(breaker, 2)
    clock.now += 10
    with pytest.raises(LlmCircuitOpenError, match=r"2 calls in a row .* for 20\.0 s") as caught:
        breaker.admit()
    assert (breaker.state, caught.value.retry_after) == ("open", 20)
    assert caught.value.is_retryable


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("success", "closed"), ("failure", "open"), ("cancellation", "half_open")],
)
def test_circuit_after_cooldown_lets_one_trial_decide(outcome: str, state: str) -> None:
    clock = Clock()
    breaker = CircuitBreaker(2, 30, clock)
    fail(breaker, 2)
    clock.now += 30
    assert breaker.state == "half_open"
    breaker.admit()
    with pytest.raises(LlmCircuitOpenError):
        breaker.admit()
    getattr(breaker, f"record_{outcome}")()
    assert breaker.state == state
    clock.now += 30
    breaker.admit()


def test_circuit_with_threshold_zero_never_opens() -> None:
    breaker = CircuitBreaker(0, 30)
    fail(breaker, 100)
    assert breaker.state == "closed"
