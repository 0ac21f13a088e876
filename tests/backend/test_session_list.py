"""GET /seq/sessions: the list, its pages and its filters."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from noukai_sdk.models.session_lists import SessionPage, SessionSummary

from .backends import ASKS_WEATHER, KEYS, MESSAGE, Backend, code_of, serving
from .test_session_additions import EXCHANGE, OTHER, OUTCOMES, age, put

HELLO = "samples/hello-world/execute"


def page(backend: Backend, headers: dict[str, str] | None = None, **query: Any) -> SessionPage:
    response = backend.client.get("/seq/sessions", params=query, headers=headers)
    assert response.status_code == 200, response.text
    return SessionPage.model_validate(response.json())


def ids(backend: Backend, headers: dict[str, str] | None = None, **query: Any) -> list[str]:
    return [session.session_id for session in page(backend, headers, **query).sessions]


def test_session_list_rows_summarise_runs_exchange_and_outcomes(stored: Backend) -> None:
    assert page(stored).sessions == ()
    stored.post(HELLO, MESSAGE, "plain")
    stored.post(HELLO, MESSAGE)  # without a session
    stored.post("tests/three/execute", MESSAGE, "mixed")
    stored.post("tests/broken/execute", MESSAGE, "mixed")
    stored.post("samples/weather/execute", ASKS_WEATHER, "paused")
    put(stored, "plain", "exchange", EXCHANGE)
    put(stored, "captured", "exchange", {**EXCHANGE, "response": {"status": 500}})
    put(stored, "refused", "outcomes", OUTCOMES)
    put(stored, "only-replayed", "replays", {"replayId": "r1"})
    put(stored, "mixed", "replays", {"replayId": "r1"})
    for replay, session, verdict in [
        ("r2", "plain", "failed"),
        ("r3", "plain", "differs"),
        ("r4", "refused", "clean"),
    ]:
        report = {"replayId": replay, "state": "finished", "verdict": verdict}
        put(stored, session, "replays", report)
    stored.client.put("/seq/sessions/plain/pin")

    rows = {row.session_id: row for row in page(stored).sessions}
    assert list(rows) == ["refused", "captured", "paused", "mixed", "plain"]
    runs = stored.session("plain")
    assert rows["plain"] == SessionSummary(
        session_id="plain",
        started_at=runs[0]["startedAt"],
        completed_at=runs[0]["completedAt"],
        calls=1,
        flows=("acme/samples/hello-world",),
        status="completed",
        tokens=sum(e["tokens"]["total"] for e in runs[0]["events"] if "tokens" in e),
        cost_usd="0",
        request="POST /grade?class=3",
        response_status=200,
        pinned=True,
        replays=2,
        last_verdict="differs",
    )
    assert (rows["mixed"].replays, rows["mixed"].last_verdict) == (1, "running")
    assert (rows["paused"].replays, rows["paused"].last_verdict) == (0, None)
    assert [row.session_id for row in rows.values() if row.pinned] == ["plain"]
    assert rows["plain"].tokens
    # Forks are found by their parent.
    assert rows["refused"].parent == "origin"
    assert (ids(stored, parent="origin"), ids(stored, parent="plain")) == (["refused"], [])
    assert (rows["mixed"].calls, rows["mixed"].status) == (2, "failed")
    assert rows["mixed"].flows == ("acme/tests/three", "acme/tests/broken")
    assert (rows["paused"].status, rows["paused"].completed_at) == ("running", None)
    assert (rows["captured"].calls, rows["captured"].status) == (0, "failed")
    assert (rows["refused"].status, rows["refused"].parent) == ("failed", "origin")
    assert rows["refused"].flows == ("acme/tests/none",)

    assert ids(stored, replay="differs") == ["plain"]
    assert ids(stored, replay="running") == ["mixed"]
    assert ids(stored, replay="failed") == []
    assert ids(stored, replay="any") == ["refused", "mixed", "plain"]
    assert ids(stored, replay="never") == ["captured", "paused"]
    assert ids(stored, error="HUNG up") == ["mixed"]
    assert ids(stored, error="no such FLOW") == ["refused"]
    assert ids(stored, error="heron") == []
    assert ids(stored, status="failed") == ["refused", "captured", "mixed"]
    assert ids(stored, status="running") == ["paused"]
    assert ids(stored, status="completed") == ["plain"]
    for flow in ("three", "acme/tests/three"):
        assert ids(stored, flow=flow) == ["mixed"]
    for flow in ("none", "acme/tests/none"):
        assert ids(stored, flow=flow) == ["refused"]
    for flow in ("Three", "acme/other/three", "hre_", "%", "one"):
        assert ids(stored, flow=flow) == []


def test_session_list_text_is_found_in_values_in_any_case(stored: Backend) -> None:
    text = 'Say "Straße ÜBER" \\ 100% _x_'
    stored.post("tests/fan/execute", {"message": text, "parameters": {"words": ["Heron"]}}, "said")
    stored.post("tests/redacted/execute", {"message": "password: hunter2 Otter"}, "masked")
    job = stored.submit("tests/redacted", {"message": "password: hunter2 Otter"}, "job")
    stored.finished("tests/redacted", job)
    job = stored.submit("tests/metadata", {"message": "Badger"}, "hidden")
    stored.finished("tests/metadata", job)
    put(stored, "exchange", "exchange", EXCHANGE)
    put(stored, "outcome", "outcomes", OUTCOMES)
    found = {
        'say "': ["said"],
        "über": ["said"],
        "\\ 100% _X_": ["said"],
        "HERON": ["said"],
        "x100": [],
        "hunter2": [],
        "badger": [],
        "otter": ["job", "masked"],
        "/GRADE?": ["exchange"],
        "utco": ["outcome"],
        "no such FLOW": ["outcome"],
        # The names of fields are not text.
        "parameters": [],
        '":': [],
    }
    assert {q: ids(stored, q=q) for q in found} == found
    assert len(ids(stored, q="")) == 6
    assert ids(stored, q="otter", flow="redacted", status="completed", since="1h") == [
        "job",
        "masked",
    ]


def test_session_list_pages_are_stable_while_sessions_arrive(stored: Backend) -> None:
    for number in range(7):
        put(stored, f"s{number}", "exchange", EXCHANGE)
    seen: list[str] = []
    cursor = None
    for arrival in range(10):
        got = page(stored, limit=2, **({"cursor": cursor} if cursor else {}))
        seen += [session.session_id for session in got.sessions]
        cursor = got.next_cursor
        if cursor is None:
            break
        put(stored, f"new{arrival}", "exchange", EXCHANGE)
        # An old session stays in its place.
        stored.post(HELLO, MESSAGE, "s1")
    assert seen == [f"s{number}" for number in reversed(range(7))]
    assert len(page(stored, limit=10).sessions) == 10
    assert page(stored, limit=10).next_cursor is None


def test_session_list_has_only_sessions_of_the_keys_organisations(backend: Backend) -> None:
    mine, theirs, both = "list-mine", "list-theirs", "list-both"
    url = f"{backend.url}/api/v1/seq/otherorg/things/hello/execute"
    for session in (both, theirs):
        httpx.post(url, json=MESSAGE, headers={**OTHER, "X-Session-Id": session})
    for session in (mine, both):
        backend.post("tests/broken/execute", MESSAGE, session)
        put(backend, session, "exchange", EXCHANGE, Authorization="Bearer nk_dev")
    put(backend, "list-captured", "exchange", EXCHANGE, **OTHER)
    rows = page(backend, OTHER).sessions
    assert [row.session_id for row in rows] == ["list-captured", theirs, both]
    assert (rows[2].calls, rows[2].status) == (1, "completed")
    for query in ({"status": "failed"}, {"flow": "broken"}, {"q": "cat sat", "flow": "broken"}):
        assert ids(backend, OTHER, **query) == []
    # The request belongs to all organisations whose flows it called.
    assert ids(backend, OTHER, q="/grade") == ["list-captured", both]
    whole = {row.session_id: row for row in page(backend, q="list-").sessions}
    assert set(whole) == {mine, theirs, both, "list-captured"}
    assert (whole[both].calls, whole[both].status) == (2, "failed")


BAD_QUERIES = {
    "limit": ["0", "201", "-1", "1.5", "", "ten", "9" * 5000, "²"],
    "cursor": ["", "?", "AAAA", "MTIz", "é", "MS4KLg", "x" * 5000, "Li4u"],
    "flow": ["", "/", "a/b", "a/b/c/d", "a//b", "\0"],
    "status": ["", "Failed", "paused", "\0"],
    "since": ["", "yesterday", "7", "7y", "-1d", "1e3d", "2026-13-01", "9" * 400 + "d"],
    "q": ["\0", "x" * 1001],
    "error": ["\0", "x" * 1001],
    "replay": ["", "drift", "\0"],
}


def test_session_list_bad_query_is_rejected(stored: Backend) -> None:
    for name, values in BAD_QUERIES.items():
        for value in values:
            response = stored.client.get("/seq/sessions", params={name: value})
            assert code_of(response) == (400, "INVALID_REQUEST"), (name, value)
            assert response.json()["detail"]["message"].startswith(f"{name}: ")
    assert stored.get("/seq/sessions", Authorization="Bearer nk_no").status_code == 401


def test_session_list_since_reads_times_and_durations(backend: Backend) -> None:
    put(backend, "since", "exchange", EXCHANGE)
    started_at = page(backend, q="since").sessions[0].started_at or ""
    year = started_at[:4]
    past = ["1s", "2m", "12h", "7d", "3w", "999999w", f"{year}-01-01", f"{year}-01-01T00:00:00Z"]
    for text in [*past, started_at, "0001-01-01T00:00:00+05:00"]:
        if text != "1s":
            assert ids(backend, q="since", since=text) == ["since"], text
    for text in ("2999-01-01", "2999-01-01T00:00:00+01:00"):
        assert ids(backend, q="since", since=text) == []
    # curl does not escape the plus sign.
    response = backend.get("/seq/sessions?since=2999-01-01T00:00:00+01:00")
    assert response.json() == {"sessions": [], "nextCursor": None}


def test_session_list_plain_page_reads_an_index_and_no_data(tmp_path: Path) -> None:
    statements: list[tuple[str, Any]] = []
    with serving(tmp_path) as backend:
        for session in ("first", "second"):
            backend.post(HELLO, MESSAGE, session)
        cursor = page(backend, limit=1).next_cursor

        @event.listens_for(backend.service.store._engine.sync_engine, "before_cursor_execute")
        def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
            statements.append((sql, parameters))

        assert [row.calls for row in page(backend, cursor=cursor, limit=1).sessions] == [1]
        assert [row.calls for row in page(backend, limit=1, since="7d").sessions] == [1]
        with closing(sqlite3.connect(str(backend.settings.database))) as connection:
            for sql, parameters in statements:
                plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
                text = " ".join(row[-1] for row in plan)
                assert "SCAN" not in text
                # The runs of the page are grouped; the sessions are in the order of the index.
                assert "TEMP B-TREE FOR ORDER BY" not in text
            plain, filtered = (
                len(statements),
                {"flow": "acme/samples/hello-world", "status": "failed"},
            )
            for key in KEYS:
                page(backend, {"Authorization": f"Bearer {key}"}, **filtered)
            for sql, parameters in statements[plain:]:
                plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
                # All runs of an organisation would be read for each session.
                assert "ix_executions_org" not in " ".join(row[-1] for row in plan), sql
            del statements[plain:]
        assert len(statements) >= 10
        whole = " ".join(sql for sql, _ in statements)
        for column in ("events", "executions.request", "executions.result", "steps.output", "body"):
            assert column not in whole


def test_session_list_past_the_retention_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, retention_days=1) as backend:
        for session in ("old", "captured"):
            put(backend, session, "exchange", EXCHANGE)
        backend.post(HELLO, MESSAGE, "old")
        age(backend.settings.database_url)
        assert ids(backend) == []
        # A session is as old as its last run.
        backend.post(HELLO, MESSAGE, "old")
        assert ids(backend) == ["old"]
    with serving(tmp_path, retention_days=1) as backend:
        assert ids(backend) == ["old"]
        backend.post(HELLO, MESSAGE, "captured")
        # Both are as old as their first run, and age() has left no order.
        assert sorted(ids(backend)) == ["captured", "old"]
