"""Let requests and runs in: limits of organisations, and idempotency keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import InsufficientCreditsError
from .access import Access
from .bodies import Body
from .encoding import Clock
from .errors import RequestError
from .store.idempotency import IdempotencyKey, claim_key
from .store.limits import Limits, count_in_progress, limits_of
from .store.store import Store

_MAX_KEY = 255
# Seconds for which what is known of an organisation is used again, without asking the database.
_CACHE_LIFE = 2.0
_LONGEST_BLOCK = 1.0
# Seconds for which an organisation that had too many runs in progress is believed to have them.
_FULL_SECONDS = 0.05


class RepeatedCallError(Exception):
    """A call with the same idempotency key and body has begun a run before.

    Attributes:
        execution_id: The run.
    """

    def __init__(self, execution_id: str) -> None:
        super().__init__(execution_id)
        self.execution_id = execution_id


def idempotency_key(header: str, org: str, path: str, body: Body) -> IdempotencyKey:
    """Return the idempotency key of a call.

    Args:
        header: The ``Idempotency-Key``.
        org: The organisation of the flow.
        path: The rest of the call's path.
        body: The call's body.

    Raises:
        RequestError: The header is not valid (400).
    """
    if not 1 <= len(header) <= _MAX_KEY or not (header.isascii() and header.isprintable()):
        message = f"an Idempotency-Key is 1 to {_MAX_KEY} printable ASCII characters"
        raise RequestError(400, "IDEMPOTENCY_KEY_INVALID", message)
    # The order of fields and the spaces between them do not make another request.
    text = json.dumps(body.raw, sort_keys=True, separators=(",", ":"))
    return IdempotencyKey(org, path, header, hashlib.sha256(text.encode()).hexdigest())


def retry_key(org: str, path: str, execution_id: str) -> IdempotencyKey:
    """Return the key of a job's retry: of two calls that retry a job at once, one begins a run."""
    return IdempotencyKey(org, path, execution_id, hashlib.sha256(b"").hexdigest())


@dataclass(frozen=True)
class Admission:
    """What is checked in the transaction that stores a new run.

    Attributes:
        org: The organisation whose limits apply; None if there are none.
        key: The call's idempotency key.
        now: Microseconds since 1970.
        turn: Held during the transaction. The calls of an organisation with limits wait for each other
            here, or they would wait in the database, with a connection each.
        note_full: Called if the organisation has too many runs in progress.
    """

    org: str | None
    key: IdempotencyKey | None
    now: int
    turn: AbstractAsyncContextManager[object]
    note_full: Callable[[], None] = lambda: None

    async def check(self, connection: AsyncConnection, insert: Any, execution_id: str) -> None:
        """Raise if the run must not begin. Until the commit, nobody else begins one in its place.

        Raises:
            RepeatedCallError: The key has begun a run before.
            RequestError: The key came with another body (422), the organisation has no credits (402) or
                too many runs (429).
        """
        if self.key is not None:
            earlier = await claim_key(connection, insert, self.key, execution_id, self.now)
            _raise_if_used(self.key, earlier)
        if self.org is None:
            return
        limits = await limits_of(connection, self.org, lock=True)
        if limits.credit_micros is not None and limits.credit_micros <= 0:
            raise RequestError(402, "INSUFFICIENT_CREDITS", f"{self.org} has no credits left")
        most = limits.max_running
        if most is not None and await count_in_progress(connection, self.org, most) >= most:
            self.note_full()
            raise _too_many_runs(self.org, most)


def _raise_if_used(key: IdempotencyKey, earlier: tuple[str, str] | None) -> None:
    if earlier is not None and earlier[1] == key.request_hash:
        raise RepeatedCallError(earlier[0])
    if earlier is not None:
        message = "the Idempotency-Key was used with another body: choose another key"
        raise RequestError(422, "IDEMPOTENCY_KEY_REUSED", message, execution_id=earlier[0])


