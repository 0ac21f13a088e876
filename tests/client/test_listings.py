"""``client.sessions`` and ``client.flows``: pages, filters, and services that lack the routes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote

import pytest

from noukai_sdk import (
    FlowExecutionError,
    NotSupportedError,
    PermissionDeniedError,
    SessionNotFoundError,
)
from tests.support.service import Reply, Service
from tests.support.sides import Side


def sessions(*names: str, cursor: str | None = None) -> dict[str, Any]:
    return {"sessions": [{"sessionId": name} for name in names], "nextCursor": cursor}


async def test_sessions_list_reads_pages_as_they_are_needed(
    every_side: Side, service: Service
) -> None:
    service.reply(sessions("a", "b", cursor="x y"), sessions(), sessions("c", cursor="z"))
    async with every_side.client() as client:
        since = datetime(2026, 11, 22, tzinfo=timezone.utc)
        listed = client.sessions.list(flow="grade-3", status="failed", since=since, page_size=2)
        found = await every_side.collect(listed)
        assert [each.session_id for each in found] == ["a", "b"]
        first = await every_side.collect(client.sessions.list(), stop=lambda each: True)
        assert [each.session_id for each in first] == ["c"]
    query = "flow=grade-3&status=failed&since=2026-11-22T00:00:00+00:00&limit=2"
    # HTTP libraries differ in whether they encode a colon.
    assert [unquote(request.path) for request in service.requests] == [
        f"/api/v1/seq/sessions?{query}",
        f"/api/v1/seq/sessions?{query}&cursor=x+y",
        "/api/v1/seq/sessions",
    ]


async def test_flows_list_reads_pages(side: Side, service: Service) -> None:
    flow = {"org": "acme", "project": "spelling", "slug": "grade-3"}
    service.reply({"flows": [flow], "nextCursor": "n"}, {"flows": [{**flow, "slug": "b"}]})
    async with side.client() as client:
        found = await side.collect(client.flows.list(q="spell", problems=True))
    assert [each.address for each in found] == ["acme/spelling/grade-3", "acme/spelling/b"]
    assert service.requests[0].path == "/api/v1/flows?q=spell&problems=true"


async def test_session_is_read_and_deleted(side: Side, service: Service) -> None:
    service.reply({"sessionId": "s1", "executions": []}, Reply(b"", 204))
    async with side.client() as client:
        assert (await side.call(client.sessions.get, "s1")).session_id == "s1"
        assert await side.call(client.sessions.delete, "s1") is None
    assert [(each.method, each.path) for each in service.requests] == [
        ("GET", "/api/v1/seq/sessions/s1"),
        ("DELETE", "/api/v1/seq/sessions/s1"),
    ]


async def test_malformed_session_id_is_a_wrong_argument_and_sends_nothing(
    side: Side, service: Service
) -> None:
    async with side.client() as client:
        for call in (client.sessions.get, client.sessions.delete):
            with pytest.raises(ValueError, match="bad session id"):
                await side.call(call, "../x")
    assert service.requests == []


async def test_missing_session_and_missing_route_are_told_apart(
    side: Side, service: Service
) -> None:
    unknown = Reply({"detail": {"code": "SESSION_NOT_FOUND", "message": "no session"}}, 404)
    no_route = Reply({"detail": "Not Found"}, 404)
    no_method = Reply({"detail": "Method Not Allowed"}, 405)
    forbidden = Reply({"detail": "no"}, 403)
    in_progress = Reply({"detail": {"code": "SESSION_IN_PROGRESS", "message": "wait"}}, 409)
    async with side.client() as client:

        async def raises(error: type[Exception], match: str, reply: Reply, call: Any) -> Any:
            service.reply(reply)
            with pytest.raises(error, match=match) as caught:
                await call()
            return caught.value

        async def read() -> None:
            await side.call(client.sessions.get, "s1")

        async def remove() -> None:
            await side.call(client.sessions.delete, "s1")

        async def list_all() -> None:
            await side.collect(client.sessions.list())

        async def list_flows() -> None:
            await side.collect(client.flows.list())

        await raises(SessionNotFoundError, "there is no session s1", no_route, read)
        error = await raises(SessionNotFoundError, "there is no session s1", unknown, remove)
        assert (error.status_code, error.code, error.request_id) == (
            404,
            "SESSION_NOT_FOUND",
            "req-1",
        )
        await raises(NotSupportedError, "cannot delete sessions .HTTP 404", no_route, remove)
        await raises(NotSupportedError, "cannot delete sessions .HTTP 405", no_method, remove)
        await raises(NotSupportedError, "cannot list sessions .*noukai dev", no_route, list_all)
        await raises(NotSupportedError, "cannot list flows", no_method, list_flows)
        await raises(PermissionDeniedError, "no", forbidden, list_all)
        await raises(FlowExecutionError, "SESSION_IN_PROGRESS", in_progress, remove)
