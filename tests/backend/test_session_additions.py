"""What clients store of a session besides its runs: the exchange, outcomes, replay reports."""

from __future__ import annotations

import base64
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, create_engine, update

from noukai_sdk.backend.store.tables import executions, replays, sessions
from noukai_sdk.models.exchanges import Exchange
from noukai_sdk.models.session_lists import ReplayList, StoredReport
from noukai_sdk.models.sessions import Session

from .backends import MESSAGE, Backend, code_of, serving

OTHER = {"Authorization": "Bearer nk_other"}
HELLO = "samples/hello-world/execute"

EXCHANGE = {
    "request": {
        "method": "POST",
        "origin": "http://127.0.0.1:8000",
        "path": "/grade",
        "query": "class=3",
        "headers": [["content-type", "application/json"]],
        "body": {"text": '{"text": "The cat"}', "size": 19},
    },
    "response": {"status": 200, "headers": [], "body": {"text": "fine", "size": 4}},
    "startedAt": "2026-11-20T09:00:00Z",
}
REFUSED = {
    "kind": "execute",
    "position": 0,
    "call": {"org": "acme", "project": "tests", "slug": "none", "request": MESSAGE},
    "error": {"statusCode": 404, "code": "FLOW_NOT_FOUND", "message": "no such flow"},
}
OUTCOMES = {
    "outcomes": [REFUSED],
    "parent": {"sessionId": "origin", "served": [{"order": 0, "index": 0}]},
}


BOUNDARIES = {"boundaries": [{"name": "load", "position": 0, "result": {"rows": [1]}}]}


