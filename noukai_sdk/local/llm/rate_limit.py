"""Share one provider's rate limit (429) between all calls of a client.

Without a rejection, calls pass at once. After a 429 no call is sent until the provider's ``Retry-After``
has passed, and the waiting calls then leave in order, one by one, at the rate that the provider has
just accepted. The rate grows slowly at first and fast later, as in TCP CUBIC, so that a limit that was
measured too low or that was raised is found again. After a second without calls, the limit is forgotten.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

# Limits are per second or longer, so a shorter time says nothing about the rate.
_SHORTEST_SPAN = 1.0
# Stay this much below the measured rate: at the rate itself, jitter causes the next rejection.
_MARGIN = 0.95
# Seconds until a rate without rejections has doubled: few accepted requests are a weak measurement.
_DOUBLING_SECONDS_PER_ACCEPTED = 3.0
_MOST_DOUBLING_SECONDS = 60.0
# Longer waits are an error at once, as in the official clients.
_LONGEST_WAIT = 120.0
_REMEMBERED = 4096


class RateLimit:
    """Send the requests of one model. Use it in one event loop.

    Args:
        retry_after: Returns the seconds that a rejection asks to wait, None if it does not say; raises
            the error again if it is not a rejection that waiting can help.
        max_retries: Rejections in a row, without an accepted request of any call, after which all
            waiting calls fail; 0 to fail at the first.
    """

    def __init__(self, retry_after: Callable[[Exception], float | None], max_retries: int) -> None:
        self._retry_after = retry_after
        self._max_retries = max_retries
        self._turn = anyio.Lock()  # first in, first out
        self._waiting = 0
        self._in_flight = 0
        self._sent: dict[object, float] = {}  # when each request was sent that was not rejected
        self._is_limited = False
        self._blocked_until = 0.0
        self._span = _SHORTEST_SPAN
        self._measured = (0.0, math.inf)  # the time of the requests that measure the rate
        self._rate = 0.0  # requests a second; 0 until it is measured, after the block
        self._doubling = _MOST_DOUBLING_SECONDS
        self._next_at = 0.0
        self._rejections = 0
        self._given_up = 0
        self._last_error: Exception | None = None

    async def send(self, request: Callable[[], Awaitable[T]]) -> T:
        """Send a request, again and again while the provider rejects it but accepts others.

        Args:
            request: Sends it once, and raises the provider's error.
        """
        given_up, attempts = self._given_up, 0
        while True:
            if self._is_limited:
                await self._wait_for_turn(given_up)
            attempt, started = object(), time.monotonic()
            attempts += 1
            self._remember(attempt, started)
            self._in_flight += 1
            try:
                response = await request()
            except Exception as error:
                self._in_flight -= 1
                seconds = self._retry_after(error)
                self._sent.pop(attempt, None)
                if self._reject(started, seconds, error):
                    rejected: Any = error
                    rejected.attempts = attempts
                    raise
            except BaseException:
                self._in_flight -= 1
                raise
            else:
                self._in_flight -= 1
                self._rejections = 0
                return response

    def _remember(self, attempt: object, started: float) -> None:
        self._sent[attempt] = started
        if len(self._sent) > _REMEMBERED:
            del self._sent[next(iter(self._sent))]

    def _reject(self, started: float, seconds: float | None, error: Exception) -> bool:
        """Block all calls for a while; return whether the rejected call fails."""
        if self._max_retries == 0:
            return True
        now = time.monotonic()
        if not seconds:
            seconds = min(0.5 * 2 ** min(self._rejections, 4), 8.0)
        if seconds > _LONGEST_WAIT:
            return True
        if not self._is_limited or started >= self._blocked_until:
            accepted_after = any(sent_at >= self._blocked_until for sent_at in self._sent.values())
            if not self._is_limited or accepted_after:
                self._span = max(seconds, _SHORTEST_SPAN)
                # Requests of an unpaced burst arrive in any order: those sent later count as well.
                self._measured = (started - self._span, started if self._is_limited else math.inf)
                self._rate = 0.0
            self._is_limited, self._next_at, self._blocked_until = True, 0.0, now + seconds
        self._blocked_until = max(self._blocked_until, now + seconds)
        # While other requests are under way, the provider may have accepted them.
        self._rejections += self._in_flight == 0
        if self._rejections <= self._max_retries:
            return False
        self._rejections = 0
        self._given_up += 1
        self._last_error = error
        return True

    async def _wait_for_turn(self, given_up: int) -> None:
        self._waiting += 1
        try:
            async with self._turn:
                while True:
                    if self._given_up != given_up and self._last_error is not None:
                        raise self._last_error
                    now = time.monotonic()
                    leaves_at = max(self._next_at, self._blocked_until)
                    if leaves_at <= now:
                        break
                    await anyio.sleep(leaves_at - now)
                if self._waiting == 1 and now - leaves_at > _SHORTEST_SPAN:
                    self._is_limited = False
                    return
                if not self._rate:
                    self._measure_rate()
                growth = 1 + ((now - self._blocked_until) / self._doubling) ** 3
                # A late wake-up does not slow the rest down.
                self._next_at = max(leaves_at, now - 0.1) + 1 / (self._rate * growth)
        finally:
            self._waiting -= 1

    def _measure_rate(self) -> None:
        """Set the rate at which requests were accepted before the last rejection."""
        first, last = self._measured
        accepted = sum(first <= sent_at <= last for sent_at in self._sent.values())
        self._rate = _MARGIN * max(accepted, 1) / self._span
        seconds = _DOUBLING_SECONDS_PER_ACCEPTED * max(accepted, 0.5)
        self._doubling = min(seconds, _MOST_DOUBLING_SECONDS)
