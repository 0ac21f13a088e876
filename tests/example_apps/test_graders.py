"""Test both example apps on real servers: their responses, and that every route can be replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from example_apps.demo.exchange import ROUTES, SESSION_HEADER, Observer
from tests.support.servers import (
    Server,
    free_port,
    serve_app,
    serve_backend,
    serve_command,
    settings_of,
)

FASTAPI = "example_apps.fastapi_grader.main:app"
FLASK = "example_apps.flask_grader.main:app"
COMMANDS = {
    "uvicorn": ["python", "-m", "uvicorn", FASTAPI, "--port", "{port}"],
    "flask": ["python", "-m", "flask", "--app", FLASK, "run", "--port", "{port}"],
    "gunicorn": ["python", "-m", "gunicorn", FLASK, "--bind", "127.0.0.1:{port}", "--threads", "4"],
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A database with pupils and a server of rules; yields the variables by which apps find them."""
    database = f"sqlite:///{tmp_path_factory.mktemp('school') / 'school.db'}"
    command = ["python", "-m", "example_apps.school", "{port}"]
    with serve_command(command, env={"SCHOOL_DATABASE": database}) as server:
        yield {"SCHOOL_DATABASE": database, "SCHOOL_URL": server.url}


@pytest.fixture(scope="module", params=COMMANDS)
def command(request: pytest.FixtureRequest) -> list[str]:
    return COMMANDS[request.param]


@pytest.fixture(scope="module")
def app(command: list[str], backend: Server, school: dict[str, str]) -> Iterator[str]:
    """The root URL of an app with replay enabled."""
    env = settings_of(backend.api) | school | {"NOUKAI_REPLAY_ENABLED": "true"}
    with serve_command(command, env=env) as server:
        yield server.url


@pytest.fixture
def elsewhere(command: list[str], backend: Server, tmp_path: Path) -> Iterator[str]:
    """The URL of the same app on a machine with an empty database, where nobody serves the rules."""
    env = settings_of(backend.api) | {
        "SCHOOL_DATABASE": f"sqlite:///{tmp_path / 'empty.db'}",
        "SCHOOL_URL": f"http://127.0.0.1:{free_port()}",
        "NOUKAI_REPLAY_ENABLED": "true",
    }
    with serve_command(command, env=env) as server:
        yield server.url


@pytest.fixture
def observer(backend: Server) -> Iterator[Observer]:
    with closing(Observer(backend.url)) as observer:
        yield observer


@pytest.mark.parametrize(("kind", "path", "body"), ROUTES, ids=[kind for kind, _, _ in ROUTES])
def test_route_replayed_has_same_response_without_model_call(
    app: str, observer: Observer, kind: str, path: str, body: dict[str, Any]
) -> None:
    exchange = observer.capture_and_replay(app + path, body)
    assert exchange.captured.status == 200, exchange.captured.body
    assert exchange.captured.model_calls > 0
    assert exchange.replayed.body == exchange.captured.body
    assert exchange.replayed.model_calls == 0
    assert exchange.passed


PUPIL, ESSAY = "/pupils/2/essays", {"text": "Teh dog barks."}


def test_request_with_database_and_http_replays_where_both_are_missing(
    app: str, elsewhere: str
) -> None:
    captured = post(app + PUPIL, ESSAY)
    assert captured.json()["pupil"] == "Grace"
    assert captured.json()["rules"] > 0
    replayed = post(
        elsewhere + PUPIL, ESSAY, **{"X-Noukai-Replay": captured.headers[SESSION_HEADER]}
    )
    assert replayed.text == captured.text
    assert replayed.headers["x-noukai-replay-report"] == "hits=6; misses=0; drift=0; leftovers=0"


def post(url: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)


def test_stream_sends_steps_and_then_the_grade(app: str) -> None:
    response = post(f"{app}/grade/stream", {"text": "Teh cat."})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [part.partition("\ndata: ") for part in response.text.strip().split("\n\n")]
    assert [name for name, _, _ in events] == ["event: step", "event: step", "event: grade"]
    assert json.loads(events[-1][2])["grade"] == json.loads(events[-2][2])["output"]


def test_fan_out_returns_grades_in_order_of_texts(app: str) -> None:
    texts = ["One cat.", "Two cats.", "Three cats.", "Four cats."]
    grades = post(f"{app}/grade/many", {"texts": texts}).json()["grades"]
    alone = [post(f"{app}/grade", {"text": text}).json()["grade"] for text in texts]
    assert grades == alone
    assert len(set(alone)) == len(texts)


def test_tools_run_in_the_app(app: str) -> None:
    response = post(f"{app}/weather", {"question": "How is the weather in Oslo?"}).json()["answer"]
    assert "Oslo" in response
    assert "15" in response


@pytest.mark.parametrize("path", [path for _, path, _ in ROUTES])
@pytest.mark.parametrize("body", [{}, {"text": 3, "texts": "one", "question": None}])
def test_request_with_wrong_body_is_rejected_with_reason(app: str, path: str, body: Any) -> None:
    response = post(app + path, body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"]


async def failing_service(scope: Any, receive: Any, send: Any) -> None:
    """Respond as a service with the status that the message names."""
    body = json.loads((await receive())["body"])
    headers = [(b"retry-after", b"900"), (b"x-request-id", b"req-1")]
    status = int(body["message"])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    detail = json.dumps({"detail": {"code": "TROUBLE", "message": "secret detail"}}).encode()
    await send({"type": "http.response.body", "body": detail})


@pytest.fixture(scope="module", params=["uvicorn", "flask"])
def app_of_failing_service(request: pytest.FixtureRequest) -> Iterator[str]:
    command = COMMANDS[request.param]
    with (
        serve_app(failing_service, lifespan="off") as service,
        serve_command(command, env=settings_of(service)) as server,
    ):
        yield server.url


@pytest.mark.parametrize(("status", "app_status"), [(401, 502), (402, 502), (429, 429), (501, 502)])
def test_error_of_service_becomes_error_response_of_app(
    app_of_failing_service: str, status: int, app_status: int
) -> None:
    response = post(f"{app_of_failing_service}/grade", {"text": str(status)})
    assert response.status_code == app_status
    assert response.json() == {"error": "TROUBLE", "request_id": "req-1"}
    assert response.headers["x-noukai-session"]


def test_error_in_stream_is_its_last_event(app_of_failing_service: str) -> None:
    response = post(f"{app_of_failing_service}/grade/stream", {"text": "501"})
    problem = {"error": "TROUBLE", "request_id": "req-1"}
    assert response.text == f"event: error\ndata: {json.dumps(problem)}\n\n"


@pytest.mark.parametrize("name", ["uvicorn", "flask"])
def test_unreachable_service_is_a_bad_gateway(name: str) -> None:
    unused_url = f"http://127.0.0.1:{free_port()}/api/v1"
    with serve_command(COMMANDS[name], env=settings_of(unused_url)) as server:
        response = post(f"{server.url}/grade", {"text": "Teh cat."})
    assert response.status_code == 502
    assert response.json() == {"error": "APIConnectionError", "request_id": None}
