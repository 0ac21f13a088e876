"""OpenTelemetry under the middleware: captured and replayed requests on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry import baggage, trace

from noukai_sdk import AsyncNoukai, Noukai
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware
from noukai_sdk.adapters.flask import init_noukai_trace
from tests.support.servers import serve_app, serve_wsgi, wait_until
from tests.support.sessions import RecordedSessions
from tests.support.spans import Spans, attributes, parent_of, provider_set

pytestmark = pytest.mark.usefixtures("replay_enabled")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    with provider_set(monkeypatch) as spans:
        yield spans


def fastapi_app(spans: Spans, noukai: AsyncNoukai) -> Any:
    """Return an app behind a middleware that makes the span of the request, outside of ours.

    Newer versions of FastAPI make one too.
    """
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)
    flow = noukai.flow("grade-3")

    @app.get("/grade/{text}")
    async def grade(text: str) -> Any:
        return [baggage.get_baggage("noukai.session.id"), (await flow.execute(text)).result]

    @app.get("/stream/{text}")
    async def stream(text: str) -> StreamingResponse:
        return StreamingResponse(event.type async for event in flow.events(text))

    async def with_span(scope: Any, receive: Any, send: Any) -> None:
        with spans.start(str(scope.get("path"))):
            await app(scope, receive, send)

    return with_span


def flask_app(spans: Spans, noukai: Noukai) -> flask.Flask:
    """Return an app whose request has its span inside of our middleware, as OpenTelemetry does it."""
    app = flask.Flask(__name__)
    init_noukai_trace(app, client=noukai)
    flow = noukai.flow("grade-3")

    @app.before_request
    def begin() -> None:
        flask.g.span = spans.start(flask.request.path)
        flask.g.span.__enter__()

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        flask.g.span.__exit__(None, None, None)

    @app.get("/grade/<text>")
    def grade(text: str) -> Any:
        return [baggage.get_baggage("noukai.session.id"), flow.execute(text).result]

    @app.get("/stream/<text>")
    def stream(text: str) -> Any:
        return flask.Response(event.type for event in flow.events(text))

    return app


@pytest.fixture(params=["fastapi", "flask"])
def http(
    request: pytest.FixtureRequest, sessions: RecordedSessions, spans: Spans
) -> Iterator[httpx.Client]:
    options = {"org": "acme", "project": "spelling", "otel_steps": True}
    if request.param == "fastapi":
        served = serve_app(fastapi_app(spans, AsyncNoukai(**options)))
    else:
        served = serve_wsgi(flask_app(spans, Noukai(**options)))
    with served as url, httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
        yield http


def test_captured_and_replayed_requests_at_once_have_their_own_traces(
    http: httpx.Client, sessions: RecordedSessions, spans: Spans
) -> None:
    def get(path: str, replay: str | None = None) -> tuple[str, str]:
        headers = {} if replay is None else {"X-Noukai-Replay": replay}
        response = http.get(path, headers=headers)
        assert response.status_code == 200, response.text
        session = response.headers["X-Noukai-Session"]
        if path.startswith("/grade"):
            assert response.json() == [session, f"grade-3: {path.rpartition('/')[2]}"]
        return path, session

    paths = [f"/{kind}/text-{number}" for number in range(8) for kind in ("grade", "stream")]
    with ThreadPoolExecutor(8) as pool:
        captured = dict(pool.map(get, paths))
        live = len(sessions.calls)
        # A request ends a moment after its client has the response.
        wait_until(lambda: len(spans.calls) == len(paths) and all(map(spans.root_of, spans.calls)))
        replayed = dict(pool.map(lambda path: get(path, captured[path]), paths))
    wait_until(lambda: len(spans.calls) == 2 * len(paths) and all(map(spans.root_of, spans.calls)))
    assert replayed == captured
    assert len(sessions.calls) == live == len(paths)

    by_id = {span.context.span_id: span for span in spans.ended}
    assert len({call.context.trace_id for call in spans.calls}) == 2 * len(paths)
    for number, call in enumerate(spans.calls):
        is_replay = number >= len(paths)
        values = attributes(call)
        assert values["noukai.replay"] is is_replay
        assert values["noukai.outcome"] == "completed"
        request = spans.root_of(call)
        assert request is not None
        # The request is marked as well: a dashboard can leave it out.
        assert attributes(request)["noukai.session.id"] == values["noukai.session.id"]
        assert attributes(request).get("noukai.replay", False) is is_replay
    for half in (spans.calls[: len(paths)], spans.calls[len(paths) :]):
        assert {attributes(call)["noukai.session.id"] for call in half} == {*captured.values()}
    steps = spans.named("step ")
    assert {by_id[parent_of(step) or 0].name for step in steps} == {
        "invoke_workflow acme/spelling/grade-3"
    }
    assert len(steps) == 2 * 8 * 2
    assert trace.get_current_span().get_span_context().is_valid is False
