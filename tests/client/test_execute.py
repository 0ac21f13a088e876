"""``execute``, over a real server."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import noukai_sdk
from noukai_sdk import ExecuteResult, FlowExecutionError, errors
from tests.support.service import DONE, Reply, Service
from tests.support.sides import Side

EVERYTHING: dict[str, Any] = {
    "message": "Input text",
    "parameters": {"difficulty": "hard"},
    "block_overrides": {"step-id": {"temperature": 0.5}},
    "attachments": [{"url": "https://files.test/a.png", "mime_type": "image/png"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "auto",
    "trace": True,
}
ON_THE_WIRE = {
    "message": "Input text",
    "parameters": {"difficulty": "hard"},
    "blockOverrides": {"step-id": {"temperature": 0.5}},
    "attachments": [{"url": "https://files.test/a.png", "mime_type": "image/png"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "toolChoice": "auto",
    "trace": True,
}


async def test_execute_returns_result(side: Side, service: Service) -> None:
    service.reply(DONE, Reply(b'\xef\xbb\xbf{"status": "failed", "result": 1}'))
    async with side.flow() as flow:
        result = await side.call(flow.execute, message="hi")
        after_byte_order_mark = await side.call(flow.execute, message="hi")
    assert result == ExecuteResult(
        status="completed",
        result={"grade": 3},
        flow_id="f",
        block_count=2,
        execution_id="e",
        request_id="req-1",
    )
    assert result.output == {"grade": 3}
    assert (result.session_id, result.requires_tool_calls) == (None, False)
    assert (after_byte_order_mark.status, after_byte_order_mark.result) == ("failed", 1)


async def test_execute_request_matches_the_wire(side: Side, service: Service) -> None:
    async with side.flow() as flow:
        await side.call(flow.execute, **EVERYTHING, session_id="s-1", extra_headers={"X-Mine": "1"})
    request = service.last
    assert (request.method, request.path) == ("POST", "/api/v1/seq/acme/spelling/grade-3/execute")
    assert request.body == ON_THE_WIRE
    headers = request.headers
    assert headers["authorization"] == "Bearer nk_test"
    assert headers["x-noukai-api-version"] == "2026-05-31"
    assert headers["content-type"] == "application/json"
    assert (headers["x-session-id"], headers["x-mine"]) == ("s-1", "1")
    agent = headers["user-agent"]
    assert agent.startswith(f"noukai-python/{noukai_sdk.__version__} (httpx/")
    assert "; python/3." in agent


async def test_execute_path_holds_encoded_slug_and_version(side: Side, service: Service) -> None:
    async with side.client() as client:
        flow = client.flow(org="a b", project="ü%", slug="x?y#z")
        for version in ("draft", 3):
            await side.call(flow.execute, message="hi", version=version)
    base = "/api/v1/seq/a%20b/%C3%BC%25/x%3Fy%23z"
    assert [request.path for request in service.requests] == [
        f"{base}/execute",
        f"{base}/v3/execute",
    ]


async def test_execute_messages_replace_message(side: Side, service: Service) -> None:
    turns = [{"role": "user", "content": "hi"}]
    async with side.flow() as flow:
        await side.call(flow.execute, messages=turns, message=None, parameters=None, tools=None)
    assert service.last.body == {"messages": turns}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.AuthenticationError),
        (402, errors.InsufficientCreditsError),
        (403, errors.PermissionDeniedError),
        (404, errors.FlowNotFoundError),
        (429, errors.RateLimitError),
        (400, errors.FlowExecutionError),
        (503, errors.FlowExecutionError),
    ],
)
async def test_execute_error_response_raises_with_its_details(
    side: Side, service: Service, status: int, kind: type[errors.NoukaiError]
) -> None:
    body = {"detail": {"code": "SOME_CODE", "message": "what happened"}}
    headers = {"www-authenticate": "Bearer", "retry-after": "2"}
    service.reply(Reply(body, status, headers))
    async with side.flow() as flow:
        with pytest.raises(kind, match="SOME_CODE: what happened") as caught:
            await side.call(flow.execute, message="hi")
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.request_id) == (status, "SOME_CODE", "req-1")
    assert error.response_body == body
    assert getattr(error, "retry_after", 2.0) == 2.0
    assert getattr(error, "www_authenticate", "Bearer") == "Bearer"
    assert len(service.requests) == 1


async def test_execute_response_not_valid_raises(side: Side, service: Service) -> None:
    service.reply(Reply(b"<html>welcome</html>", headers={"content-type": "text/html"}))
    async with side.flow() as flow:
        with pytest.raises(FlowExecutionError) as caught:
            await side.call(flow.execute, message="hi")
    assert (caught.value.code, caught.value.response_body) == (
        "INVALID_RESPONSE",
        "<html>welcome</html>",
    )


async def test_session_id_of_call_wins_over_client(side: Side, service: Service) -> None:
    async with side.flow(session_id="s-all") as flow:
        tagged = await side.call(flow.execute, message="hi")
        other = await side.call(flow.execute, message="hi", session_id="s-one")
    assert [request.headers["x-session-id"] for request in service.requests] == ["s-all", "s-one"]
    assert (tagged.session_id, other.session_id) == ("s-all", "s-one")


async def test_execute_not_awaited_sends_nothing(async_side: Side, service: Service) -> None:
    async with async_side.flow() as flow:
        waiting = flow.execute(message="hi")
        assert not service.requests
        assert (await waiting).result == {"grade": 3}


async def test_log_handler_and_logger_get_each_phase(
    side: Side, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[dict[str, Any]] = []
    with caplog.at_level(logging.DEBUG, "noukai_sdk"):
        async with side.flow(log_handler=events.append, log_payloads=True) as flow:
            await side.call(flow.execute, message="hi")
    assert [(event["phase"], event["status_code"]) for event in events] == [
        ("request", None),
        ("response", 200),
    ]
    assert events[1]["request_body"] == {"message": "hi"}
    assert events[1]["response_body"] == DONE
    assert events[1]["path"] == "/seq/acme/spelling/grade-3/execute"
    ours = [record.getMessage() for record in caplog.records if record.name == "noukai_sdk"]
    assert [line.split()[0] for line in ours] == ["phase=request", "phase=response"]
    assert "nk_test" not in repr(events) + caplog.text
