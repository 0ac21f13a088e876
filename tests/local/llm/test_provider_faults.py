"""What models over the official clients make of a provider's faults."""

from __future__ import annotations

import json
import socket
import traceback
from contextlib import aclosing
from typing import Any

import pytest

from noukai_sdk.local.llm.chat import ChatModel
from noukai_sdk.local.llm.embeddings import EmbeddingClient
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
from noukai_sdk.local.llm.providers import open_config
from tests.local.llm.calls import SOON, ask, asking, config, happened
from tests.support.llm_servers import (
    FaultServer,
    cut,
    ended_early,
    fault_server,
    ok,
    raw,
    silent,
    stalled,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("with_and_without_aiohttp")]


@pytest.fixture
def anyio_backend() -> str:
    """The official clients run on trio too, but leave generators behind, of which trio warns."""
    return "asyncio"


@pytest.fixture(params=["answer", "stream"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def failure(server: FaultServer, protocol: str, how: str, **options: Any) -> LlmError:
    """The error of one call without retries."""
    settings = {"max_retries": 0, **options}
    async with aclosing(open_config(config(protocol, server.url, **settings))) as model:
        with pytest.raises(LlmError) as caught:
            await ask(model, how)
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
async def test_each_status_has_its_error(code: int, kind: type, protocol: str, how: str) -> None:
    with fault_server(status(code, x_request_id="req-1", request_id="req-1")) as server:
        error = await failure(server, protocol, how)
    assert type(error) is kind
    assert (error.status_code, error.code, error.request_id) == (code, "fault", "req-1")
    assert str(error) == f"{protocol}:smollm2: {code} fault {code}"
    assert error.is_retryable == (code in (408, 429, 500, 529))
    assert error.__cause__ is not None


@pytest.mark.parametrize("body", ["plain text", {"detail": "odd"}, [1], {"error": "text"}])
async def test_odd_error_bodies_still_make_an_error(body: Any, protocol: str) -> None:
    with fault_server(status(500, body)) as server:
        error = await failure(server, protocol, "answer")
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
async def test_retry_after_is_told(header: str | None, seconds: float | None) -> None:
    headers = {} if header is None else {"retry_after": header}
    with fault_server(status(429, **headers)) as server:
        error = await failure(server, "openai_compatible", "answer")
    assert isinstance(error, LlmRateLimitError)
    assert error.retry_after == seconds


@pytest.mark.parametrize("code", [408, 429, 500, 503])
async def test_what_can_be_retried_is(code: int, protocol: str, how: str) -> None:
    with fault_server(status(code, **SOON), status(code, **SOON), ok("At last")) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            assert (await ask(model, how)).strip() == "At last"
    assert len(server.asked) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
async def test_what_cannot_be_retried_is_not(code: int, protocol: str, how: str) -> None:
    with fault_server(status(code, **SOON)) as server:
        error = await failure(server, protocol, how, max_retries=3)
    assert not error.is_retryable
    assert len(server.asked) == 1


async def test_retries_end(protocol: str) -> None:
    with fault_server(status(503, **SOON)) as server:
        await failure(server, protocol, "answer", max_retries=2)
    assert len(server.asked) == 3


async def test_the_next_attempt_waits_as_retry_after_says(protocol: str) -> None:
    # By itself the client would wait half a second at most.
    with fault_server(status(429, retry_after="1"), ok()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            await ask(model, "answer")
    first, second = server.asked
    assert second.at - first.at >= 1


async def test_nobody_listens(protocol: str, how: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with aclosing(open_config(config(protocol, url, max_retries=0))) as model:
            with pytest.raises(LlmConnectionError) as caught:
                await ask(model, how)
    assert type(caught.value) is LlmConnectionError
    assert "connection" in str(caught.value).lower()


async def test_a_cut_stream_is_an_error_after_its_pieces(protocol: str) -> None:
    with fault_server(cut()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            texts: list[str] = []
            with pytest.raises(LlmConnectionError) as caught:
                await read_into(texts, model)
    assert texts[0].strip() == "Hello"
    assert type(caught.value) is LlmConnectionError
    assert len(server.asked) == 1


async def read_into(texts: list[str], model: ChatModel) -> None:
    async for piece in model.stream(asking()):
        texts.append(piece.text)  # noqa: PERF401  # what came before the error must be kept


async def test_a_stream_that_ends_too_early_is_an_error(protocol: str) -> None:
    with fault_server(ended_early()) as server:
        error = await failure(server, protocol, "stream")
    assert type(error) is LlmConnectionError
    assert "before the answer was complete" in str(error)


async def test_no_answer_in_time(protocol: str, how: str) -> None:
    with fault_server(silent()) as server:
        error = await failure(server, protocol, how, timeout=0.1)
        assert await happened(server.hung_up)
    assert type(error) is LlmTimeoutError


async def test_a_stream_that_stalls(protocol: str) -> None:
    with fault_server(stalled()) as server:
        error = await failure(server, protocol, "stream", timeout=0.2)
        assert await happened(server.hung_up)
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
    ],
)
async def test_an_answer_that_is_garbage(body: bytes, content_type: str, protocol: str) -> None:
    with fault_server(raw(body, content_type)) as server:
        error = await failure(server, protocol, "answer")
    assert type(error) is LlmResponseError


@pytest.mark.parametrize(
    "body",
    [
        b"event: message_start\ndata: {no json\n\n",
        b"event: message_start\ndata: [1]\n\n",
        b'event: message_start\ndata: {"id": 1}\n\n',
    ],
)
async def test_a_stream_that_is_garbage(body: bytes, protocol: str) -> None:
    with fault_server(raw(body, "text/event-stream")) as server:
        error = await failure(server, protocol, "stream")
    assert type(error) is LlmResponseError


async def test_a_page_where_a_stream_should_be(protocol: str) -> None:
    with fault_server(raw(b"<html>Welcome</html>", "text/html")) as server:
        error = await failure(server, protocol, "stream")
    assert type(error) is LlmConnectionError


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("overloaded_error", LlmServerError), ("rate_limit_error", LlmRateLimitError)],
)
async def test_an_error_inside_a_stream(kind: str, expected: type, protocol: str) -> None:
    error_event = {"type": "error", "error": {"type": kind, "message": "Too much"}}
    body = f"event: error\ndata: {json.dumps(error_event)}\n\n".encode()
    with fault_server(raw(body, "text/event-stream")) as server:
        error = await failure(server, protocol, "stream")
    assert type(error) is expected
    assert error.code == kind
    assert "Too much" in str(error)


async def test_an_error_that_quotes_the_key_does_not_show_it(protocol: str, how: str) -> None:
    key = "sk-very-secret"
    told = {"error": {"message": f"Incorrect API key: {key}", "type": "invalid"}}
    with fault_server(status(401, told)) as server:
        error = await failure(server, protocol, how, key=key)
    assert type(error) is LlmAuthenticationError
    assert error.status_code == 401
    shown = "".join(traceback.format_exception(error)) + repr(vars(error))
    assert key not in shown
    assert "Incorrect API key: ..." in shown


async def test_an_answer_that_is_nested_without_end(protocol: str) -> None:
    deep = b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with fault_server(raw(deep)) as server:
        error = await failure(server, protocol, "answer")
    assert isinstance(error, LlmResponseError)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_client_that_cannot_be_made_says_why(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    settings = config(provider, "https://127.0.0.1:9")
    with pytest.raises(LlmConfigError, match="the client cannot be made: FileNotFoundError"):
        open_config(settings)
    if provider == "openai":
        with pytest.raises(LlmConfigError, match="the client cannot be made"):
            EmbeddingClient(settings)
