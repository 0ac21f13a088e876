"""Share one provider's rate limit (429) between all calls of a client, as one token bucket.

1. Until the provider rejects a request, requests leave at once.
2. After a 429, none leaves until its ``Retry-After`` has passed, or a longer one that follows.
3. Then they leave one by one, first come first served, a little slower than the provider accepted
   them before. Without a rejection they get faster and faster, because the limit may be higher.
4. A rejected request waits for its turn again. Calls fail if the provider rejects everything.
5. After a second without requests, the limit is forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

# Limits are per second or longer, so a shorter time says nothing about the rate.
_SHORTEST_SPAN = 1.0
# Stay this much below the measured rate: at the rate itself, jitter causes the next rejection.
_MARGIN = 0.95
# Without a rejection for t seconds, send t * t * this more requests a second.
_GROWTH = 0.02
# Longer waits are an error at once, as in the official clients.
_LONGEST_WAIT = 120.0
_REMEMBERED = 4096


@dataclass(eq=False)
class _Attempt:
    sent_at: float
    is_rejected: bool = False


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
        self._attempts: deque[_Attempt] = deque(maxlen=_REMEMBERED)
        self._in_flight = 0
        self._is_limited = False
        self._blocked_until = -math.inf
        self._measured = (0.0, math.inf, _SHORTEST_SPAN)  # requests sent in this time set the rate
        self._rate = 0.0  # requests a second; 0 until it is measured, after the block
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
            attempts += 1
            attempt = _Attempt(anyio.current_time())
            self._attempts.append(attempt)
            self._in_flight += 1
            try:
                response = await request()
            except Exception as error:
                self._in_flight -= 1
                attempt.is_rejected = True
                seconds = self._retry_after(error)
                if not self._reject(attempt.sent_at, seconds, error):
                    continue
                rejected: Any = error
                rejected.attempts = attempts
                raise
            except BaseException:
                self._in_flight -= 1
                raise
            self._in_flight -= 1
            self._rejections = 0
            return response

    def _reject(self, sent_at: float, seconds: float | None, error: Exception) -> bool:
        """Block all calls for a while; return whether the rejected call fails."""
        if self._max_retries == 0:
            return True
        if not seconds:
            # Paced requests are a little too fast at most; after a burst, a whole second is used up.
            seconds = (0.25 if self._is_limited else 1.0) * 2 ** min(self._rejections, 4)
        if seconds > _LONGEST_WAIT:
            return True
        if sent_at >= self._blocked_until:  # else it was under way when another one was rejected
            if any(attempt.sent_at >= self._blocked_until for attempt in self._accepted()):
                span = max(seconds, _SHORTEST_SPAN)
                # Requests of an unpaced burst arrive in any order: those sent later count as well.
                last = sent_at if self._is_limited else math.inf
                self._measured = (sent_at - span, last, span)
                self._rate = 0.0
            self._is_limited, self._next_at = True, 0.0
        self._blocked_until = max(self._blocked_until, anyio.current_time() + seconds)
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
                    now = anyio.current_time()
                    leaves_at = max(self._next_at, self._blocked_until)
                    if leaves_at <= now:
                        break
                    await anyio.sleep(leaves_at - now)
                if self._waiting == 1 and now - leaves_at > _SHORTEST_SPAN:
                    self._is_limited = False
                    return
                # A late wake-up does not slow the rest down.
                leaves_at = max(leaves_at, now - 0.1)
                self._next_at = leaves_at + 1 / self._rate_after(now - self._blocked_until)
        finally:
            self._waiting -= 1

    def _rate_after(self, seconds: float) -> float:
        """Return the requests a second to send, this long after the last block."""
        if not self._rate:
            first, last, span = self._measured
            accepted = sum(first <= attempt.sent_at <= last for attempt in self._accepted())
            self._rate = _MARGIN * max(accepted, 1) / span
        return self._rate + _GROWTH * seconds**2

    def _accepted(self) -> Iterator[_Attempt]:
        """Return the requests that were accepted, or have no response yet."""
        return (attempt for attempt in self._attempts if not attempt.is_rejected)
