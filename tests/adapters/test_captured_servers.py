"""``capture_requests`` behind real servers, and the replay of what they captured."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from noukai_sdk.models.exchanges import Exchange
from noukai_sdk.replay.resending import sent_again
from noukai_sdk.replay.response_diff import ReceivedResponse, compare_responses
from tests.support.servers import Server, serve_command, settings_of, wait_until
from tests.support.service import Reply, Request, Service
from tests.support.sessions import RecordedSessions

APPS = "tests.adapters.apps.capturing"
SERVERS = {
    "uvicorn": ["uvicorn", f"{APPS}:on_fastapi", "--port", "{port}"],
    "gunicorn": ["gunicorn", f"{APPS}:on_flask", "--bind", "127.0.0.1:{port}", "--threads", "4"],
}


class Stored:
    """A service that runs flows, and stores exchanges."""

    def __init__(self) -> None:
        self.sessions = RecordedSessions()
        self.exchanges: dict[str, Exchange] = {}

    def __call__(self, request: Request) -> Any:
        *_, session_id, name = request.path.split("/")
        if request.method != "PUT":
            return self.sessions(request) if name != "replays" else Reply({})
        self.exchanges[session_id] = Exchange.model_validate_json(request.raw)
        return Reply({})

    def of(self, response: Any) -> Exchange:
        session = response.headers["X-Noukai-Session"]
        return wait_until(lambda: self.exchanges.get(session), what="the exchange")


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest,
    service: tuple[Service, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    env = {**settings_of(f"{service[1]}/api/v1"), "NOUKAI_REPLAY_ENABLED": "true"}
    env["HOME"] = str(tmp_path_factory.mktemp("home"))  # for gunicorn's socket
    with serve_command(["python", "-m", *SERVERS[request.param]], env=env) as server:
        yield server
        output = server.output()
    expected = output.count("KeyError: 'mine'") + output.count("ClientDisconnect\n")
    assert output.count("Traceback") == expected, output


@pytest.fixture
def stored(service: tuple[Service, str]) -> Stored:
    stored = Stored()
    service[0].replies = [stored]
    return stored


@pytest.fixture
def http(server: Server, stored: Stored) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client


def test_captured_request_is_sent_again_and_compared(http: httpx.Client, stored: Stored) -> None:
    headers = {"Authorization": "Bearer an-opaque-token", "Cookie": "sid=abcdefgh", "X-Tenant": "a"}
    body = {"text": "The cat", "password": "hunter2"}
    captured = http.post("/grade/a%20b?token=abcdefgh&n=1", json=body, headers=headers)
    exchange = stored.of(captured)
    assert exchange.request.target == "/grade/a%20b?token=%5Bredacted%5D&n=1"
    assert ("x-tenant", "a") in exchange.request.headers
    text = exchange.model_dump_json()
    for secret in ("an-opaque-token", "abcdefgh", "hunter2"):
        assert secret not in text

    again = sent_again(exchange)
    replay = [*again.headers, ("X-Noukai-Replay", captured.headers["X-Noukai-Session"])]
    replayed = http.request(again.method, again.target, headers=replay, content=again.content)
    received = ReceivedResponse(
        replayed.status_code, replayed.headers.multi_items(), replayed.content
    )
    assert compare_responses(exchange.response, received) == []
    assert stored.of(captured) is exchange


def test_large_chunked_and_unread_uploads_work_as_before(
    http: httpx.Client, stored: Stored
) -> None:
    part = b"\x00" * 1_000_000
    response = http.post("/count", content=iter([part] * 30))  # chunked
    assert response.json() == {"size": 30_000_000}
    body = stored.of(response).request.body
    assert body is not None
    assert (body.size, body.truncated, body.complete) == (30_000_000, True, True)
    response = http.post("/count", content=part[:10], headers={"Expect": "100-continue"})
    assert response.json() == {"size": 10}
    for content in (b"", b"unread"):
        response = http.post("/unread", content=content)
        assert response.json() == {"ok": True}
        assert stored.of(response).request.body is None


def test_stream_failure_and_file_are_captured(
    http: httpx.Client, stored: Stored, request: pytest.FixtureRequest
) -> None:
    response = http.get("/stream")
    body = stored.of(response).response.body
    assert body is not None
    assert (body.text, body.complete) == ("data: 0\n\ndata: 1\n\ndata: 2\n\n", True)
    response = http.get("/boom")
    failed = stored.of(response).response
    assert failed.status == response.status_code == 500
    assert failed.body is not None
    assert failed.body.text == response.text
    if "gunicorn" in request.node.name:
        response = http.get("/file")
        body = stored.of(response).response.body
        assert body is not None
        assert (response.content, body.text) == (b"a file", "a file")


def test_client_that_leaves_in_its_upload_makes_it_incomplete(
    server: Server, stored: Stored, http: httpx.Client
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /count HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"half of it")
    exchanges = stored.exchanges
    exchange = wait_until(
        lambda: next(
            (each for each in [*exchanges.values()] if each.request.method == "POST"), None
        )
    )
    assert exchange.request.body is not None
    assert (exchange.request.body.size, exchange.request.body.complete) == (10, False)


def test_requests_at_once_are_not_mixed(http: httpx.Client, stored: Stored) -> None:
    responses: list[httpx.Response] = []

    def post(number: int) -> None:
        responses.append(http.post(f"/grade/{number}", json={"text": f"text {number}"}))

    threads = [threading.Thread(target=post, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for response in responses:
        exchange = stored.of(response)
        name = exchange.request.path.rpartition("/")[2]
        assert exchange.request.body is not None
        assert exchange.response.body is not None
        assert json.loads(exchange.request.body.text) == {"text": f"text {name}"}
        assert json.loads(exchange.response.body.text) == response.json()
        assert response.json()["name"] == name


@pytest.mark.parametrize("server", ["uvicorn"], indirect=True)
def test_websocket_is_captured_up_to_its_handshake(server: Server, stored: Stored) -> None:
    with connect(f"ws{server.url[4:]}/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello"
        assert websocket.response is not None
        response = websocket.response
    exchange = stored.of(response)
    assert (exchange.response.status, exchange.request.body) == (101, None)
