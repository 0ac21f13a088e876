"""Model servers for tests: a real one with SmolLM2, and one that plays a script of faults.

::

    with llama_server() as url:                       # llama.cpp: OpenAI's and Anthropic's API, key "k"
    with fault_server(status(429), ok()) as server:   # one response a request; the last one repeats
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from noukai_sdk.local.llm.providers import smollm2_engine
from tests.support.servers import serve_app

KEY = "k"


@contextmanager
def llama_server(*, embeddings: bool = False) -> Iterator[str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2_engine.weights_file())
    params.model_alias = {"smollm2"}
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    params.verbosity = -1
    params.api_keys = [KEY]
    params.embedding = embeddings
    if embeddings:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    server.handle_metrics()  # it must not be freed before this: see smollm2_engine
    yield server.listening_address
    del server


@dataclass
class ReceivedRequest:
    path: str
    headers: dict[str, str]
    body: Any
    at: float


@dataclass
class FaultServer:
    """The requests received so far, and whether a client hung up."""

    script: list[Response]
    url: str
    requests: list[ReceivedRequest] = field(default_factory=list)
    waiting: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _read_body(receive)
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        request = ReceivedRequest(
            scope["path"], headers, json.loads(body or b"null"), time.monotonic()
        )
        self.requests.append(request)
        respond = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        await respond(Exchange(self, request, receive, send, scope["client"]))


@dataclass
class Exchange:
    """One request, and the ways to respond to it."""

    server: FaultServer
    request: ReceivedRequest
    receive: Any
    send: Any
    client: Any

    @property
    def streams(self) -> bool:
        return bool(self.request.body and self.request.body.get("stream"))

    @property
    def is_anthropic(self) -> bool:
        return self.request.path.endswith("/messages")

    async def start(self, status: int, headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def send_body(self, body: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def respond(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        await self.start(status, {"content-type": "application/json", **headers})
        await self.send_body(body, more=False)

    async def begin_stream(self, events: list[dict[str, Any]]) -> None:
        await self.start(200, {"content-type": "text/event-stream"})
        for event in events:
            name = f"event: {event['type']}\n" if self.is_anthropic and "type" in event else ""
            await self.send_body(f"{name}data: {json.dumps(event)}\n\n".encode())

    async def wait_for_hang_up(self) -> None:
        self.server.waiting.set()
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.server.hung_up.set()


Response = Callable[[Exchange], Awaitable[None]]


async def _read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


@contextmanager
def fault_server(*script: Response) -> Iterator[FaultServer]:
    number = next(_numbers)
    server = FaultServer(list(script), url=f"{_shared_url()}/{number}")
    _servers[str(number)] = server
    yield server
    del _servers[str(number)]


_numbers = itertools.count()
_servers: dict[str, FaultServer] = {}


async def _dispatch(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        _, number, path = scope["path"].split("/", 2)
        await _servers[number].handle({**scope, "path": f"/{path}"}, receive, send)


@functools.cache
def _shared_url() -> str:
    """Start one uvicorn for the whole process: one for each test would take longer than the tests."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(serve_app(_dispatch, log_level="critical"))


def ok(text: str = "Hello there") -> Response:
    """A complete response in the protocol of the request."""

    async def respond(exchange: Exchange) -> None:
        if exchange.streams:
            await exchange.begin_stream(_events(exchange, text))
            await exchange.send_body(
                b"" if exchange.is_anthropic else b"data: [DONE]\n\n", more=False
            )
        else:
            await exchange.respond(200, json.dumps(_body(exchange, text)).encode(), {})

    return respond


def status(code: int, body: Any = None, **headers: str) -> Response:
    """An error response; underscores in header names become dashes."""
    content = body if body is not None else {"error": {"message": f"fault {code}", "type": "fault"}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.respond(code, json.dumps(content).encode(), named)


def raw(body: bytes, content_type: str = "application/json", **headers: str) -> Response:
    """Status 200 with this body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.respond(200, body, {"content-type": content_type, **named})


def stream_of(*events: dict[str, Any]) -> Response:
    """A stream of these events that ends properly."""

    async def respond(exchange: Exchange) -> None:
        await exchange.begin_stream(list(events))
        await exchange.send_body(b"", more=False)

    return respond


def partial_stream(then: str) -> Response:
    """The beginning of a stream; then it is ``"cut"`` off, it comes to an ``"end"``, or it ``"stalls"``."""

    async def respond(exchange: Exchange) -> None:
        await exchange.begin_stream(_events(exchange, "Hello there")[:3])
        if then == "cut":
            raise ConnectionResetError("a fault on purpose")
        if then == "end":
            await exchange.send_body(b"", more=False)
        else:
            await exchange.wait_for_hang_up()

    return respond


def silent() -> Response:
    """No response until the client hangs up."""
    return lambda exchange: exchange.wait_for_hang_up()


def _body(exchange: Exchange, text: str) -> dict[str, Any]:
    if exchange.is_anthropic:
        usage = {"input_tokens": 3, "output_tokens": 2}
        content = [{"type": "text", "text": text}]
        return {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}
    if exchange.request.path.endswith("/embeddings"):
        texts = exchange.request.body["input"]
        data = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(texts)]
        return {"object": "list", "data": data[::-1]}
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"object": "chat.completion", "choices": choices, "usage": usage}


def _events(exchange: Exchange, text: str) -> list[dict[str, Any]]:
    words = [word + " " for word in text.split()]
    if not exchange.is_anthropic:
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
        chunks += [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return [*chunks, {"choices": [], "usage": usage}]
    end = {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
    deltas = [{"type": "text_delta", "text": word} for word in words]
    return [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", **end},
        {"type": "message_stop"},
    ]
