"""API keys in the table ``api_keys``: create, list, revoke, and find the holder of a key.

A key is 32 random bytes, so its SHA-256 is as good as a slow hash: nobody can guess the key from it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select, update

from .database import outages
from .engine import Engine
from .limits import LIMIT_COLUMNS, Limits
from .tables import api_keys, organisations

PREFIX = "nk_"


def new_key() -> str:
    """Return a random API key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyStore:
    """The stored keys. A key itself is never stored."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create(self, org: str, name: str, now: int) -> tuple[str, str]:
        """Create a key of an organisation; return its id and the key."""
        key, key_id = new_key(), f"key_{secrets.token_hex(6)}"
        row = {"id": key_id, "org": org, "name": name, "hash": hash_of(key), "created_at": now}
        with outages():
            async with self._engine.begin() as connection:
                await connection.execute(insert(api_keys).values(row))
        return key_id, key

    async def all(self) -> Sequence[Any]:
        """Return the rows of all keys without their hashes, by organisation and age."""
        columns = (column for column in api_keys.c if column is not api_keys.c.hash)
        query = select(*columns).order_by(api_keys.c.org, api_keys.c.created_at)
        with outages():
            async with self._engine.connect() as connection:
                return (await connection.execute(query)).all()

    async def revoke(self, key_id: str, now: int) -> bool:
        """Revoke a key; return False if there is no such key. A second time changes nothing."""
        this_key = api_keys.c.id == key_id
        revoked = update(api_keys).where(this_key, api_keys.c.revoked_at.is_(None))
        with outages():
            async with self._engine.begin() as connection:
                await connection.execute(revoked.values(revoked_at=now))
                known = await connection.execute(select(api_keys.c.id).where(this_key))
                return known.first() is not None

    async def holder(self, key_hash: str) -> tuple[str, Limits] | None:
        """Return the organisation that holds the key with this hash, and its limits."""
        columns = (api_keys.c.hash, api_keys.c.org, *LIMIT_COLUMNS)
        joined = api_keys.outerjoin(organisations, api_keys.c.org == organisations.c.org)
        query = (
            select(*columns)
            .select_from(joined)
            .where(api_keys.c.hash == key_hash, api_keys.c.revoked_at.is_(None))
        )
        with outages():
            async with self._engine.connect() as connection:
                row = (await connection.execute(query)).first()
        if row is None or not hmac.compare_digest(row.hash, key_hash):
            return None
        return row.org, Limits(*row[2:])
