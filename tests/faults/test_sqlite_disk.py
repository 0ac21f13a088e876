"""SQLite's file is locked, its disk is full, another process reads for long: 503, and nothing is lost."""

from __future__ import annotations

import resource
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.servers import Server, wait_until

from .cluster import FULL, Cluster, long

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits another process")
DEADLINE = 5.0 if FULL else 10.0
# It writes no file itself.
SAMPLE = "/seq/acme/samples/hello-world"


def client_of(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.api, headers={"Authorization": "Bearer nk_dev"}, timeout=30)


def execute(client: httpx.Client, message: str) -> tuple[int, str]:
    """Return the status of a call, and the id of its run if it has one."""
    response = client.post(f"{SAMPLE}/execute", json={"message": message}, timeout=DEADLINE)
    body = response.json()
    if response.status_code != 200:
        assert body["detail"]["code"] == "STORE_UNAVAILABLE", body
        assert response.headers["retry-after"] == "1"
    return response.status_code, body.get("detail", body).get("executionId", "")


def ends(client: httpx.Client, run: str) -> None:
    """Wait until a run has completed in the database."""

    def look() -> bool:
        trace = client.get(f"{SAMPLE}/runs/{run}/trace")
        return trace.status_code == 200 and trace.json()["flowRun"]["status"] == "completed"

    wait_until(look, what=f"the end of {run}")


def ready(server: Server) -> bool:
    return httpx.get(f"{server.url}/readyz").status_code == 200


def test_locked_and_full_database_is_503_and_stores_its_runs_later(laptop: Cluster) -> None:
    server = laptop.start_dev()
    client = laptop.stack.enter_context(client_of(server))
    assert execute(client, "first")[0] == 200
    with closing(sqlite3.connect(laptop.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, late = execute(client, "late")
        assert (status, bool(late)) == (503, True)
        # Now it is known: new runs do not begin, and reading goes on.
        assert execute(client, "refused") == (503, "")
        assert client.get("/seq/sessions").status_code == 200
    ends(client, late)
    assert execute(client, "second")[0] == 200
    # No file may grow beyond this size.
    pid, size = server.process.pid, Path(f"{laptop.database}-wal").stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    status, late = execute(client, "full" + "l" * 2**19)
    assert (status, bool(late)) == (503, True)
    assert execute(client, "refused") == (503, "")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    ends(client, late)
    assert execute(client, "third")[0] == 200


@long
def test_long_reader_makes_the_wal_grow_only_while_it_reads(laptop: Cluster) -> None:
    client = laptop.stack.enter_context(client_of(laptop.start_dev()))
    wal = Path(f"{laptop.database}-wal")
    assert execute(client, "first")[0] == 200
    with closing(sqlite3.connect(laptop.database, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM executions").fetchone()
        while wal.stat().st_size < 80 * 2**20:
            assert execute(client, "x" * 900_000)[0] == 200
        other.execute("ROLLBACK")
    wait_until(
        lambda: execute(client, "x" * 100_000)[0] == 200 and wal.stat().st_size <= 64 * 2**20
    )
