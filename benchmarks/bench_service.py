"""Measure the service: its start, many calls at once, long lists, long sessions and memory.

Each figure has its yardstick in the same run. ``bench_jobs.py`` measures jobs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import psutil
from sqlalchemy import URL

from benchmarks.bench_dev import ADDRESS, BODY, HEADERS, many, served
from benchmarks.load import post, requests_a_second
from benchmarks.measure import Row, alternating, best_of, best_of_each, seconds
from tests.support.postgres import postgres

CALL = "/api/v1/seq/acme/samples/hello-world/execute"
AT_ONCE = 64
LOAD = 1_000
FEW, MANY = 1_000, 100_000
CALLS = 4_000
OLD, SWEPT_CALLS = 20_000, 300
# By then, dev has imported the queue of jobs, which takes it a second.
SETTLED, IDLE = 8.0, 20.0
RUNS = int(os.environ.get("BENCH_RUNS", "10000"))


def run() -> list[Row]:
    """Return the rows of the table."""
    return [*start(), *idle(), *at_once(), *lists(), *long_session(), *sweep(), *memory()]


def start() -> list[Row]:
    """Return the seconds from the start of the process to its first response."""

    def first_response() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            dev(folder) as address,
            closing(HTTPConnection(address)) as connection,
        ):
            get(connection, "/healthz")

    fastest = best_of(first_response, 3)
    return [Row("noukai dev, from its start to its first response", fastest, 1.5, "s")]


def idle() -> list[Row]:
    """Return what part of a processor a service takes that nobody calls."""
    with tempfile.TemporaryDirectory() as folder, dev(folder):
        children = psutil.Process().children()
        [process] = [child for child in children if "noukai_sdk.cli" in child.cmdline()]
        time.sleep(SETTLED)
        before = sum(process.cpu_times()[:2])
        time.sleep(IDLE)
        share = (sum(process.cpu_times()[:2]) - before) / IDLE
    return [Row("noukai dev without requests, of a processor", share * 100, 4, "%")]


@contextmanager
def dev(folder: str) -> Iterator[str]:
    with served(["noukai_sdk.cli", "dev", "--port", "0", "--db", f"{folder}/noukai.db"]) as address:
        yield address


def at_once() -> list[Row]:
    """Return how many calls a second are answered, beside an app that commits one row for each."""
    with tempfile.TemporaryDirectory() as folder, postgres() as new_database:
        return [
            *at_once_on(
                "SQLite", f"{folder}/noukai.db", f"sqlite+aiosqlite:///{folder}/one_row.db"
            ),
            *at_once_on("Postgres", *(address_of(new_database()) for _ in range(2))),
        ]


def address_of(database: URL) -> str:
    return database.render_as_string(hide_password=False)


def at_once_on(name: str, database: str, one_row_database: str) -> list[Row]:
    os.environ["ONE_ROW_DATABASE"] = one_row_database
    command = ["noukai_sdk.cli", "dev", "--port", "0", "--db", database]
    uvicorn = ["uvicorn", "benchmarks.one_row_app:app", "--port", "0", "--no-access-log"]
    with served(command) as address, served(uvicorn) as bare:
        call = post(address, CALL, BODY.encode(), "Authorization: Bearer nk_dev")
        one_row = post(bare, "/execute", BODY.encode())
        children = psutil.Process().children()
        [ours] = [child for child in children if "noukai_sdk.cli" in child.cmdline()]
        [other] = [child for child in children if "benchmarks.one_row_app:app" in child.cmdline()]
        time.sleep(SETTLED)
        rates, times = [0.0, 0.0], [0.0, 0.0]
        for _ in range(5):
            for n, (to, request, process) in enumerate(
                ((address, call, ours), (bare, one_row, other))
            ):
                start = sum(process.cpu_times()[:2])
                rate = requests_a_second(to, request, at_once=AT_ONCE, count=LOAD)
                rates[n] = max(rates[n], rate)
                times[n] += sum(process.cpu_times()[:2]) - start
    return [
        Row(f"execute, {AT_ONCE} at once, {name}", rates[0], None, "calls/s"),
        Row(f"an app that commits one row, {name}", rates[1], None, "calls/s"),
        # Of the processor's time, which a busy machine changes little: one process has one processor.
        Row(
            f"execute / one row for each processor, {name}",
            times[1] / times[0],
            0.6,
            "times",
            True,
        ),
    ]


def lists() -> list[Row]:
    """Return the milliseconds for the first page of the list of sessions."""
    with ExitStack() as stack:
        pages: dict[str, Callable[[], object]] = {}
        for name, count in (("few", FEW), ("many", MANY)):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            with dev(folder):
                pass  # makes the tables
            fill(Path(folder) / "noukai.db", count)
            connection = HTTPConnection(stack.enter_context(dev(folder)))
            stack.callback(connection.close)
            pages[name] = partial(get, connection, "/api/v1/seq/sessions?limit=50")
        times = best_of_each(pages, 50)
    ratio = times["many"] / times["few"]
    return [
        Row(f"first page of {MANY:,} sessions", times["many"] * 1e3, 50, "ms"),
        Row(f"first page of {MANY:,} / of {FEW:,} sessions", ratio, 1.3, "times"),
    ]


def get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers=HEADERS)
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body[:500]
    return body


def fill(database: Path, count: int, *, started_at: int | None = None, payload: str = "") -> None:
    """Put sessions of one finished run each into a database of the service."""
    now = started_at or time.time_ns() // 1000
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            "INSERT INTO executions (id, org, project, slug, flow_id, block_count, session_id, trigger,"
            " status, capture_mode, started_at, completed_at, updated_at, request, result)"
            " VALUES (?, 'acme', 'samples', 'hello-world', 'f', 1, ?, 'execute', 'completed', 'full',"
            " ?, ?, ?, '{}', '{}')",
            ((f"e{n}", f"s{n}", now + n, now + n, now + n) for n in range(count)),
        )
        if payload:
            connection.executemany(
                "INSERT INTO steps (execution_id, number, step_id, attempt, status, started_at,"
                " truncated, output) VALUES (?, 0, 'a', 1, 'completed', 1, 0, ?)",
                ((f"e{n}", payload) for n in range(count)),
            )
        for org in ("", "acme"):
            connection.executemany(
                "INSERT INTO sessions (session_id, org, started_at, pinned) VALUES (?, ?, ?, 0)",
                ((f"s{n}", org, now + n) for n in range(count)),
            )


def long_session() -> list[Row]:
    """Return how long a long session takes, beside its query and ``json.dumps`` of it."""
    with tempfile.TemporaryDirectory() as folder, dev(folder) as address:
        call = post(
            address, CALL, BODY.encode(), "Authorization: Bearer nk_dev", "X-Session-Id: long"
        )
        requests_a_second(address, call, at_once=16, count=CALLS)
        with closing(HTTPConnection(address)) as connection:
            path = "/api/v1/seq/sessions/long"
            body = json.loads(get(connection, path))
            assert len(body["executions"]) == CALLS
            times = alternating(
                {
                    "fetch": lambda: get(connection, path),
                    "query": lambda: query(Path(folder) / "noukai.db"),
                    "dumps": lambda: json.dumps(body),
                },
                7,
            )
    yardstick = times["query"] + times["dumps"]
    return [
        Row(
            f"a session of {CALLS:,} calls / its query and json.dumps",
            times["fetch"] / yardstick,
            1.5,
            "times",
        )
    ]


def query(database: Path) -> None:
    """Read all rows of the session, as plainly as sqlite3 does."""
    of_session = "execution_id IN (SELECT id FROM executions WHERE session_id = 'long')"
    with closing(sqlite3.connect(database)) as connection:
        for table, where in (
            ("executions", "session_id = 'long'"),
            ("steps", of_session),
            ("events", of_session),
        ):
            connection.execute(f"SELECT * FROM {table} WHERE {where}").fetchall()


def sweep() -> list[Row]:
    """Return how long a sweep of expired sessions holds a call up."""
    slowest = {}
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "noukai.db"
        with dev(folder):
            pass  # makes the tables
        fill(database, OLD, started_at=1, payload="x" * 4_000)
        for name, days in (("without", ""), ("with", "1")):
            os.environ["NOUKAI_DEV_RETENTION_DAYS"] = days
            # The sweep begins when the process starts.
            with dev(folder) as address, closing(HTTPConnection(address)) as connection:
                call = many(connection, "POST", CALL, BODY, requests=1)
                slowest[name] = max(seconds(call) for _ in range(SWEPT_CALLS))
        del os.environ["NOUKAI_DEV_RETENTION_DAYS"]
        with closing(sqlite3.connect(database)) as rows:
            assert (
                rows.execute("SELECT count(*) FROM steps WHERE output LIKE 'xxx%'").fetchone()[0]
                < OLD
            )
    held_up = (slowest["with"] - slowest["without"]) * 1e3
    return [
        Row("slowest execute without a sweep", slowest["without"] * 1e3, None, "ms"),
        Row("what a sweep of old sessions adds to the slowest", held_up, 50, "ms"),
    ]


def memory() -> list[Row]:
    """Return how much the process grows over many runs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "-m", "noukai_sdk.cli", "dev", "--port", "0"]
        with tempfile.NamedTemporaryFile("w") as output:
            process = subprocess.Popen(
                [*command, "--db", f"{folder}/noukai.db"], stdout=output, stderr=subprocess.STDOUT
            )
            try:
                while (match := ADDRESS.search(Path(output.name).read_text())) is None:
                    assert process.poll() is None, "the server has ended"
                    time.sleep(0.05)
                call = post(match[1], CALL, BODY.encode(), "Authorization: Bearer nk_dev")
                # Half as many before: dev imports the queue of jobs a few seconds after its start.
                requests_a_second(match[1], call, at_once=16, count=RUNS // 2)
                before = resident_kb(process.pid)
                requests_a_second(match[1], call, at_once=16, count=RUNS)
                after = resident_kb(process.pid)
            finally:
                process.terminate()
                process.wait(10)
    return [Row(f"memory after {RUNS:,} more runs / before", after / before, 1.05, "times")]


def resident_kb(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])
