"""Limits of organisations: concurrent runs, requests a minute, credits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Float, and_, case, cast, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import outages
from .engine import Engine
from .tables import executions, organisations

LIMIT_COLUMNS = (
    organisations.c.max_running,
    organisations.c.requests_per_minute,
    organisations.c.credit_micros,
)
MICROS = 1_000_000
"""Millionths of a dollar in a dollar, and microseconds in a second."""

_IN_PROGRESS = ("pending", "running")
# Credits that last for the seconds for which they are not read again.
_PLENTY = 1 * MICROS


@dataclass(frozen=True)
class Limits:
    """The limits of one organisation, in the order of ``LIMIT_COLUMNS``. None is no limit.

    Attributes:
        max_running: How many runs may be pending or running at once.
        requests_per_minute: How many requests the organisation's keys may send.
        credit_micros: What is left to spend, in millionths of a US dollar.
    """

    max_running: int | None = None
    requests_per_minute: int | None = None
    credit_micros: int | None = None

    @property
    def may_run_out(self) -> bool:
        """Return True if the credits are so few that they must be read anew before each use."""
        return self.credit_micros is not None and self.credit_micros < _PLENTY


UNLIMITED = Limits()


class LimitStore:
    """The stored limits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_postgres = engine.dialect.name == "postgresql"

    async def set(self, org: str, values: Mapping[str, int | None], added_micros: int = 0) -> None:
        """Set some limits of an organisation, and add to its credits."""
        if "requests_per_minute" in values:
            values = {**values, "tokens": None, "filled_at": None}
        insert = (postgresql if self._is_postgres else sqlite).insert(organisations)
        changed: dict[str, Any] = dict(values)
        if added_micros:
            changed["credit_micros"] = (
                func.coalesce(organisations.c.credit_micros, 0) + added_micros
            )
            values = {**values, "credit_micros": added_micros}
        new = insert.values(org=org, **values)
        if changed:
            statement = new.on_conflict_do_update(index_elements=["org"], set_=changed)
        else:
            statement = new.on_conflict_do_nothing()
        with outages():
            async with self._engine.begin() as connection:
                await connection.execute(statement)

    async def all(self) -> Sequence[Any]:
        """Return the rows of all organisations with limits, by name."""
        query = select(organisations.c.org, *LIMIT_COLUMNS).order_by(organisations.c.org)
        with outages():
            async with self._engine.connect() as connection:
                return (await connection.execute(query)).all()

    async def read(self, org: str) -> Limits:
        """Return the limits of an organisation as they are now."""
        with outages():
            async with self._engine.connect() as connection:
                return await limits_of(connection, org)

    async def take_requests(self, org: str, count: int, now: int) -> float:
        """Allow some requests of an organisation.

        The token bucket is in the organisation's row, and one UPDATE takes the tokens: of two replicas, one
        takes the last. It is filled by the clock of the database, which all replicas share. If that clock
        is set back, the bucket is filled from there on; if it is set forward, it gets full at most.

        Args:
            org: The organisation.
            count: How many requests.
            now: Microseconds since 1970, for SQLite.

        Returns:
            0 if all of them are allowed, else the seconds until they will be; then none is.
        """
        row = organisations.c
        clock: Any = now
        if self._is_postgres:
            seconds = func.extract("epoch", func.clock_timestamp())
            clock = cast(seconds * MICROS, BigInteger)
        per_minute = cast(row.requests_per_minute, Float)
        elapsed = case((row.filled_at < clock, clock - row.filled_at), else_=0)
        filled = func.coalesce(row.tokens, per_minute) + elapsed * per_minute / (60.0 * MICROS)
        tokens = case((filled > per_minute, per_minute), else_=filled)
        is_limited = and_(row.org == org, row.requests_per_minute.is_not(None))
        take = update(organisations).where(is_limited, tokens >= count)
        with outages():
            async with self._engine.begin() as connection:
                taken = await connection.execute(
                    take.values(tokens=tokens - count, filled_at=clock)
                )
                if taken.rowcount:
                    return 0.0
                state = select(tokens, per_minute, row.filled_at > clock).where(is_limited)
                found = (await connection.execute(state)).first()
                if found is None:  # the limit was just removed
                    return 0.0
                left, rate, is_set_back = found
                if is_set_back:
                    await connection.execute(
                        update(organisations).where(is_limited).values(filled_at=clock)
                    )
                return float(max(count - left, 0.001) * 60 / rate)


async def limits_of(connection: AsyncConnection, org: str, *, lock: bool = False) -> Limits:
    """Return the limits of an organisation; ``lock`` keeps others that lock them out until the commit."""
    query = select(*LIMIT_COLUMNS).where(organisations.c.org == org)
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    return UNLIMITED if row is None else Limits(*row)


async def count_in_progress(connection: AsyncConnection, org: str, at_most: int) -> int:
    """Return how many runs of an organisation are pending or running, up to ``at_most``."""
    in_progress = (
        select(executions.c.id)
        .where(executions.c.org == org, executions.c.status.in_(_IN_PROGRESS))
        .limit(at_most)
    )
    count = select(func.count()).select_from(in_progress.subquery())
    return int((await connection.execute(count)).scalar_one())


Charges = dict[str, tuple[str, int]]
"""What is to be charged for runs, by their ids: the organisation, and millionths of a US dollar."""


def charges_of(connection: Connection, runs: Iterable[Mapping[str, Any]]) -> Charges:
    """Return what these rows cost beyond what is stored of them, before they replace the stored ones.

    The stored rows are locked, so that nobody changes them before the commit.
    """
    costly = {row["id"]: row for row in runs if row.get("cost_micros")}
    if not costly:
        return {}
    ids = sorted(costly)
    before: dict[str, int] = {}
    for start in range(0, len(ids), 500):
        stored = select(executions.c.id, executions.c.cost_micros).where(
            executions.c.id.in_(ids[start : start + 500])
        )
        locked = stored.order_by(executions.c.id).with_for_update()
        before.update((row.id, row.cost_micros) for row in connection.execute(locked))
    charges = {
        id_: (row["org"], row["cost_micros"] - before.get(id_, 0)) for id_, row in costly.items()
    }
    return {id_: charge for id_, charge in charges.items() if charge[1]}


def charge(connection: Connection, charges: Charges) -> None:
    """Draw charges from the credits of the organisations that have some.

    This is part of the transaction that stores the runs: a commit that is tried again finds their new cost,
    and charges nothing.
    """
    micros: dict[str, int] = {}
    for org, amount in charges.values():
        micros[org] = micros.get(org, 0) + amount
    row = organisations.c
    # In one order everywhere: transactions that lock several rows must not wait in a circle.
    for org, amount in sorted(micros.items()):
        drawn = row.credit_micros - amount
        connection.execute(
            update(organisations)
            .where(row.org == org, row.credit_micros.is_not(None))
            .values(credit_micros=drawn)
        )
