"""Parse and check request bodies. Every fault in one is a RequestError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from ..models.requests import StepRequest
from .encoding import encode
from .errors import RequestError
from .settings import Settings

# Bytes beyond the limit that are read and discarded, so that a client that is still sending sees the
# response and not a broken connection.
_MAX_DISCARDED = 64 * 1024 * 1024

# Bytes that are parsed on the event loop.
_PARSED_AT_ONCE = 256 * 1024

# A body must arrive at this rate, after the seconds that Settings.body_seconds allows.
_BYTES_PER_SECOND = 16 * 1024

# Levels of lists and objects. Storing and sending a body adds a few levels, and the fastest JSON parsers,
# ours and our client's among them, accept 200.
_MAX_LEVELS = 128

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


async def read_body(request: Request, settings: Settings) -> Body:
    """Read and check the body of a call."""
    return await parse_in_time(
        await read_bytes(request, settings.max_body_bytes, "MESSAGES_TOO_LARGE"), settings
    )


async def parse_in_time(data: bytes, settings: Settings) -> Body:
    """Check a body as :func:`parse_body` does; a large one in a thread."""
    if len(data) <= _PARSED_AT_ONCE:
        return parse_body(data, settings)
    # Millions of small values take seconds. Not on asyncio's executor, which resolves names.
    return await anyio.to_thread.run_sync(parse_body, data, settings)


async def read_bytes(request: Request, limit: int, code: str) -> bytes:
    """Read the body of a request.

    Raises:
        RequestError: It exceeds the limit (413 with ``code``), or arrives too slowly (408).
    """
    settings: Settings = request.app.state.service.settings
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    chunks: list[bytes] = []
    if size <= limit + _MAX_DISCARDED:
        size = 0
        with anyio.move_on_after(settings.body_seconds) as scope:
            start = scope.deadline
            async for chunk in request.stream():
                size += len(chunk)
                scope.deadline = start + size / _BYTES_PER_SECOND
                if size <= limit:
                    chunks.append(chunk)
                elif size > limit + _MAX_DISCARDED:
                    break
        if scope.cancelled_caught:
            message = f"the body did not arrive in time: {size} bytes came"
            headers = {"Connection": "close"}
            raise RequestError(408, "REQUEST_TIMEOUT", message, headers=headers)
    if size > limit:
        raise RequestError(413, code, f"the request has more than {limit} bytes")
    return b"".join(chunks)


def from_json_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object that is not nested too deep to be stored."""
    try:
        raw = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        message = f"the body is not valid JSON: {error}"
        raise RequestError(400, "INVALID_REQUEST", message) from error
    if not isinstance(raw, dict):
        raise RequestError(400, "INVALID_REQUEST", "the body must be a JSON object")
    if _levels(raw) > _MAX_LEVELS:
        message = f"the body is nested more than {_MAX_LEVELS} levels deep"
        raise RequestError(400, "INVALID_REQUEST", message)
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


def _levels(value: dict[str, Any] | list[Any]) -> int:
    """Count the levels of lists and objects; stop above the limit."""
    levels, level = 0, [value]
    while level and levels <= _MAX_LEVELS:
        levels += 1
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, dict | list)
        ]
    return levels
