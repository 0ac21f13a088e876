"""Payloads above 64 kB go to an object store: a folder, or a bucket of a local S3 server."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.backend.store import blobs
from noukai_sdk.backend.store.writer import Changes
from tests.support.servers import wait_until

from .backends import MESSAGE, Backend, code_of, serving

LARGE = {"message": "".join(f"{number:07d} " for number in range(20_000))}
SMALL_ROWS = 64 * 1024
FLOW = "steps: [{id: same, transform: lowercase}]"


@contextmanager
def serving_large(folder: Path, **settings: Any) -> Iterator[Backend]:
    with serving(folder, **settings) as backend:
        backend.write_flow("same", FLOW)
        yield backend


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check_round_trip(backend: Backend) -> str:
    """Run a flow with large payloads by execute and as a job; return the run's id."""
    response = backend.post("tests/same/execute", LARGE, "large")
    assert response.status_code == 200, response.text
    assert response.json()["result"] == LARGE["message"]
    job = backend.submit("tests/same", LARGE, "large")
    assert backend.finished("tests/same", job)["result"] == LARGE["message"]
    for run in backend.session("large"):
        assert run["call"]["request"] == LARGE
        assert run["result"] == run["steps"][0]["outputSnapshot"] == LARGE["message"]
        assert run["steps"][0]["inputSnapshot"] == {"input": LARGE["message"]}
        assert run["events"][-1]["result"] == LARGE["message"]
        trace = backend.get(f"/seq/acme/tests/same/runs/{run['executionId']}/trace").json()
        assert trace["steps"][0]["outputContext"] == {"output": LARGE["message"]}
        assert trace["steps"][0]["outputSizeBytes"] > SMALL_ROWS
    return job


def test_large_payloads_are_files_and_are_deleted_with_the_session(
    database: str, tmp_path: Path
) -> None:
    folder = tmp_path / "blobs"
    with serving_large(tmp_path, database=database, blobs=folder) as backend:
        job = check_round_trip(backend)
        backend.post("tests/same/execute", MESSAGE, "small")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in files_in(folder)} == {0o600}
        assert {path.parts[-3] for path in files_in(folder)} == {"acme"}
        assert job in {path.parts[-2] for path in files_in(folder)}
        assert len({path.parts[-2] for path in files_in(folder)}) == 2
        if database.startswith("sqlite"):
            rows = sqlite3.connect(tmp_path / "noukai.db")
            texts = [row[0] for row in rows.execute("SELECT request FROM executions")]
            rows.close()
            assert sorted(text[0] for text in texts) == ["@", "@", "{"]
        # What a search finds must be in a row, and a reference is none.
        for text in ("0000001", "acme/"):
            listed = backend.get(f"/seq/sessions?q={text}").json()["sessions"]
            assert [s["sessionId"] for s in listed] == [], text
    with serving(tmp_path, write=False, database=database) as forgetful:
        response = forgetful.get("/seq/sessions/large")
        assert code_of(response) == (503, "STORE_UNAVAILABLE")
        assert "--blobs" in response.json()["detail"]["message"]
    with serving_large(tmp_path, database=database, blobs=folder) as backend:
        assert backend.session("large")[1]["result"] == LARGE["message"]
        assert backend.client.delete("/seq/sessions/large").status_code == 204
        assert files_in(folder) == []
        assert len(backend.session("small")) == 1


def test_object_store_outage_is_a_503_and_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    with serving_large(tmp_path, blobs=folder) as backend:
        # A file in the place of the organisation's folder.
        (folder / "acme").write_text("")
        response = backend.post("tests/same/execute", LARGE, "later")
        assert code_of(response) == (503, "STORE_UNAVAILABLE")
        execution_id = response.json()["detail"]["executionId"]
        assert backend.post("tests/same/execute", MESSAGE, "small").status_code == 200
        (folder / "acme").unlink()

        def stored() -> Any:
            found = backend.get("/seq/sessions/later")
            return found.json()["executions"] if found.status_code == 200 else None

        [run] = wait_until(stored, what="the run")
        assert (run["executionId"], run["status"]) == (execution_id, "completed")
        assert run["result"] == LARGE["message"]
        for path in files_in(folder):
            path.write_text("damaged")
        assert code_of(backend.get("/seq/sessions/later")) == (503, "STORE_UNAVAILABLE")
        # Objects that cannot be deleted are deleted by a later sweep.
        folder.rename(tmp_path / "gone")
        folder.write_text("")
        assert backend.client.delete("/seq/sessions/later").status_code == 204
        folder.unlink()
        (tmp_path / "gone").rename(folder)
        other = backend.post("tests/same/execute", LARGE, "other").json()["executionId"]
        assert backend.client.delete("/seq/sessions/other").status_code == 204
        assert files_in(folder) == [], other


async def test_object_store_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_TIMEOUT", 0.0)
    store, answers = blobs.Blobs(tmp_path), threading.Event()
    monkeypatch.setattr(store._fs, "pipe_file", lambda *_: answers.wait(30))
    row = {"id": "run", "org": "acme", "request": "x" * 100_000}
    with pytest.raises(blobs.BlobsUnavailableError, match="has not responded"):
        await store.offload([Changes([row])])
    assert row["request"] == "x" * 100_000
    answers.set()
    await store.aclose()


def test_retention_deletes_the_objects_of_expired_runs(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    with serving_large(tmp_path, blobs=folder) as backend:
        backend.post("tests/same/execute", LARGE, "old")
        backend.post("tests/same/execute", LARGE, "kept")
        backend.client.put("/seq/sessions/kept/pin")
        [kept] = backend.session("kept")
    with serving(tmp_path, blobs=folder, retention_days=1e-9):
        wait_until(lambda: len({p.parent for p in files_in(folder)}) == 1, what="the sweep")
        assert {path.parts[-2] for path in files_in(folder)} == {kept["executionId"]}


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    moto = pytest.importorskip("moto.server", reason="make faults installs it")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        yield
    finally:
        server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_large_payloads_are_objects_of_an_s3_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(monkeypatch):
        import s3fs

        bucket = s3fs.S3FileSystem()
        bucket.mkdir("payloads")
        with serving_large(tmp_path, blobs="s3://payloads/prefix") as backend:
            check_round_trip(backend)
            assert bucket.find("payloads/prefix/acme")
            assert backend.client.delete("/seq/sessions/large").status_code == 204
            bucket.invalidate_cache()
            assert bucket.find("payloads") == []
