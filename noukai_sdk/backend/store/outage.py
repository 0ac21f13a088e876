"""A database that cannot be used just now: full, locked, read-only, gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

# Postgres' classes of errors that lie in what was asked: data, constraints, statements.
_ASKED = ("22", "23", "42")


class StoreUnavailableError(Exception):
    """The database cannot be used just now. What was to be written is kept, and written later.

    Attributes:
        execution_id: The run that it is about, None where it is about none.
    """

    def __init__(self, error: Exception, execution_id: str | None = None) -> None:
        super().__init__(f"the database cannot be used just now: {getattr(error, 'orig', error)}")
        self.execution_id = execution_id


def is_outage(error: Exception) -> bool:
    """Whether the database is at fault, so that the same may work later."""
    if isinstance(error, OperationalError | InterfaceError | OSError | asyncio.TimeoutError):
        return True
    # Over asyncpg, most of what the server says comes as the bare class.
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return state is not None and not state.startswith(_ASKED)


@contextmanager
def outages() -> Iterator[None]:
    """Errors of the database that are outages come out as StoreUnavailableError."""
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise StoreUnavailableError(error) from error
        raise
