"""What models over the official clients have in common, against real servers and their faults."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from noukai_sdk.local.chat import ChatModel, ChatRequest
from noukai_sdk.local.llm_config import LlmConfig
from noukai_sdk.local.llm_errors import (
    LlmAuthenticationError,
    LlmClosedError,
    LlmConfigError,
    LlmConnectionError,
    LlmError,
    LlmRateLimitError,
    LlmRequestError,
    LlmResponseError,
    LlmServerError,
    LlmTimeoutError,
)
from noukai_sdk.local.providers import open_config
from tests.local.llm_servers import (
    KEY,
    FaultServer,
    cut,
    ended_early,
    fault_server,
    llama_server,
    ok,
    raw,
    silent,
    stalled,
    status,
)

pytestmark = pytest.mark.anyio

SOON = {"retry_after_ms": "1"}


@pytest.fixture
def anyio_backend() -> str:
    """The official clients run on trio too, but leave generators behind, of which trio warns."""
    return "asyncio"


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.fixture(params=["openai", "openai_compatible", "ollama", "azure", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["openai_compatible", "anthropic"])
def protocol(request: pytest.FixtureRequest) -> str:
    """One provider of each protocol."""
    return str(request.param)


@pytest.fixture(params=["answer", "stream"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def config(provider: str, url: str, **options: Any) -> LlmConfig:
    key = options.pop("key", KEY)
    match provider:
        case "openai":
            return LlmConfig.openai(key, "smollm2", base_url=f"{url}/v1", **options)
        case "anthropic":
            return LlmConfig.anthropic(key, "smollm2", base_url=url, **options)
        case "ollama":
            return LlmConfig.ollama("smollm2", base_url=f"{url}/v1", **options)
        case "azure":
            return LlmConfig.azure(key, "smollm2", url, **options)
    return LlmConfig.openai_compatible(f"{url}/v1", "smollm2", api_key=key, **options)


def asking(text: str = "Say hi", **options: Any) -> ChatRequest:
    return ChatRequest([{"role": "user", "content": text}], **options)


async def ask(model: ChatModel, how: str, request: ChatRequest | None = None) -> str:
    request = request or asking()
    if how == "answer":
        return (await model.answer(request)).text
    return "".join([piece.text async for piece in model.stream(request)])


async def failure(server: FaultServer, protocol: str, how: str, **options: Any) -> LlmError:
    """The error of one call without retries."""
    settings = {"max_retries": 0, **options}
    async with aclosing(open_config(config(protocol, server.url, **settings))) as model:
        with pytest.raises(LlmError) as caught:
            await ask(model, how)
    return caught.value


@pytest.mark.parametrize("provider", ["openai", "openai_compatible", "anthropic"])
async def test_a_real_server_answers(provider: str, llama: str) -> None:
    request = asking(temperature=0, max_tokens=4)
    async with aclosing(open_config(config(provider, llama))) as model:
        await model.warmup()
        answer = await model.answer(request)
        pieces = [piece async for piece in model.stream(request)]
    assert model.name == f"{provider}:smollm2"
    assert answer.text
    assert answer.text == "".join(piece.text for piece in pieces)
    assert len([piece for piece in pieces if piece.text]) >= 2
    assert (pieces[-1].usage, pieces[-1].finish_reason) == (answer.usage, "length")
    assert answer.usage is not None
    assert answer.usage.completion == 4


@pytest.mark.parametrize("provider", ["openai_compatible", "anthropic"])
async def test_a_real_server_takes_system_tool_and_json_turns(provider: str, llama: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = ChatRequest(
        turns, max_tokens=3, tools=[tool], tool_choice="auto", response_format="json"
    )
    async with aclosing(open_config(config(provider, llama))) as model:
        assert (await model.answer(request)).finish_reason in ("length", "stop")


@pytest.mark.parametrize("provider", ["openai_compatible", "anthropic"])
async def test_a_real_server_refuses(provider: str, llama: str, how: str) -> None:
    async with aclosing(open_config(config(provider, llama, key="wrong"))) as model:
        with pytest.raises(LlmAuthenticationError, match="401 Invalid API Key"):
            await ask(model, how)
        with pytest.raises(LlmAuthenticationError):
            await model.warmup()
    async with aclosing(open_config(config(provider, llama))) as model:
        with pytest.raises(LlmRequestError, match=r"400 request .* exceeds"):
            await ask(model, how, asking("word " * 4000))


async def test_every_provider_speaks_its_protocol(provider: str, how: str) -> None:
    with fault_server(ok("Hello there")) as server:
        async with aclosing(open_config(config(provider, server.url))) as model:
            assert (await ask(model, how, asking(max_tokens=7))).strip() == "Hello there"
    (asked,) = server.asked
    paths = {
        "anthropic": "/v1/messages",
        "azure": "/openai/deployments/smollm2/chat/completions",
    }
    assert asked.path == paths.get(provider, "/v1/chat/completions")
    assert asked.body["model"] == "smollm2"
    assert asked.body.get("stream", False) == (how == "stream")
    limits = {name: value for name, value in asked.body.items() if value == 7}
    new_name = provider in ("openai", "azure")
    assert limits == {"max_completion_tokens" if new_name else "max_tokens": 7}


async def test_the_key_is_sent_where_the_provider_looks_for_it(provider: str) -> None:
    with fault_server(ok()) as server:
        async with aclosing(open_config(config(provider, server.url, **no_key(provider)))) as model:
            await ask(model, "answer")
    headers = server.asked[0].headers
    found = {headers.get(name) for name in ("authorization", "x-api-key", "api-key")}
    # Releases of the anthropic client differ in where they put it.
    assert found & ({"Bearer none"} if provider == "ollama" else {KEY, f"Bearer {KEY}"})


def no_key(provider: str) -> dict[str, Any]:
    return {"key": None} if provider == "ollama" else {}


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
    [("7", 7.0), ("-1", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None), (None, None)],
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


@pytest.mark.parametrize("content", [[{"type": "odd", "odd": object()}], "\ud800"])
async def test_a_request_that_is_no_json(content: Any, protocol: str, how: str) -> None:
    with fault_server(ok()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            with pytest.raises(LlmRequestError, match="cannot be written as JSON"):
                await ask(model, how, ChatRequest([{"role": "user", "content": content}]))
    assert server.asked == []


async def test_messages_that_cannot_be_put_into_the_providers_form(how: str) -> None:
    async with aclosing(open_config(config("anthropic", "http://127.0.0.1:9"))) as model:
        with pytest.raises(LlmRequestError, match="not in OpenAI's form"):
            await ask(model, how, ChatRequest("no turns"))  # type: ignore[arg-type]  # on purpose


async def test_a_cancelled_call_hangs_up(protocol: str, how: str) -> None:
    with fault_server(silent() if how == "answer" else stalled()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, model, how)
                assert await happened(server.waiting)
                tasks.cancel_scope.cancel()
            assert await happened(server.hung_up)
    assert len(server.asked) == 1


async def test_a_stream_that_is_closed_early_hangs_up(protocol: str) -> None:
    with fault_server(stalled()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            async with aclosing(model.stream(asking())) as pieces:
                assert (await anext(pieces)).text.strip() == "Hello"
            assert await happened(server.hung_up)


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


async def test_a_closed_model_says_so(protocol: str, how: str) -> None:
    model = open_config(config(protocol, "http://127.0.0.1:9"))
    await model.aclose()
    await model.aclose()
    with pytest.raises(LlmClosedError, match="smollm2: the model was closed"):
        await ask(model, how)


async def test_closing_the_model_ends_what_is_under_way(protocol: str, how: str) -> None:
    with fault_server(silent() if how == "answer" else stalled()) as server:
        model = open_config(config(protocol, server.url))

        async def call() -> None:
            with pytest.raises(LlmClosedError, match="closed meanwhile"):
                await ask(model, how)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            assert await happened(server.waiting)
            await model.aclose()
        assert await happened(server.hung_up)


@pytest.mark.parametrize(
    ("protocol", "name"), [("openai_compatible", "OpenAIError"), ("anthropic", "AnthropicError")]
)
async def test_other_errors_of_the_client_are_translated_too(
    protocol: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aclosing(open_config(config(protocol, "http://127.0.0.1:9"))) as opened:
        model: Any = opened

        async def fail(*_: Any, **__: Any) -> None:
            raise getattr(model._sdk, name)("odd settings")

        monkeypatch.setattr(model._client, "post", fail)
        with pytest.raises(LlmConfigError, match="odd settings"):
            await ask(model, "answer")


async def test_a_mistake_in_this_program_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aclosing(open_config(config("openai", "http://127.0.0.1:9"))) as opened:
        model: Any = opened

        async def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(model._client, "post", fail)
        with pytest.raises(ZeroDivisionError):
            await ask(model, "answer")


async def test_warming_up_takes_a_server_without_a_list_of_models(provider: str) -> None:
    with fault_server(status(404)) as server:
        async with aclosing(open_config(config(provider, server.url))) as model:
            await model.warmup()
    (asked,) = server.asked
    assert asked.path.endswith("/models")


async def happened(event: Any) -> bool:
    """Wait for a thread's event, off the loop."""
    return await anyio.to_thread.run_sync(event.wait, 10)