def put(backend: Backend, session: str, name: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = f"/seq/sessions/{session}/{name}"
    return backend.client.request(
        "POST" if name == "replays" else "PUT", path, content=content, headers=headers
    )


def report(number: int, **fields: Any) -> dict[str, Any]:
    return {"replayId": f"r{number}", "state": "finished", "verdict": "clean", **fields}


def test_session_additions_are_read_back_without_a_run(stored: Backend) -> None:
    path = "/seq/sessions/no-calls"
    response = stored.get(path)
    assert code_of(response) == (404, "SESSION_NOT_FOUND")
    assert "without calls leaves no session" in response.json()["detail"]["message"]
    assert code_of(stored.get(f"{path}/exchange")) == (404, "SESSION_NOT_FOUND")

    assert put(stored, "no-calls", "exchange", EXCHANGE).status_code == 200
    assert stored.get(path).json() == {"sessionId": "no-calls", "executions": []}
    exchange = Exchange.model_validate(stored.get(f"{path}/exchange").json())
    assert exchange == Exchange.model_validate(EXCHANGE)
    # Written once.
    assert put(stored, "no-calls", "exchange", EXCHANGE).status_code == 200
    changed = {**EXCHANGE, "response": {"status": 500}}
    assert code_of(put(stored, "no-calls", "exchange", changed)) == (409, "EXCHANGE_EXISTS")
    assert stored.get(f"{path}/exchange").json()["response"]["status"] == 200

    put(stored, "no-calls", "outcomes", {"outcomes": [REFUSED] * 2})
    assert put(stored, "no-calls", "outcomes", OUTCOMES).status_code == 200
    session = Session.model_validate(stored.get(path).json())
    assert session == Session.model_validate({**session.model_dump(), **OUTCOMES})
    # Another key of the organisation tells the total, and replaces nothing.
    assert (
        put(stored, "no-calls", "outcomes", {"outcomes": None, "totalCalls": 5}).status_code == 200
    )
    both = {**session.model_dump(), **OUTCOMES, "totalCalls": 5}
    assert Session.model_validate(stored.get(path).json()) == Session.model_validate(both)
    assert put(stored, "no-calls", "outcomes", {}).status_code == 200
    assert set(stored.get(path).json()) == {"sessionId", "executions"}

    for number in [*range(102), 50]:
        body = report(number, sessionId=None, summary=f"hits={number}")
        assert put(stored, "no-calls", "replays", body).status_code == 200
    kept = ReplayList.model_validate(stored.get(f"{path}/replays").json()).replays
    expected = [50, *(n for n in range(101, 1, -1) if n != 50)]
    assert [r.replay_id for r in kept] == [f"r{number}" for number in expected]
    assert (kept[0].session_id, kept[0].summary) == ("no-calls", "hits=50")


def test_report_of_the_app_and_of_the_sender_are_merged_in_any_order(stored: Backend) -> None:
    sent = {"target": "http://localhost:8000", "headline": "replayed as recorded"}
    secret = {"where": "$.token", "captured": "a", "received": "Bearer abcdef123456"}
    running = report(1, state="running", verdict=None, sent=sent)
    finished = report(1, summary="hits=1")
    complete = {**running, "sent": {**sent, "differences": [secret]}}
    for session, posted in {
        "app-first": [running, finished, complete],
        "app-last": [running, complete, finished],
    }.items():
        for body in posted:
            assert put(stored, session, "replays", {**body, "replayId": session}).status_code == 200
        merged = StoredReport.model_validate(stored.get(f"/seq/replays/{session}").json())
        assert (merged.state, merged.summary, merged.session_id) == ("finished", "hits=1", session)
        assert merged.sent is not None
        assert merged.sent.headline == "replayed as recorded"
        assert merged.sent.differences is not None
        assert "abcdef" not in str(merged.sent.differences)
        [brief] = stored.get(f"/seq/sessions/{session}/replays?details=false&limit=1").json()[
            "replays"
        ]
        assert (brief["report"], brief["sent"]["differences"]) == ({}, [{"where": "$.token"}])
    assert code_of(stored.get("/seq/replays/app-last", **OTHER)) == (404, "REPLAY_NOT_FOUND")
    assert code_of(stored.get("/seq/replays/%20"))[0] == 404


def test_session_additions_of_a_session_with_runs_are_those_of_its_organisations(
    backend: Backend,
) -> None:
    bodies = {"exchange": EXCHANGE, "outcomes": OUTCOMES, "boundaries": BOUNDARIES}
    for name, body in [*bodies.items(), ("replays", report(1))]:
        backend.post(HELLO, MESSAGE, f"mine-{name}")
        # To another organisation it is unknown.
        for path in ("", "/exchange", "/replays"):
            response = backend.get(f"/seq/sessions/mine-{name}{path}", **OTHER)
            assert code_of(response) == (404, "SESSION_NOT_FOUND")
        assert put(backend, f"mine-{name}", name, body).status_code == 200
        # A run under the same id opens nothing of the other organisation.
        url = f"{backend.url}/api/v1/seq/otherorg/things/hello/execute"
        httpx.post(url, json=MESSAGE, headers={**OTHER, "X-Session-Id": f"mine-{name}"})
        seen = backend.get(f"/seq/sessions/mine-{name}", **OTHER).json()
        assert set(seen) == {"sessionId", "executions"}
        path = f"/seq/sessions/mine-{name}"
        assert code_of(backend.get(f"{path}/exchange", **OTHER)) == (404, "EXCHANGE_NOT_FOUND")
        assert backend.get(f"{path}/replays", **OTHER).json() == {"replays": []}
        # It writes its own, and a key for all organisations reads both.
        assert put(backend, f"mine-{name}", name, body, **OTHER).status_code == 200
    # Reports alone are nobody's session.
    assert put(backend, "reported", "replays", report(1)).status_code == 200
    assert code_of(backend.get("/seq/sessions/reported/replays", **OTHER))[0] == 404
    assert put(backend, "reported", "exchange", EXCHANGE, **OTHER).status_code == 200
    merged = backend.get("/seq/sessions/mine-outcomes").json()
    assert len(merged["outcomes"]) == 1
    assert merged["parent"]["sessionId"] == "origin"
    assert (
        backend.get("/seq/sessions/mine-boundaries").json()["boundaries"]
        == BOUNDARIES["boundaries"]
    )
    assert len(backend.get("/seq/sessions/mine-replays/replays").json()["replays"]) == 1
    assert backend.get("/seq/sessions/mine-exchange/exchange").status_code == 200


def test_exchange_secrets_of_a_client_that_forgot_are_masked(backend: Backend) -> None:
    secrets = ("hunter2", "abcdef12", "sid=1", "k-123", "s3cr3t")
    form = "user=me&password=hunter2&note=a+b"
    encoded = base64.b64encode(b'{"password": "s3cr3t"}').decode()
    body = {
        "request": {
            "method": "POST",
            "origin": "http://localhost",
            "path": "/login",
            "query": "a=1&api_key=k-123&b=%C3%BC",
            "headers": [
                ["authorization", "Bearer abcdef12"],
                ["cookie", "sid=1"],
                ["content-type", "application/x-www-form-urlencoded; charset=utf-8"],
            ],
            "body": {"text": form, "size": len(form)},
        },
        "response": {
            "status": 200,
            "headers": [["set-cookie", "sid=1"], ["x-api-key", "k-123"]],
            "body": {"text": encoded, "encoding": "base64", "size": 22},
        },
    }
    assert put(backend, "forgot", "exchange", body).status_code == 200
    # The same body is the same content, although it is stored masked.
    assert put(backend, "forgot", "exchange", body).status_code == 200
    stored = Exchange.model_validate(backend.get("/seq/sessions/forgot/exchange").json())
    assert stored.response.body is not None
    text = stored.model_dump_json() + stored.response.body.content.decode()
    assert [secret for secret in secrets if secret in text] == []
    assert stored.request.query == "a=1&api_key=%5Bredacted%5D&b=%C3%BC"
    assert stored.request.body is not None
    assert stored.request.body.text == "user=me&password=%5Bredacted%5D&note=a+b"
    # Masking masked content changes nothing.
    again = stored.model_dump(by_alias=True)
    assert put(backend, "forgot", "exchange", again).status_code == 200


def test_outcomes_keep_what_the_capture_mode_of_the_flow_keeps(backend: Backend) -> None:
    secret = {"message": "password: hunter2", "parameters": {"api_key": "k-123", "city": "Paris"}}
    error = {"statusCode": 429, "message": "password: hunter2", "details": {"password": "hunter2"}}
    outcomes = [
        {
            "kind": "step",
            "position": 0,
            "call": {"org": "acme", "project": "tests", "slug": slug, "request": secret},
            "error": error,
        }
        for slug in ("three", "redacted", "metadata", "nothing")
    ]
    put(backend, "modes", "outcomes", {"outcomes": outcomes})
    stored = Session.model_validate(backend.get("/seq/sessions/modes").json()).outcomes
    assert stored[0].call.request == secret
    masked = {"message": "password: [redacted]", "parameters": {"api_key": "[redacted]"}}
    masked["parameters"]["city"] = "Paris"  # type: ignore[index]  # its type is known here
    assert stored[1].call.request == masked
    for outcome in stored[1:]:
        assert "hunter2" not in outcome.model_dump_json()
        assert outcome.error is not None
        assert outcome.error.status_code == 429
    assert [outcome.call.request for outcome in stored[2:]] == [{}, {}]


def nested(levels: int) -> bytes:
    return b'{"request": ' + b"[" * levels + b"]" * levels + b"}"


NEVER_TAKEN = [
    b"",
    b"garbage",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"a": NaN}',
    b'{"a": "\\ud800"}',
    nested(150),
    nested(100_000),
    b'{"outcomes": {}, "boundaries": {}, "replayId": 5, "request": "x"}',
]
BAD_EXCHANGES: list[dict[str, Any]] = [
    {},
    {"request": {}, "response": {}},
    {"response": {"status": "200"}},
    {"response": {"status": 10**30}},
    {"response": {"status": 200, "body": {"text": "%%", "encoding": "base64"}}},
    {"response": {"status": 200, "body": {"text": "", "size": -1}}},
    {"request": {**EXCHANGE["request"], "method": "get\0"}},  # type: ignore[dict-item]  # wrong on purpose
    {"request": {**EXCHANGE["request"], "path": "/a\0b"}},  # type: ignore[dict-item]  # wrong on purpose
    {"request": {**EXCHANGE["request"], "path": "nowhere"}},  # type: ignore[dict-item]  # wrong on purpose
    {"request": {**EXCHANGE["request"], "headers": [["a"]]}},  # type: ignore[dict-item]  # wrong on purpose
]
BAD_OUTCOMES: list[dict[str, Any]] = [
    {"outcomes": [{**REFUSED, "kind": "other"}]},
    {"outcomes": [{**REFUSED, "position": -1}]},
    {"outcomes": None},
    {"outcomes": None, "totalCalls": -1},
    {"outcomes": [{**REFUSED, "position": "0"}]},
    {"outcomes": [{**REFUSED, "call": None}]},
    {"outcomes": [{**REFUSED, "call": {"slug": f"s{n}", "request": {}}} for n in range(1001)]},
    {"parent": {"sessionId": "a\0b"}},
]
BAD_REPORTS: list[dict[str, Any]] = [
    {},
    {"replayId": ""},
    {"replayId": "a\0b"},
    report(1, state="other"),
    report(1, report=[]),
]


