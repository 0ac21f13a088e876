"""The published versions of flows. They are only added, and never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, func, select, true, tuple_
from sqlalchemy.exc import IntegrityError

from .database import outages
from .engine import Engine
from .tables import published_flows as table
from .writer import Writer

Row = Mapping[str, Any]
Address = tuple[str, str, str]
"""Organization, project and slug."""

_ADDRESS = (table.c.org, table.c.project, table.c.slug)
_WITHOUT_FILES = [column for column in table.c if column is not table.c.files]
# How often a number that another process has just taken is replaced by the next one.
_ATTEMPTS = 20


class PublishedStore:
    """The table of published versions. It belongs to a :class:`~.store.Store`."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    async def get(self, address: Address, version: int) -> Row | None:
        """Return the row of one version, with its files."""
        # Postgres raises an error for such a text, and for such a number.
        if any("\0" in name for name in address) or not 0 < version < 2**31:
            return None
        rows = await self._all(select(table).where(_is(address), table.c.version == version))
        return rows[0] if rows else None

    async def addresses(self, org: str | None) -> list[Address]:
        """Return the flows that have published versions: all, or those of an organization."""
        of_org = true() if org is None else table.c.org == org
        rows = await self._all(select(*_ADDRESS).where(of_org).distinct())
        return [(row["org"], row["project"], row["slug"]) for row in rows]

    async def versions(self, addresses: Sequence[Address]) -> dict[Address, list[Row]]:
        """Return the versions of these flows, without their files, by number."""
        found: dict[Address, list[Row]] = {address: [] for address in addresses}
        # A statement takes a limited number of parameters.
        for start in range(0, len(addresses), 200):
            chosen = tuple_(*_ADDRESS).in_(addresses[start : start + 200])
            query = select(*_WITHOUT_FILES).where(chosen).order_by(table.c.version)
            for row in await self._all(query):
                found[row["org"], row["project"], row["slug"]].append(row)
        return found

    async def add(
        self, address: Address, content_hash: str, files: str, now: int
    ) -> tuple[Row, bool]:
        """Add a version; return its row, and whether it is new.

        If a version has the same content, its row is returned.
        """
        same = select(*_WITHOUT_FILES).where(_is(address), table.c.content_hash == content_hash)
        last = select(func.max(table.c.version)).where(_is(address))
        for attempt in range(1, _ATTEMPTS + 1):
            with outages():
                async with self._writer.lock, self._engine.connect() as connection:
                    found = (
                        await connection.execute(same.order_by(table.c.version.desc()))
                    ).first()
                    if found is not None:
                        return dict(found._mapping), False
                    row = {
                        **dict(zip(("org", "project", "slug"), address, strict=True)),
                        "version": ((await connection.execute(last)).scalar() or 0) + 1,
                        "content_hash": content_hash,
                        "published_at": now,
                        "files": files,
                    }
                    try:
                        await connection.execute(table.insert(), [row])
                        await connection.commit()
                    except IntegrityError:
                        if attempt == _ATTEMPTS:
                            raise
                        continue
                    return row, True
        raise AssertionError("unreachable")  # the loop returns or raises

    async def _all(self, statement: Any) -> list[Row]:
        with outages():
            async with self._engine.connect() as connection:
                result = await connection.execute(statement)
                return [dict(row) for row in result.mappings()]


def _is(address: Address) -> Any:
    return and_(*(column == name for column, name in zip(_ADDRESS, address, strict=True)))
