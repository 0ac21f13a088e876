"""SmolLM2-135M-Instruct in this process: a real model without a key or a network.

It is small: it writes fluent sentences and knows little. Its chat template has no place for tools, so
it never calls one: if the request offers tools, it responds with text as if there were none.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from ..chat import ChatDelta, ChatRequest, collect, schema_format
from ..errors import LlmClosedError, LlmRequestError, LlmTimeoutError
from . import smollm2_engine
from .openai_responses import OpenAiStreamReader
from .smollm2_engine import Engine

# Without a limit it talks until its context is full, which takes half a minute.
_DEFAULT_MAX_TOKENS = 256


class SmolLm2Model:
    """One user of the shared weights, which are loaded by the first request.

    Closing a stream stops the model at its next token; a prompt is read to its end first.

    Args:
        timeout: Seconds to wait for the next part of a response. The first part may have to wait for
            other requests.

    Raises:
        MissingExtraError: The library or the weights are not installed.
    """

    name = "smollm2"

    def __init__(self, timeout: float = 60.0) -> None:
        smollm2_engine.check_installed()
        self._timeout = timeout
        self._engine: Engine | None = None
        self._turns: set[_Turn] = set()
        self._closed = False
        # Held in worker threads only, also while the weights are loaded.
        self._lock = threading.Lock()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Yield the response token by token."""
        turn = _Turn(request, self._timeout)
        try:
            await run_sync(self._start, turn)
            reader = OpenAiStreamReader()
            while (chunk := await turn.next_chunk()) is not None:
                text = reader.read(chunk)
                if text:
                    yield ChatDelta(text)
            yield reader.end()
        except Exception as error:
            if self._closed:
                raise LlmClosedError("the model was closed during the request") from error
            raise
        finally:
            turn.stopped.set()
            self._turns.discard(turn)

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """Return the whole response."""
        return await collect(self.stream(request))

    async def warmup(self) -> None:
        """Load the weights, which takes about half a second."""
        await run_sync(self._load)

    async def aclose(self) -> None:
        """Stop the requests in progress; the process's last model frees the weights."""
        self._closed = True
        for turn in self._turns:
            turn.stopped.set()
        await run_sync(self._unload)

    def _start(self, turn: _Turn) -> None:
        engine = self._load()
        self._turns.add(turn)
        engine.workers.submit(turn.generate, engine)

    def _load(self) -> Engine:
        with self._lock:
            if self._closed:
                raise LlmClosedError("the model was closed: open a new one")
            if self._engine is None:
                self._engine = smollm2_engine.acquire()
            return self._engine

    def _unload(self) -> None:
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            smollm2_engine.release(engine)


class _Turn:
    """One request in progress, between the worker thread that generates and the task that reads."""

    def __init__(self, request: ChatRequest, timeout: float) -> None:
        self.stopped = threading.Event()
        self._timeout = timeout
        # JSON chunks, then the error that ended the response, or None for a regular end.
        self._chunks: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        # A limiter of its own: waiting for tokens must not use up the application's threads.
        self._limiter = CapacityLimiter(1)
        self._body: dict[str, Any] = {
            "messages": request.messages,
            "max_tokens": request.max_tokens or _DEFAULT_MAX_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.temperature is not None:
            self._body["temperature"] = request.temperature
        if request.top_p is not None:
            self._body["top_p"] = request.top_p
        if request.seed is not None:
            self._body["seed"] = request.seed
        if isinstance(request.response_format, Mapping):
            self._body["response_format"] = request.response_format
        elif request.json_schema is not None:
            self._body["response_format"] = schema_format(request.json_schema)
        elif request.response_format == "json":
            self._body["response_format"] = {"type": "json_object"}
        self._body.update(request.extra_body or {})

    def generate(self, engine: Engine) -> None:
        """Generate the response, in a worker thread."""

        def put(chunk: str) -> bool:
            self._chunks.put(chunk)
            return self.stopped.is_set()

        end: Exception | None = None
        try:
            if not self.stopped.is_set():
                engine.generate(self._body, put)
        except Exception as error:  # noqa: BLE001  # the reading task raises it
            end = error
        self._chunks.put(end)

    async def next_chunk(self) -> dict[str, Any] | None:
        """Wait for the next chunk, in the reading task; return None after the last one."""
        chunk = await run_sync(self._get, abandon_on_cancel=True, limiter=self._limiter)
        if chunk is None:
            return None
        parsed: dict[str, Any] = json.loads(chunk)
        if "error" in parsed:
            error = parsed["error"]
            raise LlmRequestError(f"smollm2: {error.get('message')}", code=error.get("type"))
        return parsed

    def _get(self) -> str | None:
        try:
            chunk = self._chunks.get(timeout=self._timeout)
        except queue.Empty:
            raise LlmTimeoutError(f"smollm2 sent nothing for {self._timeout} s") from None
        if isinstance(chunk, Exception):
            raise LlmRequestError(f"smollm2 rejects the request: {chunk}") from chunk
        return chunk