BAD_BOUNDARIES: list[Any] = [
    {"boundaries": None},
    {"boundaries": [{"name": "", "position": 0}]},
    {"boundaries": [{"name": "a", "position": -1}]},
    {"boundaries": [{"name": "a", "position": "0"}]},
    {"boundaries": [{"name": "a", "position": 0, "chunks": [[-1, 1]]}]},
    {"boundaries": [{"name": "a", "position": n} for n in range(10_001)]},
    {"boundaries": [], "total": -1},
]


def test_additions_hostile_bodies_are_rejected_and_never_an_internal_error(stored: Backend) -> None:
    bad = {
        "exchange": [EXCHANGE | fields if fields else {} for fields in BAD_EXCHANGES],
        "outcomes": BAD_OUTCOMES,
        "boundaries": BAD_BOUNDARIES,
        "replays": BAD_REPORTS,
    }
    for name, bodies in bad.items():
        for body in [*NEVER_TAKEN, *bodies]:
            response = put(stored, "hostile", name, body)
            assert code_of(response) == (400, "INVALID_REQUEST"), body
        megabytes = 16 if name == "boundaries" else 8
        large = b'{"text": "%s"}' % (b"x" * (megabytes * 1024 * 1024))
        assert code_of(put(stored, "hostile", name, large)) == (413, "BODY_TOO_LARGE")
        assert code_of(put(stored, "a:b", name, {})) == (400, "SESSION_ID_INVALID")
        response = put(stored, "hostile", name, {}, Authorization="Bearer nk_unknown")
        assert response.status_code == 401
    assert code_of(stored.get("/seq/sessions/hostile")) == (404, "SESSION_NOT_FOUND")
    # Values that a text column cannot take are fine in JSON.
    awkward = {"text": "\0\U0001f600", "size": 10**30}
    exchange = {**EXCHANGE, "response": {"status": 200, "body": awkward}}
    call = {"org": "a\0b", "project": "../..", "slug": "\0\n", "request": {"nul": "\0"}}
    outcomes = {"outcomes": [{**REFUSED, "call": call, "position": 10**30}]}
    boundary = {"name": "a\0b", "position": 10**30, "result": "\0\U0001f600"}
    for name, body in [
        ("exchange", exchange),
        ("outcomes", outcomes),
        ("boundaries", {"boundaries": [boundary]}),
        ("replays", report(1, status=10**30, report={"nul": "\0"})),
    ]:
        assert put(stored, "awkward", name, body).status_code == 200
    read = stored.get("/seq/sessions/awkward").json()
    assert read["outcomes"][0]["call"]["request"] == {"nul": "\0"}
    assert read["boundaries"] == [boundary]
    assert stored.get("/seq/sessions/awkward/exchange").json()["response"]["body"]["text"] == "\0😀"


