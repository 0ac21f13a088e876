"""The errors of models over the official clients: statuses, lost connections, malformed responses."""

from __future__ import annotations

import asyncio
import json
import socket
import traceback
from typing import Any

import pytest

from noukai_sdk.local.llm.chat import collect
from noukai_sdk.local.llm.errors import (
    LlmAuthenticationError,
    LlmConfigError,
    LlmConnectionError,
    LlmError,
    LlmRateLimitError,
    LlmRequestError,
    LlmResponseError,
    LlmServerError,
    LlmTimeoutError,
)
from tests.local.llm.calls import RETRY_NOW, call_model, happens, opened, request_of
from tests.support.llm_servers import (
    Exchange,
    FaultServer,
    Response,
    fault_server,
    ok,
    partial_stream,
    raw,
    silent,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("http_library")]


async def error_of(server: FaultServer, protocol: str, call: str, **options: Any) -> LlmError:
    """Make one call without retries, and return its error."""
    async with opened(protocol, server.url, **{"max_retries": 0, **options}) as model:
        with pytest.raises(LlmError) as caught:
            await call_model(model, call)
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, LlmRequestError),
        (401, LlmAuthenticationError),
        (403, LlmAuthenticationError),
        (404, LlmRequestError),
        (408, LlmTimeoutError),
        (409, LlmRequestError),
        (429, LlmRateLimitError),
        (500, LlmServerError),
        (529, LlmServerError),
    ],
)
async def test_status_maps_to_its_error(code: int, kind: type, protocol: str, call: str) -> None:
    with fault_server(status(code, x_request_id="req-1", request_id="req-1")) as server:
        error = await error_of(server, protocol, call)
    assert type(error) is kind
    assert (error.status_code, error.code, error.request_id) == (code, "fault", "req-1")
    assert str(error) == f"{protocol}:smollm2: {code} fault {code}"
    assert error.is_retryable == (code in (408, 429, 500, 529))
    assert type(error.__cause__).__module__.partition(".")[0] == protocol.partition("_")[0]


@pytest.mark.parametrize("body", ["plain text", {"detail": "odd"}, [1], {"error": "text"}])
async def test_status_with_unusual_body_still_maps_to_its_error(body: Any, protocol: str) -> None:
    with fault_server(status(500, body)) as server:
        error = await error_of(server, protocol, "answer")
    assert type(error) is LlmServerError
    assert "500" in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("-1", 0.0),
        ("nan", None),
        ("inf", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        (None, None),
    ],
)
async def test_rate_limit_error_has_the_seconds_of_retry_after(
    header: str | None, seconds: float | None
) -> None:
    headers = {} if header is None else {"retry_after": header}
    with fault_server(status(429, **headers)) as server:
        error = await error_of(server, "openai_compatible", "answer")
    assert isinstance(error, LlmRateLimitError)
    assert error.retry_after == seconds


@pytest.mark.parametrize("code", [408, 429, 500, 503])
async def test_retryable_status_is_retried_up_to_max_retries(
    code: int, protocol: str, call: str
) -> None:
    fault = status(code, **RETRY_NOW)
    with fault_server(fault, fault, ok("At last")) as server:
        async with opened(protocol, server.url) as model:
            assert (await call_model(model, call)).strip() == "At last"
    assert len(server.requests) == 3
    with fault_server(fault) as server:
        await error_of(server, protocol, call, max_retries=1)
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
async def test_other_status_is_not_retried(code: int, protocol: str, call: str) -> None:
    with fault_server(status(code, **RETRY_NOW)) as server:
        error = await error_of(server, protocol, call, max_retries=3)
    assert not error.is_retryable
    assert len(server.requests) == 1


