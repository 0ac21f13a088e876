"""Backends and databases for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.support.postgres import postgres

from .backends import Backend, serving


@pytest.fixture
def anyio_backend() -> str:
    """The database drivers and the channels are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], URL]]:
    """Create databases in a Postgres that starts with the first test that needs it."""
    with postgres() as new:
        yield new


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/noukai.db"
    url: URL = request.getfixturevalue("new_database")()
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One backend for a whole module: tests choose their own session ids."""
    with serving(tmp_path_factory.mktemp("backend")) as started:
        yield started


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Backend]:
    """A backend for one test, for tests that hold its models, edit its flows or count."""
    with serving(tmp_path) as started:
        yield started


@pytest.fixture
def stored(database: str, tmp_path: Path) -> Iterator[Backend]:
    """A backend for one test, over each kind of database."""
    with serving(tmp_path, database=database) as started:
        yield started
