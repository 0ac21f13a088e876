"""SmolLM2-135M-Instruct in this process: a real model with no key and no network.

It is small: it answers in fluent sentences and knows little. Its chat template has no place for
tools, so it never asks for one: with tools in the request it answers in text as if there were none.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import AsyncGenerator
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from ..chat import ChatDelta, ChatRequest, collect
from ..errors import LlmClosedError, LlmRequestError, LlmTimeoutError
from . import smollm2_engine
from .openai_answers import StreamReader
from .smollm2_engine import Engine

# Unlimited, it talks on until its context is full, which takes half a minute.
_DEFAULT_MAX_TOKENS = 256


class SmolLm2Model:
    """One user of the shared weights, which are loaded when it is first asked something.

    A closed stream stops the model at its next token; a prompt is read to its end first.

    Args:
        timeout: Seconds to wait for the next piece of an answer. Where others are being answered,
            the first piece may have to wait for those.

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
        """The answer, token by token."""
        turn = _Turn(_body(request), self._timeout)
        try:
            await run_sync(self._start, turn)
            while (piece := await turn.next_piece()) is not None:
                yield piece
            yield turn.last_piece()
        except Exception as error:
            if self._closed:
                raise LlmClosedError("the model was closed while it answered") from error
            raise
        finally:
            turn.stopped.set()
            self._turns.discard(turn)

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """The whole answer as one piece."""
        return await collect(self.stream(request))

    async def warmup(self) -> None:
        """Load the weights, which takes about half a second."""
        await run_sync(self._load)

    async def aclose(self) -> None:
        """Stop what is under way; the weights are freed when the process's last model is closed."""
        self._closed = True
        for turn in self._turns:
            turn.stopped.set()
        await run_sync(self._unload)

    def _start(self, turn: _Turn) -> None:
        engine = self._load()
        self._turns.add(turn)
        engine.workers.submit(turn.run, engine)

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
    """One answer under way, between the worker thread that makes it and the task that reads it."""

    def __init__(self, body: dict[str, Any], timeout: float) -> None:
        self.stopped = threading.Event()
        self._body = body
        self._timeout = timeout
        # JSON chunks, then the error that ended the answer or None for its end.
        self._chunks: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._reader = StreamReader()
        # A limiter of its own: waiting for tokens must not use up the application's threads.
        self._limiter = CapacityLimiter(1)

    def run(self, engine: Engine) -> None:
        """Make the answer, in a worker thread."""
        end: Exception | None = None
        try:
            if not self.stopped.is_set():
                engine.generate(self._body, self._take)
        except Exception as error:  # noqa: BLE001  # whatever it is, the reader must hear of it
            end = error
        self._chunks.put(end)

    def _take(self, chunk: str) -> bool:
        self._chunks.put(chunk)
        return self.stopped.is_set()

    async def next_piece(self) -> ChatDelta | None:
        """The next text, in the reading task; None after the last one."""
        while True:
            chunk = await run_sync(self._next, abandon_on_cancel=True, limiter=self._limiter)
            if chunk is None:
                return None
            text = self._reader.read(_parsed(chunk))
            if text:
                return ChatDelta(text)

    def last_piece(self) -> ChatDelta:
        """Usage and why the answer ended."""
        return self._reader.end()

    def _next(self) -> str | None:
        try:
            chunk = self._chunks.get(timeout=self._timeout)
        except queue.Empty:
            raise LlmTimeoutError(f"smollm2 gave no piece within {self._timeout} s") from None
        if isinstance(chunk, Exception):
            raise LlmRequestError(f"smollm2 refuses the request: {chunk}") from chunk
        return chunk


def _body(request: ChatRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": request.messages,
        "max_tokens": request.max_tokens or _DEFAULT_MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.response_format == "json":
        body["response_format"] = {"type": "json_object"}
    return body


def _parsed(chunk: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(chunk)
    if "error" in parsed:
        error = parsed["error"]
        raise LlmRequestError(f"smollm2: {error.get('message')}", code=error.get("type"))
    return parsed
