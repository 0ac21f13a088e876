"""The backend and the servers of the suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.suite.servers import Running, serving
from tests.support.servers import Server, serve_backend, settings_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests of a server one after the other, so that each server starts once."""
    ours = {item: name for item in items if (name := _server_of(item)) is not None}
    places = [index for index, item in enumerate(items) if item in ours]
    for index, item in zip(places, sorted(ours, key=lambda item: ours[item]), strict=True):
        items[index] = item


def _server_of(item: pytest.Item) -> str | None:
    if Path(__file__).parent not in item.path.parents or not isinstance(item, pytest.Function):
        return None
    return str(item.callspec.params["server"])


class Backend:
    """``noukai dev`` with the flows of this folder."""

    def __init__(self, server: Server, http: httpx.Client) -> None:
        self.api = server.api
        self._http = http

    def live_calls(self) -> int:
        """Return how many calls have reached a flow since the backend was started."""
        response = self._http.post("/seq/acme/suite/count/execute", json={"message": "count"})
        return int(response.json()["result"])

    def messages(self, session_id: str | None) -> list[str] | None:
        """Return the message of each call of a session, None while the session is not complete."""
        response = self._http.get(f"/seq/sessions/{session_id}")
        if response.status_code == 404:
            return None  # the request of a session without calls is sent after the response
        calls = response.json()["executions"]
        # A stream that the app has left waits for its next step.
        if any(call["status"] == "running" and call["triggerType"] != "step" for call in calls):
            return None
        return [call["call"]["request"]["message"] for call in calls]

    def recorded(self, session_id: str | None) -> int:
        """Return the number of calls of recorded functions in a session."""
        response = self._http.get(f"/seq/sessions/{session_id}")
        return len(response.json().get("boundaries", []))


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    flows = Path(__file__).parent / "flows"
    with serve_backend(tmp_path_factory.mktemp("backend"), flows=flows) as server:
        headers = {"Authorization": "Bearer nk_dev"}
        with httpx.Client(base_url=server.api, headers=headers, timeout=30) as http:
            yield Backend(server, http)


@pytest.fixture(scope="session")
def servers(
    backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Running]]:
    """Return a function that starts a server by its name and stops the one before."""
    env = {**settings_of(backend.api), "NOUKAI_REPLAY_ENABLED": "true"}
    # gunicorn creates a socket in the home folder.
    env["HOME"] = str(tmp_path_factory.mktemp("home"))
    running: list[Running] = []
    with ExitStack() as stack:

        def start(name: str) -> Running:
            if not running or running[0].name != name:
                stack.close()
                running[:] = [stack.enter_context(serving(name, env))]
            return running[0]

        yield start


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Callable[[str], Running]) -> Running:
    """Return the server of this name, with replay enabled."""
    return servers(request.param)
