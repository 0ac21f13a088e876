"""The circuit breaker, with a clock of the test's own."""

from __future__ import annotations

import pytest

from noukai_sdk.local.llm.circuit import CircuitBreaker
from noukai_sdk.local.llm.errors import LlmCircuitOpenError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    """One that two failures have opened."""
    breaker = CircuitBreaker(2, 30, clock)
    fail(breaker)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"
    return breaker


def fail(breaker: CircuitBreaker) -> None:
    breaker.admit()
    breaker.failed()


def test_an_open_circuit_refuses_and_says_for_how_long(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    clock.now += 10
    with pytest.raises(
        LlmCircuitOpenError, match=r"2 calls in a row failed: .* for 20\.0 s"
    ) as caught:
        breaker.admit()
    assert caught.value.retry_after == 20
    assert caught.value.is_retryable


def test_only_failures_in_a_row_count(clock: Clock) -> None:
    breaker = CircuitBreaker(2, 30, clock)
    for _ in range(5):
        fail(breaker)
        breaker.admit()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_after_the_cooldown_one_call_tries(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 30
    assert breaker.state == "half_open"
    breaker.admit()
    with pytest.raises(LlmCircuitOpenError):
        breaker.admit()
    breaker.succeeded()
    breaker.admit()
    assert breaker.state == "closed"


def test_a_failed_trial_opens_it_again(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 30
    fail(breaker)
    assert breaker.state == "open"
    clock.now += 30
    breaker.admit()


def test_an_abandoned_trial_lets_the_next_one_try(breaker: CircuitBreaker, clock: Clock) -> None:
    clock.now += 30
    breaker.admit()
    breaker.abandoned()
    assert breaker.state == "half_open"
    breaker.admit()


def test_it_can_be_switched_off() -> None:
    breaker = CircuitBreaker(0, 30)
    for _ in range(100):
        fail(breaker)
    assert breaker.state == "closed"
