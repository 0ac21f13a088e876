"""Parse and check request bodies. Every fault in one is a RequestError."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from ..models.requests import StepRequest
from .encoding import encode
from .errors import RequestError
from .settings import Settings

T = TypeVar("T")

# Bytes beyond the limit that are read and discarded, so that a client that is still sending sees the
# response and not a broken connection.
_MAX_DISCARDED = 64 * 1024 * 1024

# A body of more bytes is large: it is not parsed on the event loop.
_LARGE = 256 * 1024

# Bytes of all bodies that are being received or parsed. Small ones are received beyond that, too.
_MAX_HELD = 256 * 1024 * 1024

# A body must arrive at this rate, after the seconds that Settings.body_seconds allows.
_BYTES_PER_SECOND = 16 * 1024

# Levels of lists and objects. Storing and sending a body adds a few levels, and the fastest JSON parsers,
# ours and our client's among them, accept 200.
_MAX_LEVELS = 128

# Lists and objects in a body: each takes some hundred bytes of memory, for two bytes of the body.
_MAX_CONTAINERS = 250_000

_CODES = {
    "executionId": "EXECUTION_ID_INVALID",
    "iterationsUsed": "PAUSED_STEP_INVALID",
    "messages": "MESSAGES_ROLE_INVALID",
    "pausedAtStep": "PAUSED_STEP_INVALID",
    "stepIndex": "INVALID_STEP_INDEX",
    "toolCallMessages": "TOOL_RESULTS_MISMATCH",
    "toolChoice": "TOOLS_INVALID",
    "tools": "TOOLS_INVALID",
}
# Clients may write these keys of a turn in camelCase; models know one form.
_TURN_KEYS = {"toolCalls": "tool_calls", "toolCallId": "tool_call_id"}
_CURSOR = frozenset(
    {
        "accumulatedOutputs",
        "executionId",
        "iterationsUsed",
        "pausedAtStep",
        "stepIndex",
        "toolCallMessages",
    }
)


@dataclass(frozen=True)
class Body:
    """The body of a call: ``raw`` as received, ``call`` with checked types."""

    raw: dict[str, Any]
    call: StepRequest

    @property
    def request(self) -> dict[str, Any]:
        """Return the body as a client would write it for a first call: no nulls, no cursor."""
        return {k: v for k, v in self.raw.items() if v is not None and k not in _CURSOR}


class BodyReceiver:
    """Receives the bodies of a process's requests, and parses the large ones one after the other.

    Args:
        seconds: How long a body of few bytes may take to arrive; large ones may take longer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held = 0
        self._parsing = anyio.Lock()

    @asynccontextmanager
    async def received(self, request: Request, limit: int, code: str) -> AsyncIterator[bytes]:
        """Read the body of a request. Its memory counts as used until the block ends.

        Raises:
            RequestError: It exceeds the limit (413 with ``code``), arrives too slowly (408), or is a large
                one too many (503).
        """
        declared = request.headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0
        chunks: list[bytes] = []
        held = 0
        try:
            if size <= limit + _MAX_DISCARDED:
                size = 0
                with anyio.move_on_after(self._seconds) as scope:
                    start = scope.deadline
                    async for chunk in request.stream():
                        size += len(chunk)
                        scope.deadline = start + size / _BYTES_PER_SECOND
                        if size > limit + _MAX_DISCARDED:
                            break
                        if size <= limit:
                            chunks.append(chunk)
                            held += len(chunk)
                            self._held += len(chunk)
                            if self._held > _MAX_HELD and size > _LARGE:
                                raise _too_many_large_bodies()
                if scope.cancelled_caught:
                    message = f"the body did not arrive in time: {size} bytes came"
                    headers = {"Connection": "close"}
                    raise RequestError(408, "REQUEST_TIMEOUT", message, headers=headers)
            if size > limit:
                raise RequestError(413, code, f"the request has more than {limit} bytes")
            yield b"".join(chunks)
        finally:
            self._held -= held

    async def parse(self, parse: Callable[[bytes], T], data: bytes) -> T:
        """Return what ``parse`` returns; it runs in a thread if there is much to parse."""
        if len(data) <= _LARGE:
            return parse(data)
        async with self._parsing:
            start = time.monotonic()
            # Millions of small values take seconds. Not on asyncio's executor, which resolves names.
            parsed = await anyio.to_thread.run_sync(parse, data)
            if self._parsing.statistics().tasks_waiting:
                # Threads stop while JSON is parsed. As long again, so that others get half of the time.
                await anyio.sleep(time.monotonic() - start)
        return parsed


def _too_many_large_bodies() -> RequestError:
    message = "this process receives too many large bodies at the moment: try again in a second"
    headers = {"Retry-After": "1", "Connection": "close"}
    return RequestError(503, "OVERLOADED", message, headers=headers)


async def read_body(request: Request, settings: Settings, receiver: BodyReceiver) -> Body:
    """Read and check the body of a call."""
    limit = settings.max_body_bytes
    async with receiver.received(request, limit, "MESSAGES_TOO_LARGE") as data:
        return await receiver.parse(partial(parse_body, settings=settings), data)


def from_json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object that is not nested too deep to be stored."""
    try:
        raw = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        message = f"the body is not valid JSON: {error}"
        raise RequestError(400, "INVALID_REQUEST", message) from error
    if not isinstance(raw, dict):
        raise RequestError(400, "INVALID_REQUEST", "the body must be a JSON object")
    if data.count(b"{") + data.count(b"[") > _MAX_LEVELS:
        _check_shape(raw)
    return raw


def parse_body(data: bytes, settings: Settings) -> Body:
    """Check the types and the sizes of a body."""
    raw = from_json_object(data)
    try:
        call = StepRequest.model_validate(raw, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        code = _CODES.get(str(first["loc"][0]), "INVALID_REQUEST")
        raise RequestError(400, code, f"{location}: {first['msg']}") from error
    sizes = {
        "message": len((call.message or "").encode()),
        "messages": len(encode(call.messages)) if call.messages else 0,
        "toolCallMessages": len(encode(call.tool_call_messages)) if call.tool_call_messages else 0,
    }
    limit = settings.max_message_bytes
    for name, size in sizes.items():
        if size > limit:
            message = f"{name} has {size} bytes, more than the limit of {limit}"
            raise RequestError(413, "MESSAGES_TOO_LARGE", message)
    if call.messages:
        call.messages = [
            {_TURN_KEYS.get(name, name): value for name, value in turn.items()}
            for turn in call.messages
        ]
    return Body(raw, call)


def _check_shape(value: dict[str, Any]) -> None:
    """Raise RequestError (400) if a body has too many levels, or too many lists and objects."""
    kinds = (dict, list)
    levels = count = 0
    level: list[Any] = [value]
    while level:
        levels += 1
        count += len(level)
        if levels > _MAX_LEVELS:
            message = f"the body is nested more than {_MAX_LEVELS} levels deep"
            raise RequestError(400, "INVALID_REQUEST", message)
        if count > _MAX_CONTAINERS:
            message = f"the body has more than {_MAX_CONTAINERS} lists and objects"
            raise RequestError(400, "INVALID_REQUEST", message)
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, kinds)
        ]