def test_exchange_of_many_writers_at_once_is_the_first_one(stored: Backend) -> None:
    bodies = [{**EXCHANGE, "response": {"status": 200 + number}} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda body: put(stored, "race", "exchange", body), bodies))
    winners = [n for n, response in enumerate(responses) if response.status_code == 200]
    assert len(winners) == 1
    assert {r.status_code for r in responses} == {200, 409}
    status = stored.get("/seq/sessions/race/exchange").json()["response"]["status"]
    assert status == 200 + winners[0]


def age(database: URL) -> None:
    """Move everything that is stored to 1970."""
    engine = create_engine(database.set(drivername=database.get_backend_name()))
    with engine.begin() as connection:
        connection.execute(update(executions).values(started_at=1))
        connection.execute(update(sessions).values(started_at=1))
        connection.execute(update(replays).values(stored_at=replays.c.stored_at % 1000))
    engine.dispose()


def test_additions_past_their_retention_are_410_and_deleted(tmp_path: Path) -> None:
    with serving(tmp_path, retention_days=1) as backend:
        backend.post(HELLO, MESSAGE, "with-run")
        for session in ("with-run", "without-run"):
            put(backend, session, "exchange", EXCHANGE)
            put(backend, session, "outcomes", OUTCOMES)
            put(backend, session, "boundaries", BOUNDARIES)
            put(backend, session, "replays", report(1))
        age(backend.settings.database_url)
        paths = [
            f"/seq/sessions/{session}{path}"
            for session in ("with-run", "without-run")
            for path in ("", "/exchange", "/replays")
        ]
        assert {code_of(backend.get(path)) for path in paths} == {(410, "SESSION_EXPIRED")}
    with serving(tmp_path, retention_days=1) as backend:
        assert {code_of(backend.get(path)) for path in paths} == {(410, "SESSION_EXPIRED")}
        assert code_of(put(backend, "without-run", "exchange", EXCHANGE))[0] == 410
    with serving(tmp_path) as backend:  # what is deleted stays so under a longer retention
        assert {code_of(backend.get(path)) for path in paths} == {(410, "SESSION_EXPIRED")}