def _too_many_runs(org: str, most: int) -> RequestError:
    message = f"{org} has {most} runs in progress, its limit: try again later"
    return RequestError(429, "TOO_MANY_RUNS", message, headers={"Retry-After": "1"})


@dataclass
class _Requests:
    """The requests of one organisation in this process.

    Attributes:
        allowed: How many may still be let in; they are counted already.
        blocked_until: No other is allowed before this time of the monotonic clock.
    """

    allowed: int = 0
    blocked_until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limiter:
    """Applies the limits of organisations between the beginnings of their runs.

    Organisations without limits cost nothing: that they have none is known for a while.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._limits: dict[str, tuple[float, Limits]] = {}
        self._requests: dict[str, _Requests] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._full_until: dict[str, float] = {}

    def admission(
        self, org: str, limits: Limits, key: IdempotencyKey | None, now: int
    ) -> Admission | None:
        """Return what is checked before a run of an organisation begins; None if nothing is.

        Raises:
            RequestError: The organisation had too many runs in progress a moment ago (429).
        """
        most = limits.max_running
        if most is None and not limits.may_run_out:
            return None if key is None else Admission(None, key, now, nullcontext())
        # Counting them for each refusal would let one organisation keep the database busy.
        if most is not None and key is None and time.monotonic() < self._full_until.get(org, 0.0):
            raise _too_many_runs(org, most)
        turn = self._turns.setdefault(org, asyncio.Lock())
        return Admission(org, key, now, turn, partial(self._note_full, org))

    async def check_key(self, key: IdempotencyKey | None) -> None:
        """Raise as :meth:`Admission.check` if an idempotency key has begun a run before."""
        if key is not None:
            _raise_if_used(key, await self._store.find_key(key, self._clock.now()))

    def _note_full(self, org: str) -> None:
        self._full_until[org] = time.monotonic() + _FULL_SECONDS

    async def take_request(self, access: Access) -> None:
        """Count a request; raise RequestError (429) if the organisation has sent too many."""
        org = access.org
        if org is None or access.limits.requests_per_minute is None:
            return
        per_minute = access.limits.requests_per_minute
        requests = self._requests.setdefault(org, _Requests())
        async with requests.lock:
            wait = requests.blocked_until - time.monotonic()
            if not requests.allowed and wait <= 0:
                wait = await self._allow(org, requests, per_minute)
            if requests.allowed:
                requests.allowed -= 1
                return
        message = f"{org} may send {per_minute} requests a minute"
        headers = {"Retry-After": str(math.ceil(wait))}
        raise RequestError(429, "TOO_MANY_REQUESTS", message, headers=headers)

    async def _allow(self, org: str, requests: _Requests, per_minute: int) -> float:
        take = self._store.limits.take_requests
        wait = 0.0
        # Those of a second in advance, so that busy organisations do not cost an UPDATE for each request;
        # the last ones are taken one by one.
        for count in dict.fromkeys((max(per_minute // 60, 1), 1)):
            wait = await take(org, count, self._clock.now())
            if not wait:
                requests.allowed = count
                return 0.0
        # Refused requests must not keep the database busy.
        requests.blocked_until = time.monotonic() + min(wait, _LONGEST_BLOCK)
        return wait

    async def check_credits(self, org: str) -> None:
        """Raise InsufficientCreditsError if a run of an organisation may not spend any more."""
        found = self._limits.get(org)
        if found is not None and not found[1].may_run_out and time.monotonic() < found[0]:
            return
        # What the steps before this one cost is in the rows that are being saved.
        await self._store.flush()
        limits = await self._store.limits.read(org)
        self._limits[org] = (time.monotonic() + _CACHE_LIFE, limits)
        if limits.credit_micros is not None and limits.credit_micros <= 0:
            message = f"{org} has no credits left"
            raise InsufficientCreditsError(message, status_code=402, code="CREDITS_EXHAUSTED")
