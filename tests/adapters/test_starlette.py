"""Test the Starlette and FastAPI adapters, with ``add_middleware`` and with ``instrument``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import noukai_sdk
from noukai_sdk import (
    AsyncNoukai,
    Noukai,
    NoukaiError,
    ReplayMissError,
    current_session_id,
    trace_scope,
)
from noukai_sdk.adapters import asgi
from noukai_sdk.adapters import starlette as starlette_adapter
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware, instrument
from tests.support.servers import wait_until
from tests.support.sessions import RecordedSessions

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_scope_leaks")]


def with_middleware(app: FastAPI, client: Any) -> FastAPI:
    app.add_middleware(NoukaiTraceMiddleware, client=client)
    return app


def with_instrument(app: FastAPI, client: Any) -> FastAPI:
    return instrument(app, client=client)


def with_both(app: FastAPI, client: Any) -> FastAPI:
    return instrument(with_middleware(app, client), client=client)


INSTALLERS = [with_middleware, with_instrument, with_both]
install_each_way = pytest.mark.parametrize("install", INSTALLERS)


def add_routes(app: FastAPI, noukai: AsyncNoukai, sync_noukai: Noukai) -> None:
    flow, sync_flow = noukai.flow("grade-3"), sync_noukai.flow("grade-3")

    @app.post("/plain")
    @noukai_sdk.trace
    async def plain(request: Request) -> dict[str, Any]:
        body = await request.json()
        result = await flow.execute(message=body["text"])
        return {"output": result.result}

    @app.post("/untraced")
    async def untraced() -> dict[str, Any]:
        return {"output": (await flow.execute(message="a")).result}

    @app.post("/sync")
    @noukai_sdk.trace
    def sync() -> dict[str, Any]:
        return {"output": sync_flow.execute(message="a").result}

    @app.post("/gather")
    @noukai_sdk.trace
    async def gather() -> dict[str, Any]:
        texts = ["a", "b", "c"]
        slugs = ["grade-3", "grade-4", "grade-5"]
        results: dict[str, Any] = {}

        async def one(slug: str, text: str) -> None:
            results[slug] = (await noukai.flow(slug).execute(message=text)).result

        async with anyio.create_task_group() as tasks:
            for slug, text in zip(slugs, texts, strict=True):
                tasks.start_soon(one, slug, text)
        return dict(sorted(results.items()))

    @app.post("/background")
    async def background(tasks: BackgroundTasks) -> dict[str, Any]:
        tasks.add_task(late)
        return {"session": current_session_id()}

    async def late() -> None:
        await flow.execute(message="late")

    async def session_of_dependency() -> AsyncIterator[str | None]:
        yield current_session_id()

    @app.post("/dependency")
    async def dependency(session: str = Depends(session_of_dependency)) -> dict[str, Any]:
        return {"sessions": [session, current_session_id()]}


def add_streams(app: FastAPI, noukai: AsyncNoukai, sync_noukai: Noukai) -> None:
    flow, sync_flow = noukai.flow("grade-3"), sync_noukai.flow("grade-3")

    @app.post("/stream")
    @noukai_sdk.trace
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts(), media_type="text/plain")

    async def parts() -> AsyncIterator[str]:
        async for step in flow.steps(message="a"):
            yield f"{step.step_id}={step.output};"
        yield str((await flow.execute(message="b")).result)

    @app.post("/sync-stream")
    def sync_stream() -> StreamingResponse:
        return StreamingResponse(sync_parts(), media_type="text/plain")

    @noukai_sdk.trace
    def sync_parts() -> Iterator[str]:
        for step in sync_flow.steps(message="a"):
            yield f"{step.step_id}={step.output};"
        yield str(sync_flow.execute(message="b").result)


@pytest.fixture(params=INSTALLERS)
async def http(
    request: pytest.FixtureRequest, noukai: AsyncNoukai, sync_noukai: Noukai
) -> AsyncIterator[httpx.AsyncClient]:
    app = request.param(FastAPI(), noukai)
    add_routes(app, noukai, sync_noukai)
    add_streams(app, noukai, sync_noukai)
    async with client_of(app) as client:
        yield client


def client_of(app: Any, *, raising: bool = True) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raising)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


ROUTES = ["plain", "untraced", "sync", "stream", "sync-stream", "gather", "background"]


@pytest.mark.parametrize("route", ROUTES)
async def test_replay_of_route_equals_capture_without_paid_call(
    http: httpx.AsyncClient, sessions: RecordedSessions, replay_enabled: None, route: str
) -> None:
    captured = await http.post(f"/{route}", json={"text": "The cat sat."})
    session = captured.headers["x-noukai-session"]
    assert captured.status_code == 200
    assert {call[0] for call in sessions.calls} == {session}
    paid = len(sessions.calls)
    assert paid

    replayed = await http.post(
        f"/{route}", json={"text": "The cat sat."}, headers={"X-Noukai-Replay": session}
    )
    assert (replayed.status_code, replayed.content) == (200, captured.content)
    assert replayed.headers["x-noukai-session"] == session
    assert "misses=0; drift=0" in replayed.headers["x-noukai-replay-report"]
    assert len(sessions.calls) == paid
    assert sessions.fetched == [session]


async def test_dependency_shares_session_of_route(http: httpx.AsyncClient) -> None:
    response = await http.post("/dependency")
    assert set(response.json()["sessions"]) == {response.headers["x-noukai-session"]}


async def test_replay_with_changed_request_body_reports_drift(
    http: httpx.AsyncClient, replay_enabled: None
) -> None:
    captured = await http.post("/plain", json={"text": "The cat sat."})
    headers = {"X-Noukai-Replay": captured.headers["x-noukai-session"]}
    replayed = await http.post("/plain", json={"text": "anything"}, headers=headers)
    assert replayed.json() == captured.json()
    assert "drift=1" in replayed.headers["x-noukai-replay-report"]


@pytest.fixture
def failing(noukai: AsyncNoukai) -> FastAPI:
    app = FastAPI()

    @app.get("/handled")
    async def handled() -> None:
        raise HTTPException(418, "teapot")

    @app.get("/unhandled")
    async def unhandled() -> None:
        raise KeyError("mine")

    @app.exception_handler(NoukaiError)
    async def noukai_failed(request: Request, error: NoukaiError) -> JSONResponse:
        return JSONResponse({"app": type(error).__name__}, 502)

    @app.get("/calls/{count}")
    async def calls(count: int) -> list[Any]:
        flow = noukai.flow("grade-3")
        return [(await flow.execute(message=str(number))).result for number in range(count)]

    @app.get("/swallows/{count}")
    async def swallows(count: int) -> str:
        try:
            await calls(count)
        except Exception:  # noqa: BLE001  # as in an application that must not fail
            return "sorry"
        return "fine"

    @app.get("/group/{count}")
    async def group(count: int) -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calls, count)
        return "fine"

    return app


@install_each_way
async def test_error_response_carries_session(
    failing: FastAPI, noukai: AsyncNoukai, install: Any
) -> None:
    async with client_of(install(failing, noukai), raising=False) as http:
        for path, status in (("/handled", 418), ("/nowhere", 404), ("/calls/x", 422)):
            response = await http.get(path)
            assert response.status_code == status
            assert response.headers["x-noukai-session"]
        response = await http.head("/handled")
        assert response.status_code == 405
        assert response.headers["x-noukai-session"]

        response = await http.get("/unhandled")
        assert (response.status_code, response.text) == (500, "Internal Server Error")
        assert response.headers["x-noukai-session"]


async def test_replay_with_unhandled_error_keeps_response_of_application(
    failing: FastAPI, noukai: AsyncNoukai, replay_enabled: None
) -> None:
    async with client_of(instrument(failing, client=noukai), raising=False) as http:
        session = (await http.get("/calls/1")).headers["x-noukai-session"]
        response = await http.get("/unhandled", headers={"X-Noukai-Replay": session})
        assert (response.status_code, response.text) == (500, "Internal Server Error")
        assert response.headers["x-noukai-session"] == session


@install_each_way
@pytest.mark.parametrize("path", ["calls", "swallows", "group"])
@pytest.mark.parametrize(("count", "misses", "leftovers"), [(1, 0, 1), (3, 1, 0)])
async def test_replay_with_other_number_of_calls_fails(
    failing: FastAPI,
    noukai: AsyncNoukai,
    replay_enabled: None,
    install: Any,
    path: str,
    count: int,
    misses: int,
    leftovers: int,
) -> None:
    async with client_of(install(failing, noukai)) as http:
        session = (await http.get("/calls/2")).headers["x-noukai-session"]
        headers = {"X-Noukai-Replay": session}
        response = await http.get(f"/{path}/{count}", headers=headers)
    assert (response.status_code, response.json()["error"]) == (500, "replay_error")
    assert "grade-3" in response.json()["message"]
    assert response.headers["x-noukai-session"] == session
    report = response.json()["report"]
    assert (len(report["misses"]), len(report["leftovers"])) == (misses, leftovers)


@install_each_way
async def test_base_http_middleware_shares_session_and_replay(
    failing: FastAPI, noukai: AsyncNoukai, replay_enabled: None, install: Any
) -> None:
    """BaseHTTPMiddleware runs the application in a task."""
    seen: list[Any] = []

    async def dispatch(request: Request, call_next: Any) -> Any:
        seen.append(current_session_id())
        response = await call_next(request)
        seen.append(current_session_id())
        return response

    failing.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    async with client_of(install(failing, noukai)) as http:
        captured = await http.get("/calls/1")
        session = captured.headers["x-noukai-session"]
        assert seen == [session, session]
        headers = {"X-Noukai-Replay": session}
        replayed = await http.get("/calls/1", headers=headers)
        assert (replayed.status_code, replayed.json()) == (200, captured.json())
        assert (await http.get("/calls/0", headers=headers)).status_code == 500
        assert (await http.get("/calls/2", headers=headers)).status_code == 500


async def test_mounted_application_with_own_middleware_shares_session(noukai: AsyncNoukai) -> None:
    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(current_session_id()))

    inner = Starlette(routes=[Route("/show", show)])
    inner.add_middleware(NoukaiTraceMiddleware, client=noukai)
    outer = starlette_adapter.instrument(Starlette(routes=[Mount("/in", inner)]), client=noukai)
    async with client_of(outer) as http:
        response = await http.get("/in/show")
        assert response.text == response.headers["x-noukai-session"]


async def test_instrument_after_startup_traces_requests(noukai: AsyncNoukai) -> None:
    sessions: list[str | None] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        sessions.append(current_session_id())
        yield

    app = FastAPI(lifespan=lifespan)
    async with LifespanManager(app) as running:
        assert sessions == [None]
        assert instrument(app, client=noukai) is app
        async with client_of(running.app) as http:
            assert (await http.get("/")).headers["x-noukai-session"]


async def test_instrument_with_invalid_argument_raises(noukai: AsyncNoukai) -> None:
    with pytest.raises(TypeError, match="client="):
        instrument(FastAPI(), client=None)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="takes a Starlette or FastAPI application, not <"):
        instrument(object(), client=noukai)  # type: ignore[type-var]  # on purpose


async def test_replay_through_sync_client_does_not_block_event_loop(
    sync_noukai: Noukai, replay_enabled: None
) -> None:
    app = FastAPI()

    @app.get("/")
    def grade() -> Any:
        return sync_noukai.flow("grade-3").execute(message="a").result

    app.add_middleware(NoukaiTraceMiddleware, client=sync_noukai)
    async with client_of(app) as http:
        captured = await http.get("/")
        headers = {"X-Noukai-Replay": captured.headers["x-noukai-session"]}
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        replayed = await http.get("/", headers=headers)
        ticking.cancel()
    assert replayed.json() == captured.json()
    assert ticks > 10


async def test_replay_error_raised_by_route_in_capture_is_raised(noukai: AsyncNoukai) -> None:
    app = FastAPI()

    @app.get("/")
    async def grade() -> None:
        raise ReplayMissError("of an own replay")

    async with client_of(with_middleware(app, noukai)) as http:
        with pytest.raises(ReplayMissError):
            await http.get("/")


def failing_app(kind: Any, **options: Any) -> Any:
    async def fail(request: Request) -> None:
        raise KeyError("mine")

    app = kind(**options)
    app.add_route("/fail", fail)
    return app


async def handle_async(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"handled": repr(error)}, 503, {"x-own": "yes"})


def handle(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"handled": repr(error)}, 503, {"x-own": "yes"})


class PassOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


class FailAfter(BaseHTTPMiddleware):
    """Fails by itself, on the way out."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        await call_next(request)
        raise KeyError("outside")