async def test_unreachable_server_raises_connection_error(protocol: str, call: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with opened(protocol, url, max_retries=0) as model:
            with pytest.raises(LlmConnectionError, match="connect") as caught:
                await call_model(model, call)
    assert type(caught.value) is LlmConnectionError


async def test_response_cut_off_is_retried_then_raises(protocol: str) -> None:
    async def cut_off(exchange: Exchange) -> None:
        await exchange.start(200, {"content-type": "application/json", "content-length": "50"})
        await exchange.send_body(b'{"choices": ')
        raise ConnectionResetError("a fault on purpose")

    with fault_server(cut_off, ok("Again")) as server:
        async with opened(protocol, server.url) as model:
            assert await call_model(model, "answer") == "Again"
    with fault_server(cut_off) as server:
        error = await error_of(server, protocol, "answer")
    assert type(error) is LlmConnectionError


async def test_connection_closed_without_a_response_is_not_a_timeout(
    protocol: str, call: str
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = "http://{}:{}".format(*server.sockets[0].getsockname())
        async with opened(protocol, url, max_retries=0) as model:
            with pytest.raises(LlmConnectionError) as caught:
                await call_model(model, call)
    assert type(caught.value) is LlmConnectionError


async def test_stream_cut_off_raises_after_its_deltas(protocol: str) -> None:
    with fault_server(partial_stream("cut")) as server:
        async with opened(protocol, server.url) as model:
            deltas = model.stream(request_of())
            assert (await anext(deltas)).text.strip() == "Hello"
            with pytest.raises(LlmConnectionError) as caught:
                await collect(deltas)
    assert type(caught.value) is LlmConnectionError
    assert len(server.requests) == 1


async def test_stream_ended_too_early_raises_connection_error(protocol: str) -> None:
    page = raw(b"<html>Welcome</html>", "text/html")
    for fault in (partial_stream("end"), page):
        with fault_server(fault) as server:
            error = await error_of(server, protocol, "stream")
        assert type(error) is LlmConnectionError
        assert "before the response was complete" in str(error)


@pytest.mark.parametrize("fault", [silent(), partial_stream("stall")], ids=["silent", "stalled"])
async def test_timeout_raises_and_hangs_up(fault: Response, protocol: str, call: str) -> None:
    with fault_server(fault) as server:
        error = await error_of(server, protocol, call, timeout=0.2)
        assert await happens(server.hung_up)
    assert type(error) is LlmTimeoutError


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html>Welcome</html>", "text/html"),
        (b"<html>Welcome</html>", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[1, 2]", "application/json"),
        (b'{"choices": []}', "application/json"),
        (b'{"choices": [{"message": "text"}], "content": "text"}', "application/json"),
        (b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "application/json"),
        (b"event: message_start\ndata: {no json\n\n", "text/event-stream"),
        (b"event: message_start\ndata: [1]\n\n", "text/event-stream"),
        (b'event: message_start\ndata: {"id": 1}\n\n', "text/event-stream"),
    ],
)
async def test_malformed_response_raises_response_error(
    body: bytes, content_type: str, protocol: str
) -> None:
    call = "stream" if content_type == "text/event-stream" else "answer"
    with fault_server(raw(body, content_type)) as server:
        error = await error_of(server, protocol, call)
    assert type(error) is LlmResponseError


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("overloaded_error", LlmServerError), ("rate_limit_error", LlmRateLimitError)],
)
async def test_error_event_in_a_stream_maps_to_its_error(
    kind: str, expected: type, protocol: str
) -> None:
    event = {"type": "error", "error": {"type": kind, "message": "Too much"}}
    body = f"event: error\ndata: {json.dumps(event)}\n\n".encode()
    with fault_server(raw(body, "text/event-stream")) as server:
        error = await error_of(server, protocol, "stream")
    assert type(error) is expected
    assert error.code == kind
    assert "Too much" in str(error)


async def test_error_that_quotes_the_key_hides_it(protocol: str, call: str) -> None:
    key = "sk-very-secret"
    body = {"error": {"message": f"Incorrect API key: {key}", "type": "invalid"}}
    with fault_server(status(401, body)) as server:
        error = await error_of(server, protocol, call, key=key)
    assert type(error) is LlmAuthenticationError
    assert error.status_code == 401
    shown = "".join(traceback.format_exception(error)) + repr(vars(error))
    assert key not in shown
    assert "Incorrect API key: ..." in shown


async def test_error_that_holds_the_requests_headers_is_not_chained(protocol: str) -> None:
    key = "sk-never-to-be-seen"
    # aiohttp rejects such a header, with an error that carries the request.
    with fault_server(raw(b"{}", x_long="a" * 50_000)) as server:
        error: BaseException | None = await error_of(server, protocol, "answer", key=key)
    while error is not None:
        assert key not in repr(error)
        error = error.__cause__


async def test_other_errors_of_the_client_become_config_errors(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(protocol, "http://127.0.0.1:9") as model:
        errors = {"openai_compatible": "OpenAIError", "anthropic": "AnthropicError"}
        error: Exception = getattr(model._sdk, errors[protocol])("odd settings")

        async def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(type(model._client), "post", fail)
        with pytest.raises(LlmConfigError, match="odd settings"):
            await call_model(model, "answer")
        error = ZeroDivisionError()  # a bug in this program is not translated
        with pytest.raises(ZeroDivisionError):
            await call_model(model, "answer")
