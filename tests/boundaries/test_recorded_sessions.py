"""Recorded functions in sessions of the service: captured, sent after the end, replayed and forked."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import Noukai, ReplayMissError, ReplayNoSnapshotsError, recorded, trace_scope_sync
from noukai_sdk.boundaries import log as boundary_log
from noukai_sdk.models.sessions import Session
from noukai_sdk.transport.background import flush
from tests.support.servers import Server, serve_backend

RUNS: list[str] = []


@recorded(name="load")
def load(name: str, password: str = "") -> dict[str, str]:
    RUNS.append(name)
    return {"name": name, "id": str(uuid.uuid4())}


@pytest.fixture(autouse=True)
def _clean() -> None:
    RUNS.clear()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Noukai]:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    with Noukai(base_url=server.api, api_key="nk_dev", org="acme", project="samples") as client:
        yield client


def capture(client: Noukai, *names: str) -> tuple[str, list[dict[str, str]]]:
    with trace_scope_sync(client=client) as scope:
        rows = [load(name, password="hunter2") for name in names]
    assert scope.session_id is not None
    assert flush(60)
    return scope.session_id, rows


def stored(server: Server, session_id: str) -> Session:
    response = httpx.get(
        f"{server.api}/seq/sessions/{session_id}", headers={"Authorization": "Bearer nk_dev"}
    )
    return Session.model_validate(response.json())


def test_session_of_recorded_functions_alone_replays(client: Noukai, server: Server) -> None:
    session_id, rows = capture(client, "a", "b")
    kept = stored(server, session_id).boundaries
    assert [(each.name, each.position) for each in kept] == [("load", 0), ("load", 1)]
    assert kept[0].arguments == {"name": "a", "password": "[redacted]"}
    RUNS.clear()
    for _ in range(2):
        with trace_scope_sync(client=client, replay_session_id=session_id) as scope:
            assert [load(name, password="hunter2") for name in "ab"] == rows
        assert scope.report.clean
    assert RUNS == []


def test_fork_serves_what_is_recorded_and_replays_whole_without_its_parent(
    client: Noukai, server: Server
) -> None:
    session_id, rows = capture(client, "a")
    RUNS.clear()
    with trace_scope_sync(client=client, replay_session_id=session_id, on_miss="live") as fork:
        more = [load("a", password="hunter2"), load("b")]
    assert (more[0], RUNS) == (rows[0], ["b"])
    assert [entry.slug for entry in fork.report.live] == ["load"]
    assert flush(60)
    assert fork.session_id is not None
    httpx.delete(
        f"{server.api}/seq/sessions/{session_id}", headers={"Authorization": "Bearer nk_dev"}
    )
    assert [each.position for each in stored(server, fork.session_id).boundaries] == [0, 1]
    with trace_scope_sync(client=client, replay_session_id=fork.session_id):
        assert [load("a", password="hunter2"), load("b")] == more
    assert RUNS == ["b"]


def test_limits_leave_out_what_is_too_much_and_say_so(
    client: Noukai,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(boundary_log, "MOST", 2)
    monkeypatch.setattr(boundary_log, "MOST_BYTES_OF_ONE", 200)
    session_id, _ = capture(client, "a", "b" * 300, "c")
    (told,) = (each for each in caplog.records if "is not kept" in each.message)
    assert told.levelno == logging.WARNING
    session = stored(server, session_id)
    assert session.total_boundaries == 3
    assert "and 200 are kept" in str(session.boundaries[1].unavailable)
    with trace_scope_sync(client=client, replay_session_id=session_id) as scope:
        load("a", password="hunter2")
        with pytest.raises(ReplayNoSnapshotsError, match="its values take"):
            load("b" * 300, password="hunter2")
        with pytest.raises(ReplayMissError, match="has 3 calls of recorded functions, and 2"):
            load("c", password="hunter2")
    assert len(scope.report.misses) == 2


def test_service_that_does_not_keep_them_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.path)
        return httpx.Response(404, json={"detail": "Not Found"})

    http = httpx.Client(transport=httpx.MockTransport(respond))
    url = f"http://{uuid.uuid4()}.test/api/v1"
    with http, Noukai(base_url=url, api_key="nk_x", http_client=http) as client:
        for _ in range(2):
            with trace_scope_sync(client=client):
                load("a")
            assert flush(60)
    told = [each for each in caplog.records if "does not keep the calls" in each.message]
    assert (len(sent), len(told)) == (1, 1)


def test_pulled_session_replays_from_the_file(
    client: Noukai, server: Server, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from noukai_sdk.cli.commands import noukai

    session_id, rows = capture(client, "a")
    path = tmp_path / "pulled.jsonl"
    options = ["--base-url", server.api]
    result = CliRunner().invoke(
        noukai,
        ["session", "pull", session_id, "-o", str(path), *options],
        env={"NOUKAI_API_KEY": "nk_dev"},
    )
    assert result.exit_code == 0, result.output
    with trace_scope_sync(cassette=path):
        assert [load("a", password="hunter2")] == rows


def test_boundaries_are_deleted_with_their_session_and_hidden_from_others(
    client: Noukai, server: Server
) -> None:
    session_id, _ = capture(client, "a")
    path = f"{server.api}/seq/sessions/{session_id}"
    mine = {"Authorization": "Bearer nk_dev"}
    empty = httpx.put(f"{path}/boundaries", json={"boundaries": []}, headers=mine)
    assert empty.status_code == 200
    assert httpx.get(path, headers=mine).status_code == 404
    body: dict[str, Any] = {"boundaries": [{"name": "load", "position": 0, "result": {"a": [1]}}]}
    for _ in range(2):  # replaces
        assert httpx.put(f"{path}/boundaries", json=body, headers=mine).status_code == 200
    (kept,) = httpx.get(path, headers=mine).json()["boundaries"]
    assert kept == {"name": "load", "position": 0, "result": {"a": [1]}}
    assert httpx.delete(path, headers=mine).status_code == 204
    assert httpx.get(path, headers=mine).status_code == 404


def test_values_as_large_as_the_limits_are_taken(
    client: Noukai, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    @recorded(name="table", redact=False)
    def table(rows: int) -> list[dict[str, int]]:
        return [{"n": number % 10} for number in range(rows)]

    deep: Any = 1
    for _ in range(110):
        deep = [deep]
    with trace_scope_sync(client=client) as scope:
        recorded.value("deep", lambda: deep)
        for _ in range(3):
            table(90_000)
    assert flush(60)
    kept = stored(server, str(scope.session_id)).boundaries
    assert [each.unavailable is None for each in kept] == [True, True, True, False]
    (told,) = (each for each in caplog.records if each.levelno == logging.WARNING)
    assert "more than 200,000 lists and objects" in told.message


def test_session_without_client_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boundary_log, "_warned_unsent", [])
    for _ in range(2):
        with trace_scope_sync():
            load("a")
    assert len([each for each in caplog.records if "no client is known" in each.message]) == 1


def test_flow_in_the_body_is_no_part_of_the_session_unless_live(
    client: Noukai, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    @recorded(name="greet")
    def greet(text: str) -> Any:
        load("inside")
        return client.flow("hello-world").execute(text).result

    @recorded(name="greet live", live=True)
    def greet_live(text: str) -> Any:
        return client.flow("hello-world").execute(text).result

    with trace_scope_sync(client=client) as scope:
        greetings = [greet("a"), greet("b"), greet_live("c")]
    assert flush(60)
    (told,) = (each for each in caplog.records if "inside the recorded function" in each.message)
    assert "acme/samples/hello-world" in told.message
    assert "greet" in told.message
    assert scope.session_id is not None
    session = stored(server, scope.session_id)
    assert [each["call"]["request"]["message"] for each in session.model_dump()["executions"]] == [
        "c"
    ]
    assert [each.name for each in session.boundaries] == ["greet", "greet", "greet live"]
    with trace_scope_sync(client=client, replay_session_id=scope.session_id) as replay:
        assert [greet("a"), greet("b"), greet_live("c")] == greetings
    assert replay.report.clean
    assert [entry.kind for entry in replay.report.hits] == ["recorded", "recorded", "execute"]


def test_what_if_keeps_the_boundaries_from_before_it_began(client: Noukai, server: Server) -> None:
    def program() -> list[Any]:
        return [load("a"), client.flow("hello-world").execute("Hi").result, load("b")]

    with trace_scope_sync(client=client) as captured:
        rows = program()
    assert flush(60)
    assert captured.session_id is not None
    with trace_scope_sync(client=client, replay_session_id=captured.session_id) as scope:
        first = load("a")
        scope.whatif("hello-world", message="Ho")
        rest = [client.flow("hello-world").execute("Hi").result, load("b")]
    assert (first, rest[1]) == (rows[0], rows[2])
    assert flush(60)
    assert scope.session_id not in (None, captured.session_id)
    kept = stored(server, str(scope.session_id)).boundaries
    assert [each.arguments["name"] for each in kept] == ["a", "b"]
