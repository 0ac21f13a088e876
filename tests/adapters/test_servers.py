"""Test the README's examples behind real servers: uvicorn, ``flask run`` and gunicorn."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.servers import Server, serve_command, settings_of, wait_until
from tests.support.service import Service
from tests.support.sessions import RecordedSessions

FASTAPI = "tests.adapters.apps.on_fastapi:app"
FLASK = "tests.adapters.apps.on_flask:app"
# By default uvicorn and gunicorn close a connection after a few idle seconds, and a busy client may
# be sending on it then.
UVICORN = ["python", "-m", "uvicorn", FASTAPI, "--port", "{port}", "--timeout-keep-alive", "60"]
FLASK_RUN = ["python", "-m", "flask", "--app", FLASK, "run", "--port", "{port}"]
GUNICORN = ["python", "-m", "gunicorn", FLASK, "--bind", "127.0.0.1:{port}"]

SERVERS: dict[str, tuple[list[str], dict[str, str]]] = {
    "uvicorn": (UVICORN, {}),
    "uvicorn, instrumented": (UVICORN, {"TEST_INSTRUMENT": "1"}),
    "flask run": (FLASK_RUN, {}),
    "gunicorn": (GUNICORN, {}),
    "gunicorn, threads": ([*GUNICORN, "--threads", "8", "--keep-alive", "60"], {}),
}
ROUTES = ["grade", "stream", "gather"]
SYNC_ROUTES_ON_FASTAPI = ["sync", "sync-stream"]
TEXT = {"text": "The cat sat on the mat."}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest,
    service: tuple[Service, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """One server for all tests of this module, with replay enabled."""
    command, env = SERVERS[request.param]
    env = {**env, **settings_of(f"{service[1]}/api/v1"), "NOUKAI_REPLAY_ENABLED": "true"}
    # gunicorn creates a socket in the home folder.
    env["HOME"] = str(tmp_path_factory.mktemp("home"))
    with serve_command(command, env=env) as server:
        yield server
        output = server.output()
    assert output.count("Traceback") == output.count("KeyError: 'mine'"), output


@pytest.fixture
def http(server: Server, sessions: RecordedSessions) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


def replay_headers(captured: httpx.Response) -> dict[str, str]:
    return {"X-Noukai-Replay": captured.headers["X-Noukai-Session"]}


def test_replay_of_route_equals_capture_without_paid_call(
    http: httpx.Client, sessions: RecordedSessions, request: pytest.FixtureRequest
) -> None:
    on_fastapi = "uvicorn" in request.node.callspec.params["server"]
    for route in ROUTES + (SYNC_ROUTES_ON_FASTAPI if on_fastapi else []):
        sessions.calls.clear()
        sessions.fetched.clear()
        captured = http.post(f"/{route}", json=TEXT)
        assert captured.status_code == 200
        session = captured.headers["X-Noukai-Session"]
        assert {call[0] for call in sessions.calls} == {session}
        paid = len(sessions.calls)
        for _ in range(2):
            replayed = http.post(f"/{route}", json=TEXT, headers=replay_headers(captured))
            assert (replayed.status_code, replayed.content) == (200, captured.content)
            assert replayed.headers["X-Noukai-Session"] == session
            assert "misses=0; drift=0" in replayed.headers["X-Noukai-Replay-Report"]
        assert len(sessions.calls) == paid
        assert sessions.fetched == [session, session]


def test_replay_with_other_number_of_calls_fails(
    http: httpx.Client, sessions: RecordedSessions
) -> None:
    captured = http.get("/calls/2")
    for count in (1, 3):
        response = http.get(f"/calls/{count}", headers=replay_headers(captured))
        assert (response.status_code, response.json()["error"]) == (500, "replay_error")
        assert "grade-3" in response.json()["message"]
        assert response.headers["X-Noukai-Session"] == captured.headers["X-Noukai-Session"]
    assert len(sessions.calls) == 2


def test_replay_of_unknown_or_invalid_session_is_refused(
    http: httpx.Client, sessions: RecordedSessions
) -> None:
    unknown = http.post("/grade", json=TEXT, headers={"X-Noukai-Replay": "abc-123-def"})
    assert (unknown.status_code, unknown.json()["error"]) == (404, "replay_not_found")
    for session_id in ("../../admin", "a b", "%2e%2e", "x" * 200):
        response = http.post("/grade", json=TEXT, headers={"X-Noukai-Replay": session_id})
        assert (response.status_code, response.json()["error"]) == (400, "replay_invalid_session")
    assert sessions.fetched == ["abc-123-def"]
    assert sessions.calls == []


def test_error_response_carries_session(http: httpx.Client) -> None:
    assert http.get("/nowhere").headers["X-Noukai-Session"]
    assert http.head("/calls/0").headers["X-Noukai-Session"]
    response = http.get("/fails")
    assert response.status_code == 500
    assert response.headers["X-Noukai-Session"]


def test_kept_alive_connection_serves_captures_replays_and_refusals(http: httpx.Client) -> None:
    session_ids = set()
    for _ in range(3):
        captured = http.post("/stream", json=TEXT)
        session_ids.add(captured.headers["X-Noukai-Session"])
        replayed = http.post("/stream", json=TEXT, headers=replay_headers(captured))
        assert replayed.content == captured.content
        assert http.get("/calls/0", headers=replay_headers(captured)).status_code == 500
        unknown = {"X-Noukai-Replay": "unknown"}
        assert http.get("/calls/0", headers=unknown).status_code == 404
        assert http.head("/calls/0", headers=unknown).status_code == 404
    assert len(session_ids) == 3


def test_client_that_disconnects_in_stream_ends_it_silently(
    http: httpx.Client, server: Server, sessions: RecordedSessions
) -> None:
    def has_closed(count: int) -> bool:
        return bool(http.get("/closed").json() == count)

    output_before = len(server.output())
    headers: dict[str, str] = {}
    for _ in ("capture", "replay"):
        expected = http.get("/closed").json() + 1
        with (
            httpx.Client(base_url=server.url, trust_env=False) as leaving,
            leaving.stream("GET", "/endless", headers=headers) as response,
        ):
            next(response.iter_bytes())
        wait_until(partial(has_closed, expected), what="the end of the stream")
        assert response.headers["X-Noukai-Session"] == sessions.calls[0][0]
        headers = replay_headers(response)
    assert len(sessions.calls) == 1
    after = http.get("/calls/1")
    assert after.headers["X-Noukai-Session"] == sessions.calls[1][0] != sessions.calls[0][0]
    output = server.output()[output_before:]
    assert "replay of session" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn, threads"], indirect=True)
def test_concurrent_captures_and_replays_do_not_mix(
    server: Server, sessions: RecordedSessions
) -> None:
    limits = httpx.Limits(max_connections=32)
    with (
        httpx.Client(base_url=server.url, timeout=60, trust_env=False, limits=limits) as http,
        ThreadPoolExecutor(32) as pool,
    ):

        def capture(number: int) -> tuple[str, Any]:
            response = http.post("/grade", json={"text": f"text {number}"})
            assert response.json() == {"output": f"grade-3: text {number}"}
            return response.headers["X-Noukai-Session"], response.json()

        recorded = list(pool.map(capture, range(20)))

        def capture_or_replay(number: int) -> str | None:
            if number % 2:
                return capture(number)[0]
            session, expected = recorded[number % 20]
            headers = {"X-Noukai-Replay": session}
            replayed = http.post("/grade", json={"text": "x"}, headers=headers)
            assert (replayed.json(), replayed.headers["X-Noukai-Session"]) == (expected, session)
            return None

        captured = [session for session in pool.map(capture_or_replay, range(400)) if session]
    known = {session for session, _ in recorded}
    assert len(set(captured) - known) == 200
    assert {call[0] for call in sessions.calls} == {*captured, *known}
    assert len(sessions.calls) == 220


def test_replay_header_without_environment_variable_is_ignored(
    service: tuple[Service, str], sessions: RecordedSessions
) -> None:
    with serve_command(UVICORN, env=settings_of(f"{service[1]}/api/v1")) as server:
        captured = httpx.post(f"{server.url}/grade", json=TEXT)
        for header in (captured.headers["X-Noukai-Session"], "../../admin"):
            headers = {"X-Noukai-Replay": header}
            again = httpx.post(f"{server.url}/grade", json=TEXT, headers=headers)
            assert (again.status_code, again.content) == (200, captured.content)
            assert again.headers["X-Noukai-Session"] == sessions.calls[-1][0] != header
            assert "X-Noukai-Replay-Report" not in again.headers
    assert len(sessions.calls) == 3
    assert sessions.fetched == []


@pytest.mark.parametrize("server", ["uvicorn"], indirect=True)
def test_websocket_is_captured_replayed_and_refused(
    server: Server, sessions: RecordedSessions
) -> None:
    url = server.url.replace("http", "ws") + "/socket"

    def talk(headers: dict[str, str]) -> tuple[str, str]:
        with connect(url, additional_headers=headers) as websocket:
            websocket.send("The cat sat.")
            assert websocket.response is not None
            return websocket.response.headers["X-Noukai-Session"], str(websocket.recv())

    session, text = talk({})
    assert sessions.calls == [(session, "grade-3", "The cat sat.")]
    assert talk({"X-Noukai-Replay": session}) == (session, text)
    assert len(sessions.calls) == 1
    with pytest.raises(InvalidStatus) as refused:
        talk({"X-Noukai-Replay": "unknown"})
    assert refused.value.response.status_code == 404
    assert b"replay_not_found" in (refused.value.response.body or b"")
