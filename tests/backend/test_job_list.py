"""Jobs are listed, retried once with the same input, and the processes that run them are named."""

from __future__ import annotations

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from noukai_sdk.backend.settings import Settings
from noukai_sdk.backend.store.job_pages import JobQuery
from noukai_sdk.backend.store.store import Store
from noukai_sdk.backend.store.writer import Changes
from tests.support.servers import wait_until

from .backends import MESSAGE, Backend, code_of, serving

OTHER = {"Authorization": "Bearer nk_other"}


def jobs(backend: Backend, headers: dict[str, str] | None = None, **query: str) -> dict[str, Any]:
    response = backend.client.get("/seq/jobs", params=query, headers=headers)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def retry(backend: Backend, flow: str, job: str) -> Any:
    return backend.client.post(f"/seq/acme/{flow}/jobs/{job}/retry")


def test_job_list_pages_filters_counts_and_keeps_organisations_apart(stored: Backend) -> None:
    failed = stored.submit("tests/broken", MESSAGE, "with-a-session")
    stored.finished("tests/broken", failed)
    done = [stored.submit("tests/three") for _ in range(3)]
    for job in done:
        stored.finished("tests/three", job)
    stored.post("tests/three/execute", MESSAGE)  # is not a job
    theirs = stored.client.post("/seq/otherorg/things/hello/jobs", json=MESSAGE, headers=OTHER)
    hello = f"/seq/otherorg/things/hello/jobs/{theirs.json()['executionId']}"
    wait_until(lambda: stored.get(hello).json()["status"] == "completed")
    held = stored.submit("tests/gated")
    assert stored.fakes.reached.wait(30)

    newest_first = [held, theirs.json()["executionId"], *done[::-1], failed]
    listed: list[dict[str, Any]] = []
    query: dict[str, str] = {}
    while True:
        page = jobs(stored, limit="4", **query)
        listed += page["jobs"]
        if page["nextCursor"] is None:
            break
        query = {"cursor": page["nextCursor"]}
    assert [job["executionId"] for job in listed] == newest_first
    assert page["inProgress"] == {"pending": 0, "running": 1}
    running, broken = listed[0], listed[-1]
    assert (running["status"], running["stepsDone"], running["blockCount"]) == ("running", 1, 3)
    assert (broken["status"], broken["error"]["code"]) == ("failed", "MODEL_ERROR")
    assert (broken["errorAtStep"], broken["sessionId"]) == ("bad", "with-a-session")

    def ids(**query: str) -> list[str]:
        return [job["executionId"] for job in jobs(stored, **query)["jobs"]]

    assert ids(status="failed") == ids(flow="broken") == ids(flow="acme/tests/broken") == [failed]
    assert ids(status="completed", flow="three") == done[::-1]
    assert ids(status="cancelled") == ids(flow="otherorg/tests/broken") == []
    mine = jobs(stored, OTHER)
    assert [job["slug"] for job in mine["jobs"]] == ["hello"]
    assert mine["inProgress"] == {"pending": 0, "running": 0}
    for wrong in (
        {"limit": "0"},
        {"status": "paused"},
        {"flow": "a/b"},
        {"cursor": "YQ"},
        {"flow": "\0"},
    ):
        response = stored.client.get("/seq/jobs", params=wrong)
        assert code_of(response) == (400, "INVALID_REQUEST"), wrong

    [worker] = stored.get("/workers").json()["workers"]
    assert (worker["id"], worker["runningJobs"]) == (running["workerId"], 1)
    assert "process" in worker["name"]
    [seen] = stored.get("/workers", **OTHER).json()["workers"]
    assert (seen["name"], seen["runningJobs"]) == (None, 0)
    stored.fakes.opened.set()
    assert stored.finished("tests/gated", held)["status"] == "completed"
    assert jobs(stored, limit="1")["inProgress"] == {"pending": 0, "running": 0}