class CatchAll(BaseHTTPMiddleware):
    """Makes its own response of an exception, as many applications do."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except KeyError:
            return JSONResponse({"caught": True}, 500)


@pytest.mark.parametrize("kind", [FastAPI, Starlette])
@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ({}, 500, "Internal Server Error"),
        ({"debug": True}, 500, "KeyError"),
        ({"exception_handlers": {Exception: handle}}, 503, "handled"),
        ({"exception_handlers": {500: handle_async}}, 503, "handled"),
    ],
    ids=["plain", "debug", "handler", "async-handler"],
)
async def test_add_middleware_alone_tags_unhandled_errors(
    noukai: AsyncNoukai, replay_enabled: None, kind: Any, options: Any, status: int, text: str
) -> None:
    app = failing_app(kind, **options)
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)
    app.add_middleware(PassOn)
    sessions = set()
    async with client_of(app, raising=False) as http:
        for _ in range(3):
            response = await http.get("/fail")
            assert (response.status_code, text in response.text) == (status, True)
            assert (response.headers.get("x-own") == "yes") == (status == 503)
            sessions.add(response.headers["x-noukai-session"])
        assert len(sessions) == 3
        # A replay that fails like production is a good one.
        async with trace_scope() as scope:
            await noukai.flow("grade-3").execute(message="a")
        replayed = await http.get("/fail", headers={"X-Noukai-Replay": f"{scope.session_id}"})
        assert (replayed.status_code, text in replayed.text) == (status, True)
        assert replayed.headers["x-noukai-session"] == scope.session_id
        assert replayed.headers["x-noukai-replay-id"]
        assert "leftovers=1" in replayed.headers["x-noukai-replay-report"]
    # The exception still reaches the server.
    async with client_of(app) as http:
        with pytest.raises(KeyError, match="mine"):
            await http.get("/fail")


async def test_replay_waits_for_background_tasks_inside_of_other_middleware(
    noukai: AsyncNoukai, replay_enabled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BaseHTTPMiddleware sends the end of a response after the background tasks, as a second part."""
    monkeypatch.setattr(asgi, "LONGEST_HOLD", 0.0)
    app = FastAPI()
    texts = ["a"]

    @app.get("/")
    async def later(tasks: BackgroundTasks) -> str:
        async def call() -> None:
            await anyio.sleep(0.01)
            for text in texts:
                await noukai.flow("grade-3").execute(message=text)

        tasks.add_task(call)
        return "ok"

    app.add_middleware(PassOn)
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)
    async with client_of(app) as http:
        session = (await http.get("/")).headers["x-noukai-session"]
        replayed = await http.get("/", headers={"X-Noukai-Replay": session})
        assert "hits=1" in replayed.headers["x-noukai-replay-report"]
        texts.append("one more")
        missed = await http.get("/", headers={"X-Noukai-Replay": session})
    assert (missed.status_code, missed.json()["error"]) == (500, "replay_error")


