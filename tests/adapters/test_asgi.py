"""The ASGI middleware in capture mode, message by message."""

from __future__ import annotations

import uuid
from typing import Any

import anyio
import pytest

from noukai_sdk import AsyncNoukai, current_session_id, trace_scope
from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware
from noukai_sdk.session.scope import current_scope
from tests.support.asgi_driver import Connection, http_scope, websocket_scope

pytestmark = pytest.mark.anyio

CLIENT = AsyncNoukai(api_key="nk_test")
START = {"type": "http.response.start", "status": 200, "headers": []}


async def hello(scope: Any, receive: Any, send: Any) -> None:
    body = str(current_session_id()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": body})


def traced(app: Any) -> NoukaiTraceMiddleware:
    return NoukaiTraceMiddleware(app, client=CLIENT)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    assert current_scope() is None


async def test_the_answer_carries_the_session_of_the_request() -> None:
    answer = await Connection(traced(hello), http_scope()).run()
    session = answer.headers["x-noukai-session"]
    assert answer.body.decode() == session
    assert uuid.UUID(session).version == 4
    assert answer.headers["a"] == "b"
    assert "x-noukai-replay-report" not in answer.headers


async def test_each_request_has_a_session_of_its_own() -> None:
    app = traced(hello)
    answers = [await Connection(app, http_scope()).run() for _ in range(10)]
    assert len({answer.body for answer in answers}) == 10


async def test_installed_twice_it_acts_once() -> None:
    answer = await Connection(traced(traced(hello)), http_scope()).run()
    assert answer.headers["x-noukai-session"] == answer.body.decode()


async def test_a_scope_that_is_used_again_is_a_new_request() -> None:
    app, scope = traced(hello), http_scope()
    first = await Connection(app, scope).run()
    second = await Connection(app, scope).run()
    assert first.body != second.body
    assert second.headers["x-noukai-session"] == second.body.decode()


async def test_inside_a_scope_it_joins() -> None:
    async with trace_scope() as scope:
        answer = await Connection(traced(hello), http_scope()).run()
    assert answer.headers["x-noukai-session"] == answer.body.decode() == scope.session_id


async def test_inside_an_untagged_scope_there_is_no_session_to_name() -> None:
    async with trace_scope(capture=False):
        answer = await Connection(traced(hello), http_scope()).run()
    assert answer.body == b"None"
    assert "x-noukai-session" not in answer.headers


async def test_another_applications_header_is_replaced() -> None:
    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        passed_on = [(b"X-Noukai-Session", b"theirs"), (b"x-noukai-replay-report", b"hits=1")]
        await send({**START, "headers": passed_on})
        await send({"type": "http.response.body", "body": b""})

    answer = await Connection(traced(gateway), http_scope()).run()
    assert list(answer.headers) == ["x-noukai-session"]
    assert answer.headers["x-noukai-session"] != "theirs"


async def test_a_message_that_the_application_keeps_is_not_changed() -> None:
    start = {"type": "http.response.start", "status": 204}

    async def constant(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    for _ in range(2):
        assert len((await Connection(traced(constant), http_scope()).run()).headers) == 1
    assert start == {"type": "http.response.start", "status": 204}


async def test_lifespan_and_what_is_unknown_pass_through() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, current_session_id()))
        await send({"type": "lifespan.startup.complete"})

    scope = {"type": "lifespan"}
    connection = await Connection(traced(app), scope).run()
    assert seen == [({"type": "lifespan"}, None)]
    assert connection.sent == [{"type": "lifespan.startup.complete"}]


async def test_an_error_passes_through() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("mine")

    connection = Connection(traced(fails), http_scope())
    with pytest.raises(KeyError, match="mine"):
        await connection.run()
    assert connection.sent == []


async def test_cancellation_passes_through() -> None:
    async def forever(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as cancelled:
        await traced(forever)(http_scope(), None, None)
    assert cancelled.cancelled_caught


async def test_parts_go_out_as_they_come() -> None:
    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for part in (b"a", b"b", b""):
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})
            assert connection.sent[-1]["body"] == part

    connection = Connection(traced(streams), http_scope())
    await connection.run()
    assert connection.body == b"ab"


async def test_a_websocket_is_one_scope_and_its_accept_carries_the_session() -> None:
    sessions: list[Any] = []

    async def socket(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            sessions.append(current_session_id())
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept", "subprotocol": "x"})
            else:
                await send({"type": "websocket.send", "text": message["text"]})

    incoming = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    connection = await Connection(traced(socket), websocket_scope(), incoming).run()
    assert connection.types == ["websocket.accept", "websocket.send"]
    assert connection.headers == {"x-noukai-session": sessions[0]}
    assert connection.sent[0]["subprotocol"] == "x"
    assert sessions == [sessions[0]] * 2


async def test_a_websocket_that_the_application_denies_carries_it_too() -> None:
    async def denies(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    connection = await Connection(traced(denies), websocket_scope()).run()
    assert connection.status == 403
    assert connection.headers["x-noukai-session"]


async def test_1000_interleaved_requests_do_not_mix() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        before = current_session_id()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        assert current_session_id() == before
        await hello(scope, receive, send)

    app = traced(slow)
    answers = [Connection(app, http_scope()) for _ in range(1000)]
    async with anyio.create_task_group() as tasks:
        for answer in answers:
            tasks.start_soon(answer.run)
    assert len({answer.body for answer in answers}) == 1000
    assert all(a.body.decode() == a.headers["x-noukai-session"] for a in answers)


@pytest.mark.parametrize("client", [None, "nk_key", AsyncNoukai])
def test_it_needs_a_client(client: Any) -> None:
    with pytest.raises(TypeError, match="client="):
        NoukaiTraceMiddleware(hello, client=client)
