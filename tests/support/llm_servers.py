"""Servers that model clients are tested against: a real one with SmolLM2, and one with faults.

::

    with llama_server() as url:                     # llama.cpp: OpenAI's and Anthropic's API, key "k"
    with fault_server(status(429), ok()) as server:  # one answer a request, the last one again and again
"""

from __future__ import annotations

import asyncio
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
    server.handle_metrics()  # see smollm2_engine: it must not be freed before this
    yield server.listening_address
    del server


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any
    at: float


@dataclass
class FaultServer:
    """What was asked, and whether a client hung up on an answer."""

    script: list[Answer]
    url: str
    asked: list[Asked] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        body = await _body(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = Asked(scope["path"], headers, json.loads(body or b"null"), time.monotonic())
        self.asked.append(asked)
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        await answer(Exchange(self, asked, receive, send, scope["client"]))


@dataclass
class Exchange:
    server: FaultServer
    asked: Asked
    receive: Any
    send: Any
    client: Any

    @property
    def streams(self) -> bool:
        return bool(self.asked.body and self.asked.body.get("stream"))

    @property
    def is_anthropic(self) -> bool:
        return self.asked.path.endswith("/messages")

    async def start(self, status: int, headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def part(self, body: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        await self.start(status, {"content-type": "application/json", **headers})
        await self.part(body, more=False)

    async def begin_stream(self) -> None:
        await self.start(200, {"content-type": "text/event-stream"})

    async def events(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            name = f"event: {event['type']}\n" if self.is_anthropic and "type" in event else ""
            await self.part(f"{name}data: {json.dumps(event)}\n\n".encode())

    async def wait_for_hang_up(self) -> None:
        self.server.waiting.set()
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.server.hung_up.set()


Answer = Callable[[Exchange], Awaitable[None]]


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


@contextmanager
def fault_server(*script: Answer) -> Iterator[FaultServer]:
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
        await _servers[number].answer({**scope, "path": f"/{path}"}, receive, send)


@functools.cache
def _shared_url() -> str:
    """One uvicorn for the whole process: starting one for each test takes longer than the tests."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(serve_app(_dispatch, log_level="critical"))


def ok(text: str = "Hello there") -> Answer:
    """A good answer in the protocol that was asked for."""

    async def answer(exchange: Exchange) -> None:
        if exchange.streams:
            await exchange.begin_stream()
            await exchange.events(_stream(exchange, text))
            await exchange.part(
                b"data: [DONE]\n\n" if not exchange.is_anthropic else b"", more=False
            )
        else:
            await exchange.whole(200, json.dumps(_whole(exchange, text)).encode(), {})

    return answer


def status(code: int, body: Any = None, **headers: str) -> Answer:
    """An error answer; underscores in header names become dashes."""
    told = body if body is not None else {"error": {"message": f"fault {code}", "type": "fault"}}

    async def answer(exchange: Exchange) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await exchange.whole(code, json.dumps(told).encode(), named)

    return answer


def raw(body: bytes, content_type: str = "application/json") -> Answer:
    """Status 200 and whatever this is."""

    async def answer(exchange: Exchange) -> None:
        await exchange.whole(200, body, {"content-type": content_type})

    return answer


def stream_of(*events: dict[str, Any]) -> Answer:
    """A stream of these events, ended well."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.events(list(events))
        await exchange.part(b"", more=False)

    return answer


def cut() -> Answer:
    """The beginning of a stream; then the connection breaks."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.events(_stream(exchange, "Hello there")[:3])
        raise ConnectionResetError("a fault on purpose")

    return answer


def ended_early() -> Answer:
    """The beginning of a stream; then it ends as if it were complete."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.events(_stream(exchange, "Hello there")[:3])
        await exchange.part(b"", more=False)

    return answer


def silent() -> Answer:
    """No answer until the client hangs up."""

    async def answer(exchange: Exchange) -> None:
        await exchange.wait_for_hang_up()

    return answer


def stalled() -> Answer:
    """The beginning of a stream, and nothing more until the client hangs up."""

    async def answer(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.events(_stream(exchange, "Hello there")[:3])
        await exchange.wait_for_hang_up()

    return answer


def after(seconds: float, then: Answer) -> Answer:
    """The other answer, late."""

    async def answer(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await then(exchange)

    return answer


def _whole(exchange: Exchange, text: str) -> dict[str, Any]:
    if exchange.is_anthropic:
        usage = {"input_tokens": 3, "output_tokens": 2}
        content = [{"type": "text", "text": text}]
        return {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}
    if exchange.asked.path.endswith("/embeddings"):
        texts = exchange.asked.body["input"]
        data = [{"index": i, "embedding": [float(len(text)), 1.0]} for i, text in enumerate(texts)]
        return {"object": "list", "data": data[::-1]}
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"object": "chat.completion", "choices": choices, "usage": usage}


def _stream(exchange: Exchange, text: str) -> list[dict[str, Any]]:
    words = [word + " " for word in text.split()]
    if exchange.is_anthropic:
        return _anthropic_stream(words)
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant"}}]}]
    chunks += [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return [*chunks, {"choices": [], "usage": usage}]


def _anthropic_stream(words: list[str]) -> list[dict[str, Any]]:
    delta = {"type": "text_delta"}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    end = {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
    return [
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        block,
        *(
            {"type": "content_block_delta", "index": 0, "delta": {**delta, "text": word}}
            for word in words
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", **end},
        {"type": "message_stop"},
    ]
