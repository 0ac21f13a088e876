"""A Postgres and clusters for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer, postgres_server

from .cluster import Cluster, cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres that starts with the first test that needs it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, postgres: PostgresServer) -> Iterator[Cluster]:
    """A service over Postgres, with an API key and no processes."""
    url = postgres.new_database().render_as_string(hide_password=False)
    with cluster(tmp_path, url) as opened:
        opened.create_key()
        yield opened


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Cluster]:
    """A folder for `noukai dev` over SQLite."""
    with cluster(tmp_path, str(tmp_path / "dev.db")) as opened:
        yield opened