def test_failed_job_is_retried_once_with_its_input_in_a_session_of_its_own(stored: Backend) -> None:
    stored.fakes.failures = 3
    body = {"message": "Mind the gap.", "parameters": {"a": 1}}
    job = stored.submit("tests/retried", body, "first")
    assert stored.finished("tests/retried", job)["status"] == "failed"
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda _: retry(stored, "tests/retried", job), range(4)))
    assert {response.status_code for response in responses} == {202}
    [new] = {response.json()["executionId"] for response in responses}
    assert new != job
    assert sorted(r.headers.get("idempotent-replayed", "") for r in responses) == [
        "",
        *["true"] * 3,
    ]
    assert stored.finished("tests/retried", new)["result"] == "at last"
    assert retry(stored, "tests/retried", job).json()["executionId"] == new

    assert len(stored.session("first")) == 1
    [run] = stored.session(f"retry-of-{job}")
    assert run["call"]["request"] == body
    listed = {row["executionId"]: row for row in jobs(stored)["jobs"]}
    assert (listed[new]["retryOf"], listed[job]["retriedAs"]) == (job, new)
    assert (listed[job]["retryOf"], listed[new]["retriedAs"]) == (None, None)


def test_retry_is_refused_without_a_failed_job_whose_input_was_kept(fresh: Backend) -> None:
    fresh.write_flow("masked", "{capture: redacted, steps: [{id: bad, model: broken}]}")
    masked = fresh.submit("tests/masked")
    done = fresh.submit("tests/three")
    for flow, job in (("tests/masked", masked), ("tests/three", done)):
        fresh.finished(flow, job)
    held = fresh.submit("tests/gated")
    assert fresh.fakes.reached.wait(30)
    for flow, job, expected in (
        ("tests/masked", masked, (409, "INPUT_NOT_KEPT")),
        ("tests/three", done, (409, "JOB_NOT_RETRYABLE")),
        ("tests/gated", held, (409, "JOB_NOT_RETRYABLE")),
        ("tests/three", "unknown", (404, "RUN_NOT_FOUND")),
        ("tests/three", masked, (404, "RUN_NOT_FOUND")),
    ):
        assert code_of(retry(fresh, flow, job)) == expected
    hidden = fresh.client.post(f"/seq/acme/tests/masked/jobs/{masked}/retry", headers=OTHER)
    assert code_of(hidden) == (404, "RUN_NOT_FOUND")
    fresh.client.delete(f"/seq/acme/tests/gated/jobs/{held}")
    fresh.fakes.opened.set()
    new = retry(fresh, "tests/gated", held).json()["executionId"]
    assert fresh.finished("tests/gated", new)["status"] == "completed"


def test_job_past_the_retention_is_not_listed_nor_retried(tmp_path: Path) -> None:
    with serving(tmp_path) as before:
        job = before.submit("tests/broken")
        before.finished("tests/broken", job)
    with serving(tmp_path, retention_days=1e-9) as backend:
        wait_until(lambda: not jobs(backend)["jobs"], what="the sweep")
        assert code_of(retry(backend, "tests/broken", job)) == (409, "INPUT_NOT_KEPT")


@pytest.mark.anyio
async def test_page_of_jobs_costs_the_same_however_many_there_are(tmp_path: Path) -> None:
    store = await Store.open(Settings(tmp_path / "noukai.db").database_url, lambda _: Changes())
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        statements.append((statement, values))

    event.listen(store._engine.sync_engine, "before_cursor_execute", note)
    for org in ("acme", None):
        await store.job_page(JobQuery(org, 50))
    await store.aclose()
    database = sqlite3.connect(tmp_path / "noukai.db")
    plans = [
        " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values))
        for statement, values in statements
    ]
    database.close()
    ordered, *others = plans[:5]
    assert "ix_executions_jobs" in ordered
    assert "TEMP B-TREE" not in ordered
    assert not [
        plan for plan in others if "ix_executions_jobs" in plan or "SCAN executions" in plan
    ]
    assert not [plan for plan in plans if re.search("SCAN executions(?! USING)", plan)]
