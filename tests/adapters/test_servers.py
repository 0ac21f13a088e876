"""The README's examples behind real servers: uvicorn, ``flask run`` and gunicorn."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.adapters.service import Service
from tests.support.redirect import dev_environment
from tests.support.servers import Server, serve_command, wait_until

FASTAPI = "tests.adapters.apps.on_fastapi:app"
FLASK = "tests.adapters.apps.on_flask:app"
# By themselves uvicorn and gunicorn hang up after a few idle seconds, in which a busy client may be
# sending.
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
TEXT = {"text": "The cat sat on the mat."}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest,
    running_service: tuple[Service, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """One server for all tests of this module, with the gate open."""
    command, env = SERVERS[request.param]
    env = {**env, **dev_environment(f"{running_service[1]}/api/v1")}
    # gunicorn keeps a socket in the home folder.
    env["HOME"] = str(tmp_path_factory.mktemp("home"))
    with serve_command(command, env={**env, "NOUKAI_REPLAY_ENABLED": "true"}) as server:
        yield server
        output = server.output()
    assert output.count("Traceback") == output.count("KeyError: 'mine'"), output


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


def replaying(answer: httpx.Response) -> dict[str, str]:
    return {"X-Noukai-Replay": answer.headers["X-Noukai-Session"]}


@pytest.mark.parametrize("route", ["grade", "stream", "gather"])
def test_a_replay_equals_its_capture_with_no_call_paid(
    http: httpx.Client, service: Service, route: str
) -> None:
    check_replay(http, service, route)


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn, instrumented"], indirect=True)
@pytest.mark.parametrize("route", ["sync", "sync-stream"])
def test_sync_endpoints_of_an_async_application(
    http: httpx.Client, service: Service, route: str
) -> None:
    check_replay(http, service, route)


def check_replay(http: httpx.Client, service: Service, route: str) -> None:
    captured = http.post(f"/{route}", json=TEXT)
    assert captured.status_code == 200
    session = captured.headers["X-Noukai-Session"]
    assert {call[0] for call in service.calls} == {session}
    paid = len(service.calls)
    for _ in range(2):
        replayed = http.post(f"/{route}", json=TEXT, headers=replaying(captured))
        assert (replayed.status_code, replayed.content) == (200, captured.content)
        assert replayed.headers["X-Noukai-Session"] == session
        assert "misses=0; drift=0" in replayed.headers["X-Noukai-Replay-Report"]
    assert len(service.calls) == paid
    assert service.fetched == [session, session]


@pytest.mark.parametrize("count", [1, 3])
def test_one_call_fewer_and_one_more(http: httpx.Client, service: Service, count: int) -> None:
    captured = http.get("/calls/2")
    answer = http.get(f"/calls/{count}", headers=replaying(captured))
    assert (answer.status_code, answer.json()["error"]) == (500, "replay_error")
    assert "grade-3" in answer.json()["message"]
    assert answer.headers["X-Noukai-Session"] == captured.headers["X-Noukai-Session"]
    assert len(service.calls) == 2


def test_unknown_and_hostile_sessions(http: httpx.Client, service: Service) -> None:
    unknown = http.post("/grade", json=TEXT, headers={"X-Noukai-Replay": "abc-123-def"})
    assert (unknown.status_code, unknown.json()["error"]) == (404, "replay_not_found")
    for hostile in ("../../admin", "a b", "%2e%2e", "x" * 200):
        answer = http.post("/grade", json=TEXT, headers={"X-Noukai-Replay": hostile})
        assert (answer.status_code, answer.json()["error"]) == (400, "replay_invalid_session")
    assert service.fetched == ["abc-123-def"]
    assert service.calls == []


def test_error_answers_and_head_carry_the_session(http: httpx.Client, server: Server) -> None:
    assert http.get("/nowhere").headers["X-Noukai-Session"]
    assert http.head("/calls/0").headers["X-Noukai-Session"]


def test_an_unhandled_500(http: httpx.Client, request: pytest.FixtureRequest) -> None:
    answer = http.get("/fails")
    assert answer.status_code == 500
    # add_middleware cannot reach the layer that answers it; instrument() can.
    is_reached = request.node.callspec.params["server"] != "uvicorn"
    assert ("X-Noukai-Session" in answer.headers) == is_reached


def test_a_kept_alive_connection_serves_captures_replays_and_refusals(
    server: Server, http: httpx.Client, service: Service
) -> None:
    sessions = set()
    for _ in range(10):
        captured = http.post("/stream", json=TEXT)
        sessions.add(captured.headers["X-Noukai-Session"])
        replayed = http.post("/stream", json=TEXT, headers=replaying(captured))
        assert replayed.content == captured.content
        assert http.get("/calls/0", headers=replaying(captured)).status_code == 500
        refused = http.get("/calls/0", headers={"X-Noukai-Replay": "unknown"})
        assert refused.status_code == 404
        assert http.head("/calls/0", headers={"X-Noukai-Replay": "unknown"}).status_code == 404
    assert len(sessions) == 10


@pytest.mark.parametrize("is_replay", [False, True])
def test_a_client_that_leaves_in_mid_stream(
    http: httpx.Client, server: Server, service: Service, is_replay: bool
) -> None:
    said = len(server.output())

    def leave(headers: dict[str, str]) -> httpx.Response:
        before = http.get("/closed").json()
        with (
            httpx.Client(base_url=server.url, trust_env=False) as leaving,
            leaving.stream("GET", "/endless", headers=headers) as answer,
        ):
            next(answer.iter_bytes())
        wait_until(lambda: http.get("/closed").json() == before + 1, what="the stream's end")
        return answer

    answer = leave({})
    if is_replay:
        answer = leave(replaying(answer))
    assert answer.headers["X-Noukai-Session"] == service.calls[0][0]
    assert len(service.calls) == 1
    after = http.get("/calls/1")
    assert after.headers["X-Noukai-Session"] == service.calls[1][0] != service.calls[0][0]
    assert "replay of session" not in server.output()[said:]
    assert "Traceback" not in server.output()[said:]


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn, threads"], indirect=True)
def test_interleaved_captures_and_replays_do_not_mix(server: Server, service: Service) -> None:
    limits = httpx.Limits(max_connections=32)
    with (
        httpx.Client(base_url=server.url, timeout=60, trust_env=False, limits=limits) as http,
        ThreadPoolExecutor(32) as pool,
    ):

        def capture(number: int) -> tuple[str, Any]:
            answer = http.post("/grade", json={"text": f"text {number}"})
            assert answer.json() == {"output": f"grade-3: text {number}"}
            return answer.headers["X-Noukai-Session"], answer.json()

        recorded = list(pool.map(capture, range(20)))

        def either(number: int) -> str | None:
            if number % 2:
                return capture(number)[0]
            session, expected = recorded[number % 20]
            headers = {"X-Noukai-Replay": session}
            replayed = http.post("/grade", json={"text": "x"}, headers=headers)
            assert (replayed.json(), replayed.headers["X-Noukai-Session"]) == (expected, session)
            return None

        captured = [session for session in pool.map(either, range(1000)) if session]
    known = {session for session, _ in recorded}
    assert len(set(captured) - known) == 500
    assert {call[0] for call in service.calls} == {*captured, *known}
    assert len(service.calls) == 520


@pytest.mark.parametrize("command", [UVICORN, FLASK_RUN], ids=["uvicorn", "flask run"])
def test_without_the_environment_variable_the_header_changes_nothing(
    command: list[str], running_service: tuple[Service, str], service: Service
) -> None:
    env = dev_environment(f"{running_service[1]}/api/v1")
    with serve_command(command, env=env) as server:
        captured = httpx.post(f"{server.url}/grade", json=TEXT)
        for header in (captured.headers["X-Noukai-Session"], "../../admin"):
            again = httpx.post(
                f"{server.url}/grade", json=TEXT, headers={"X-Noukai-Replay": header}
            )
            assert (again.status_code, again.content) == (200, captured.content)
            assert again.headers["X-Noukai-Session"] == service.calls[-1][0] != header
            assert "X-Noukai-Replay-Report" not in again.headers
    assert len(service.calls) == 3
    assert service.fetched == []


@pytest.mark.parametrize("server", ["uvicorn"], indirect=True)
def test_a_websocket(server: Server, service: Service) -> None:
    url = server.url.replace("http", "ws") + "/socket"

    def talk(headers: dict[str, str]) -> tuple[str, str]:
        with connect(url, additional_headers=headers) as websocket:
            websocket.send("The cat sat.")
            assert websocket.response is not None
            return websocket.response.headers["X-Noukai-Session"], str(websocket.recv())

    session, answer = talk({})
    assert service.calls == [(session, "grade-3", "The cat sat.")]
    assert talk({"X-Noukai-Replay": session}) == (session, answer)
    assert len(service.calls) == 1
    with pytest.raises(InvalidStatus) as refused:
        talk({"X-Noukai-Replay": "unknown"})
    assert refused.value.response.status_code == 404
    assert b"replay_not_found" in (refused.value.response.body or b"")
