"""Measure jobs: beside DBOS alone, and two workers beside one.

A figure is the jobs per second from the first submission to the last job that has completed. DBOS alone
enqueues in its own process, and our jobs are submitted over HTTP.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, func, make_url, select, text

from benchmarks.bench_dev import BODY, served
from benchmarks.load import post, requests_a_second
from benchmarks.measure import Row
from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.tables import executions
from tests.support.postgres import postgres

JOBS = 400
# Both workers together would need more than two processors for flows without a wait.
WAITING_JOBS = 160
WAITING = "steps: [{id: wait, function: 'waits:wait'}]"
FUNCTION = "import time\n\n\ndef wait(message):\n    time.sleep(0.05)\n    return message\n"
AT_ONCE = 4  # in each worker
ROUNDS = 3
RUNS = 1_000

COMPLETED = select(func.count()).where(executions.c.status == "completed")
STORED = text("SELECT pg_database_size(current_database()), pg_current_wal_lsn() - '0/0'::pg_lsn")


def run() -> list[Row]:
    """Return the rows of the table."""
    rows = []
    with ExitStack() as stack:
        new_database = stack.enter_context(postgres())
        for name in ("SQLite", "Postgres"):
            ours, bare = 0.0, 0.0
            for _ in range(ROUNDS):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                if name == "SQLite":
                    bare_url, url = make_url(f"sqlite:///{folder}/bare.db"), str(folder / "n.db")
                else:
                    bare_url = new_database().set(drivername="postgresql+psycopg")
                    url = new_database().render_as_string(hide_password=False)
                bare = max(bare, dbos_alone(bare_url))
                with serving(folder, url, workers=0 if name == "SQLite" else 1) as (address, key):
                    ours = max(ours, jobs_a_second(address, key, url, "hello", JOBS))
            rows += [
                Row(f"jobs, {name}", ours, None, "jobs/s"),
                Row(f"DBOS alone, {name}", bare, None, "jobs/s"),
                Row(f"jobs / DBOS alone, {name}", ours / bare, 0.8, "times", True),
            ]
        rates = {}
        for workers in (1, 2):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = new_database().render_as_string(hide_password=False)
            with serving(folder, url, workers=workers, at_once=AT_ONCE) as (address, key):
                rates[workers] = jobs_a_second(address, key, url, "waits", WAITING_JOBS)
        rows.append(
            Row("two workers / one, steps of 50 ms", rates[2] / rates[1], 1.7, "times", True)
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = new_database().render_as_string(hide_password=False)
        rows += what_runs_store(folder, url)
    return rows


def what_runs_store(folder: Path, database: str) -> list[Row]:
    """Return what a run of one step with short texts takes in Postgres."""
    rows = []
    engine = create_engine(sync_url(database))
    with serving(folder, database, workers=1) as (address, key):
        for kind in ("execute", "jobs"):
            path = f"/api/v1/seq/acme/bench/hello/{kind}"
            call = post(address, path, BODY.encode(), f"Authorization: Bearer {key}")
            with engine.connect() as connection:
                before = connection.execute(STORED).one()
                done = connection.execute(COMPLETED).scalar_one()
            requests_a_second(address, call, at_once=16, count=RUNS)
            wait_for(engine, done + RUNS)
            with engine.connect() as connection:
                after = connection.execute(STORED).one()
            size, written = (new - old for new, old in zip(after, before, strict=True))
            name = kind.removesuffix("s")
            rows += [
                Row(f"a run by {name}: tables and indexes", float(size) / RUNS / 1000, None, "kB"),
                Row(f"a run by {name}: write-ahead log", float(written) / RUNS / 1000, None, "kB"),
            ]
    engine.dispose()
    return rows


def dbos_alone(database: URL) -> float:
    """Return the jobs per second of DBOS."""
    url = database.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "benchmarks.bare_dbos", url, str(JOBS)]
    return float(subprocess.check_output(command, text=True))


@contextmanager
def serving(
    folder: Path, database: str, workers: int, at_once: int | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the address and an API key: of `noukai dev`, or of `noukai serve` with workers."""
    flows = folder / "flows"
    (flows / "acme" / "bench").mkdir(parents=True)
    (flows / "acme" / "bench" / "hello.yaml").write_text("steps: [{id: hello}]")
    (flows / "acme" / "bench" / "waits.yaml").write_text(WAITING)
    (flows / "waits.py").write_text(FUNCTION)
    shared = ["--db", database, "--flows", str(flows)]
    noukai = [sys.executable, "-m", "noukai_sdk.cli"]
    if not workers:
        with served([*noukai[2:], "dev", "--port", "0", *shared]) as address:
            yield address, "nk_dev"
        return
    keys = [*noukai, "keys", "create", "--org", "acme", "--db", database]
    key = subprocess.check_output(keys, text=True).strip()
    with ExitStack() as stack:
        address = stack.enter_context(served([*noukai[2:], "serve", "--port", "0", *shared]))
        for _ in range(workers):
            limit = ["--jobs", str(at_once)] if at_once else []
            worker = subprocess.Popen([*noukai, "worker", *shared, *limit])
            stack.callback(worker.wait, 30)
            stack.callback(worker.terminate)
        yield address, key


def jobs_a_second(address: str, key: str, database: str, flow: str, count: int) -> float:
    """Return the jobs per second, from the first submission to the end of the last."""
    engine = create_engine(sync_url(database))
    path = f"/api/v1/seq/acme/bench/{flow}/jobs"
    submission = post(address, path, BODY.encode(), f"Authorization: Bearer {key}")
    try:
        requests_a_second(address, submission, at_once=4, count=10)  # opens the queue
        wait_for(engine, 10)
        start = time.perf_counter()
        requests_a_second(address, submission, at_once=16, count=count)
        wait_for(engine, 10 + count)
        return count / (time.perf_counter() - start)
    finally:
        engine.dispose()


def wait_for(engine: Engine, count: int) -> None:
    """Wait until so many jobs have completed."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with engine.connect() as connection:
            if connection.execute(COMPLETED).scalar_one() >= count:
                return
        time.sleep(0.02)
    raise AssertionError("the jobs have not completed")


def sync_url(database: str) -> URL:
    """Return the URL of the database for plain SQLAlchemy."""
    url = Settings(database).database_url
    postgres = url.get_backend_name() == "postgresql"
    return url.set(drivername="postgresql+psycopg" if postgres else "sqlite")