async def test_middleware_that_catches_errors_outside_of_ours_still_does(
    noukai: AsyncNoukai, sessions: RecordedSessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "LONGEST_RESPONSE", 0.0)
    app = failing_app(FastAPI)
    app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)
    app.add_middleware(CatchAll)
    async with client_of(app) as http:
        assert (await http.get("/fail")).json() == {"caught": True}
    await anyio.to_thread.run_sync(wait_until, lambda: sessions.sent)
    ((_, kind, body),) = sessions.sent  # the request is captured, without the response
    assert (kind, body["request"]["path"], body["response"]["status"]) == (
        "exchange",
        "/fail",
        None,
    )


async def test_error_of_middleware_outside_of_ours_is_tagged(noukai: AsyncNoukai) -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: "fine")
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)
    app.add_middleware(FailAfter)
    async with client_of(app, raising=False) as http:
        response = await http.get("/")
    assert (response.status_code, bool(response.headers["x-noukai-session"])) == (500, True)


async def test_unhandled_error_of_mounted_app_is_tagged(noukai: AsyncNoukai) -> None:
    inner, outer = failing_app(FastAPI), FastAPI()
    inner.add_middleware(NoukaiTraceMiddleware, client=noukai)
    outer.mount("/inner", inner)
    async with client_of(outer, raising=False) as http:
        assert (await http.get("/inner/fail")).headers["x-noukai-session"]
    inner, outer = failing_app(FastAPI), FastAPI()
    outer.add_middleware(NoukaiTraceMiddleware, client=noukai)
    outer.mount("/inner", inner)
    async with client_of(outer, raising=False) as http:
        response = await http.get("/inner/fail")
    assert (response.status_code, bool(response.headers["x-noukai-session"])) == (500, True)
