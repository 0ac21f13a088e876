"""The servers of the suite, and what a test sends to them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.suite import async_routes, sync_routes
from tests.support.servers import Server, serve_command, wait_until

# `make replays` sets it: all servers and more replays instead of a thin slice.
ALL = "ALL_REPLAYS" in os.environ
REPLAYS = int(os.environ.get("ALL_REPLAYS", 3))

ASYNC = [f"/a/{name}" for name in async_routes.ROUTES]
SYNC = [f"/s/{name}" for name in sync_routes.ROUTES]
OUTLIVING = ("/a/late", "/a/not-awaited", "/a/worker")
STREAMS = ("/events", "/sync-events", "/socket")
MORE_ON_FASTAPI = [
    *("/background", "/dependencies", "/inside", "/sub/plain"),
    *("/events", "/sync-events", "/socket"),
]


# What `make test` leaves to `make replays`: they take long, or differ little from others.
SLOW = ("late", "thread", "to-thread", "own-pool", "close-together", "retry", "nothing")


@dataclass(frozen=True)
class App:
    """A command line that serves one app, and the routes of the app that the suite tests.

    Attributes:
        edited: The routes that are edited in `make test`, too.
    """

    command: str
    routes: list[str]
    env: dict[str, str] = field(default_factory=dict)
    edited: tuple[str, ...] = ()

    def tested(self, *, edited: bool) -> list[str]:
        if ALL:
            return self.routes
        return [
            route
            for route in self.routes
            if route.rpartition("/")[2] not in SLOW and (route in self.edited or not edited)
        ]


APPS = {
    "fastapi-uvicorn": App(
        "uvicorn tests.suite.apps.on_fastapi:app --timeout-keep-alive 60",
        [*ASYNC, *(SYNC if ALL else []), *MORE_ON_FASTAPI],
        edited=("/a/executor", "/a/completed", "/a/tools", "/background", "/events", "/socket"),
    ),
    "flask-gthread": App(
        "gunicorn tests.suite.apps.on_flask:app --threads 16 --keep-alive 60",
        [*SYNC, "/background", "/events"],
        edited=("/s/shared-pool", "/s/hedge", "/events"),
    ),
}
if ALL:
    APPS |= {
        "fastapi-hypercorn": App(
            "hypercorn tests.suite.apps.on_fastapi:app --keep-alive 60",
            [*ASYNC, *MORE_ON_FASTAPI],
            {"SUITE_OUTSIDE": "1"},
        ),
        "flask-gevent": App(
            "gunicorn tests.suite.apps.on_flask:app --worker-class gevent --keep-alive 60",
            [*SYNC, "/background", "/events"],
        ),
        "django-uvicorn": App(
            "uvicorn tests.suite.apps.on_django:asgi_app --timeout-keep-alive 60 --lifespan off",
            [*ASYNC, *SYNC, "/events"],
        ),
        "django-gunicorn": App(
            "gunicorn tests.suite.apps.on_django:wsgi_app --threads 16 --keep-alive 60",
            # Each async view has an event loop of its own, which ends with the view.
            [*(route for route in ASYNC if route not in OUTLIVING), *SYNC, "/sync-events"],
        ),
        "litestar-uvicorn": App(
            "uvicorn tests.suite.apps.on_litestar:app --timeout-keep-alive 60",
            [*ASYNC, *SYNC, "/background", "/dependencies", "/events", "/socket"],
        ),
        "quart-hypercorn": App(
            "hypercorn tests.suite.apps.on_quart:app --keep-alive 60",
            [*ASYNC, *SYNC, "/background", "/events", "/socket"],
        ),
    }


@dataclass
class Outcome:
    """A response, or what came over a websocket, and the report of a replay."""

    status: int
    body: Any
    session: str | None
    report: dict[str, Any]

    @property
    def result(self) -> str:
        """The verdict and the counts of a replay."""
        return f"{self.report['verdict']}: {self.report['summary']}"

    @property
    def findings(self) -> list[str]:
        """What happened to the calls of a replay, such as ``swapped``."""
        return [finding["what"] for finding in self.report["report"]["findings"]]


class Running:
    """A server of the suite that runs."""

    def __init__(self, server: Server, name: str) -> None:
        self.name = name
        self._server = server
        self.http = httpx.Client(base_url=server.url, timeout=60, trust_env=False)

    def send(
        self, route: str, user: str, *, replay: str | None = None, edit: str | None = None
    ) -> Outcome:
        """Send a request, and wait for the report if it is a replay."""
        headers = {"X-Noukai-Replay": replay} if replay else {}
        headers |= {"X-Edit": edit} if edit else {}
        if route == "/socket":
            status, body, received = self._talk(f"{route}?user={user}", headers)
        else:
            status, body, received = self._get(route, user, headers)
        return Outcome(status, body, received.get("X-Noukai-Session"), self._report(received))

    def _get(self, route: str, user: str, headers: dict[str, str]) -> tuple[int, Any, Any]:
        if route in STREAMS:
            # A server may end the response of an app that fails as if all were well, and close the
            # connection all the same.
            headers = {**headers, "Connection": "close"}
        with self.http.stream("GET", route, params={"user": user}, headers=headers) as response:
            parts: list[str] = []
            with suppress(httpx.RemoteProtocolError):  # a stream that fails is cut off
                parts.extend(response.iter_text())
        text = "".join(parts)
        body = text if route in STREAMS else json.loads(text)
        return response.status_code, body, response.headers

    def leave(self, route: str, user: str, *, replay: str | None = None) -> Outcome:
        """Read the first event of a stream and leave; return the event as the body."""
        headers = {"X-Noukai-Replay": replay} if replay else {}
        with (
            httpx.Client(base_url=self._server.url, timeout=60, trust_env=False) as leaving,
            leaving.stream("GET", route, params={"user": user}, headers=headers) as response,
        ):
            event = next(response.iter_lines())
        session = response.headers["X-Noukai-Session"]
        return Outcome(response.status_code, event, session, self._report(response.headers))

    def _talk(self, path: str, headers: dict[str, str]) -> tuple[int, Any, Any]:
        received = []
        url = self._server.url.replace("http", "ws") + path
        with connect(url, additional_headers=headers) as socket:
            assert socket.response is not None
            with suppress(ConnectionClosed):
                for message in ("one", "two", "bye"):
                    received.append(json.loads(socket.recv()))
                    socket.send(message)
                received += [json.loads(message) for message in socket]
            return socket.response.status_code, received, socket.response.headers

    def _report(self, headers: Any) -> dict[str, Any]:
        replay_id = headers.get("X-Noukai-Replay-Id")
        if replay_id is None:
            return {}

        def finished() -> Any:
            response = self.http.get("/", headers={"X-Noukai-Replay-Report": replay_id})
            report = response.json()
            return report if report["state"] == "finished" else None

        return dict(wait_until(finished, what="the report of a replay"))

    def becomes_idle(self) -> None:
        """Wait until nothing runs any more, after the response of a captured request either."""
        wait_until(lambda: self.http.get("/idle").json() is True, what="the end of all requests")

    def output(self) -> str:
        return self._server.output()


@contextmanager
def serving(name: str, env: dict[str, str]) -> Iterator[Running]:
    app = APPS[name]
    program, *arguments = app.command.split()
    bind = ["--port", "{port}"] if program == "uvicorn" else ["--bind", "127.0.0.1:{port}"]
    command = ["python", "-m", program, *arguments, *bind]
    with serve_command(command, env={**env, **app.env}, ready="/idle") as server:
        running = Running(server, name)
        with running.http:
            yield running
