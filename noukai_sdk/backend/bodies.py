"""Request bodies: from bytes to a checked call. Everything that is wrong is a RequestError."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from ..models.requests import StepRequest
from .encoding import encode
from .errors import RequestError
from .settings import Settings

# What goes on for longer than this is not read to its end before it is refused.
_MOST_DISCARDED = 64 * 1024 * 1024

# Levels of lists and objects. What is stored and sent wraps a body in some more, and the quickest JSON
# parsers, ours and our client's among them, go 200 levels deep.
_MOST_LEVELS = 128

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
    """A call's body: ``raw`` as it came, ``call`` with its types checked."""

    raw: dict[str, Any]
    call: StepRequest

    @property
    def fresh(self) -> dict[str, Any]:
        """What the call asks for, as a client would write it: no nulls, no cursor."""
        return {k: v for k, v in self.raw.items() if v is not None and k not in _CURSOR}


async def read_body(request: Request, settings: Settings) -> Body:
    """Read and check the body of a call."""
    return parse_body(await _read(request, settings.max_body_bytes), settings)


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit + _MOST_DISCARDED:
        raise _too_large(limit)
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit + _MOST_DISCARDED:
            break
    # Only now: a client that is still sending would see a broken connection instead of the answer.
    if size > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "MESSAGES_TOO_LARGE", f"the request has more than {limit} bytes")


def parse_body(data: bytes, settings: Settings) -> Body:
    """Check the types and the sizes of a body."""
    try:
        raw = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, "INVALID_REQUEST", f"the body is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise RequestError(400, "INVALID_REQUEST", "the body must be a JSON object")
    if _levels(raw) > _MOST_LEVELS:
        message = f"the body is nested more than {_MOST_LEVELS} levels deep"
        raise RequestError(400, "INVALID_REQUEST", message)
    try:
        call = StepRequest.model_validate(raw, strict=True)
    except ValidationError as error:
        raise _wrong_type(error) from error
    _check_sizes(call, settings.max_message_bytes)
    return Body(raw, call)


def _levels(value: dict[str, Any] | list[Any]) -> int:
    items = value.values() if isinstance(value, dict) else value
    return 1 + max((_levels(item) for item in items if isinstance(item, dict | list)), default=0)


def _wrong_type(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    code = _CODES.get(str(first["loc"][0]), "INVALID_REQUEST")
    return RequestError(400, code, f"{where}: {first['msg']}")


def _check_sizes(call: StepRequest, limit: int) -> None:
    sizes = {
        "message": len((call.message or "").encode()),
        "messages": len(encode(call.messages)) if call.messages else 0,
        "toolCallMessages": len(encode(call.tool_call_messages)) if call.tool_call_messages else 0,
    }
    for name, size in sizes.items():
        if size > limit:
            raise RequestError(
                413,
                "MESSAGES_TOO_LARGE",
                f"{name} has {size} bytes, and at most {limit} are taken",
            )