@pytest.mark.parametrize("name", ["exchange", "outcomes", "boundaries", "replays"])
def test_additions_in_an_outage_are_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.store.database._BUSY_MS", 20)
    bodies = {"exchange": EXCHANGE, "outcomes": OUTCOMES, "boundaries": BOUNDARIES}
    body = bodies.get(name, report(1))
    with serving(tmp_path) as backend:
        with closing(
            sqlite3.connect(str(backend.settings.database), isolation_level=None)
        ) as other:
            other.execute("BEGIN IMMEDIATE")
            response = put(backend, "outage", name, body)
            assert code_of(response) == (503, "STORE_UNAVAILABLE")
        assert put(backend, "outage", name, body).status_code == 200


def test_session_delete_forgets_what_is_of_the_keys_organisation(stored: Backend) -> None:
    url = f"{stored.url}/api/v1/seq/otherorg/things/hello/execute"
    for session in ("gone", "shared"):
        stored.post("tests/three/execute", MESSAGE, session)
        for name, body in (
            ("exchange", EXCHANGE),
            ("outcomes", OUTCOMES),
            ("boundaries", BOUNDARIES),
            ("replays", report(1)),
        ):
            put(stored, session, name, body)
    httpx.post(url, json=MESSAGE, headers={**OTHER, "X-Session-Id": "shared"})
    assert code_of(stored.client.delete("/seq/sessions/gone", headers=OTHER))[0] == 404
    assert stored.client.delete("/seq/sessions/gone").status_code == 204
    for path in ("", "/exchange", "/replays"):
        assert code_of(stored.get(f"/seq/sessions/gone{path}")) == (404, "SESSION_NOT_FOUND")
    assert code_of(stored.client.delete("/seq/sessions/gone"))[0] == 404
    assert stored.client.delete("/seq/sessions/shared", headers=OTHER).status_code == 204
    assert [run["slug"] for run in stored.session("shared")] == ["three"]
    assert code_of(stored.get("/seq/sessions/shared", **OTHER))[0] == 404
    listed = stored.get("/seq/sessions").json()["sessions"]
    assert [(row["sessionId"], row["calls"]) for row in listed] == [("shared", 1)]


def test_session_delete_with_a_run_in_progress_is_409(fresh: Backend) -> None:
    job = fresh.submit("tests/gated", session="busy")
    assert code_of(fresh.client.delete("/seq/sessions/busy")) == (409, "SESSION_IN_PROGRESS")
    fresh.fakes.opened.set()
    fresh.finished("tests/gated", job)
    assert fresh.client.delete("/seq/sessions/busy").status_code == 204


def test_session_pin_keeps_it_beyond_the_retention(tmp_path: Path) -> None:
    with serving(tmp_path, retention_days=1) as backend:
        put(backend, "replayed", "replays", report(1))
        assert code_of(backend.client.put("/seq/sessions/replayed/pin"))[0] == 404
        for session in ("pinned", "unpinned"):
            backend.post(HELLO, MESSAGE, session)
            put(backend, session, "exchange", EXCHANGE)
            put(backend, session, "replays", report(1))
            response = backend.client.put(f"/seq/sessions/{session}/pin")
            assert response.json() == {"sessionId": session, "pinned": True}
        backend.client.delete("/seq/sessions/unpinned/pin")
        put(backend, "captured", "exchange", EXCHANGE)
        backend.client.put("/seq/sessions/captured/pin")
        age(backend.settings.database_url)
    with serving(tmp_path, retention_days=1) as backend:
        [run] = backend.session("pinned")
        assert run["call"]["request"] == MESSAGE
        assert run["events"]
        assert backend.get("/seq/sessions/pinned/exchange").status_code == 200
        assert len(backend.get("/seq/sessions/pinned/replays").json()["replays"]) == 1
        assert backend.get("/seq/sessions/captured").status_code == 200
        for path in ("", "/exchange", "/replays"):
            assert code_of(backend.get(f"/seq/sessions/unpinned{path}"))[0] == 410
        listed = backend.get("/seq/sessions").json()["sessions"]
        assert {row["sessionId"] for row in listed} == {"pinned", "captured"}
        assert code_of(backend.client.put("/seq/sessions/unpinned/pin"))[0] == 410
        assert backend.client.delete("/seq/sessions/unpinned").status_code == 204
        assert code_of(backend.get("/seq/sessions/unpinned"))[0] == 404
