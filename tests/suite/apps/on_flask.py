"""A Flask app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flask

from noukai_sdk.adapters.flask import init_noukai_trace
from tests.suite import sync_routes
from tests.suite.calls import Calls, Clients
from tests.suite.streams import frame, idle

clients = Clients()
app = flask.Flask(__name__)
init_noukai_trace(app, client=clients.sync, capture_requests=True)


def calls_of_request() -> Calls:
    return Calls(clients, flask.request.args["user"], flask.request.headers.get("X-Edit"))


@app.get("/idle")
def is_idle() -> Any:
    return flask.jsonify(idle())


@app.get("/s/<name>")
def sync_route(name: str) -> Any:
    return calls_of_request().serve(sync_routes.ROUTES[name])


@app.get("/events")
def events() -> flask.Response:
    calls = calls_of_request()

    def frames() -> Iterator[bytes]:
        yield frame(calls.response(calls.plan(), None))
        yield from map(frame, calls.events("last"))

    return flask.Response(frames(), mimetype="text/event-stream")


@app.get("/background")
def background() -> flask.Response:
    """Make calls when the response is closed."""
    calls = calls_of_request()
    response = flask.jsonify(calls.response(calls.plan(), None))
    response.call_on_close(lambda: calls.ask("last"))
    return response
