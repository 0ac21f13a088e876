"""Idempotency keys: which run a key has begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .tables import executions, idempotency_keys

LIFE = 24 * 3600 * 1_000_000
"""Microseconds for which a key is kept."""


@dataclass(frozen=True)
class IdempotencyKey:
    """The ``Idempotency-Key`` of a call.

    Attributes:
        org: The organisation of the flow.
        path: The rest of the call's path: the same key means another run on another path.
        key: The header.
        request_hash: SHA-256 of the call's body.
    """

    org: str
    path: str
    key: str
    request_hash: str


async def claim_key(
    connection: AsyncConnection, insert: Any, key: IdempotencyKey, execution_id: str, now: int
) -> tuple[str, str] | None:
    """Store that ``key`` has begun a run, in the transaction that stores the run.

    Of two transactions with the same key, the second waits here for the commit of the first.

    Args:
        connection: In a transaction.
        insert: The dialect's ``insert``.
        key: The key.
        execution_id: The new run.
        now: Microseconds since 1970.

    Returns:
        None, or the id of the run that the key has begun before, with the hash of its request.
    """
    table = idempotency_keys
    same = _same(key)
    row = {**vars(key), "execution_id": execution_id, "created_at": now}
    new = insert(table).values(row)
    claimed = new.on_conflict_do_nothing().returning(table.c.execution_id)
    while (await connection.execute(claimed)).first() is None:
        # A statement of its own, because it must see what the other transaction has committed.
        found = await find_key(connection, key, now)
        if found is not None:
            return found
        # The key is too old, or its run was deleted with its session.
        await connection.execute(delete(table).where(same))
    return None


async def find_key(
    connection: AsyncConnection, key: IdempotencyKey, now: int
) -> tuple[str, str] | None:
    """Return the id of the run that ``key`` has begun, with the hash of its request, or None."""
    table = idempotency_keys
    is_stored = exists().where(executions.c.id == table.c.execution_id)
    earlier = select(table.c.execution_id, table.c.request_hash).where(
        _same(key), table.c.created_at >= now - LIFE, is_stored
    )
    found = (await connection.execute(earlier)).first()
    return None if found is None else (found.execution_id, found.request_hash)


async def free_key(connection: AsyncConnection, key: IdempotencyKey, execution_id: str) -> None:
    """Forget that ``key`` has begun this run."""
    is_its = idempotency_keys.c.execution_id == execution_id
    await connection.execute(delete(idempotency_keys).where(_same(key), is_its))


def _same(key: IdempotencyKey) -> ColumnElement[bool]:
    table = idempotency_keys
    return and_(table.c.org == key.org, table.c.path == key.path, table.c.key == key.key)
