"""From HTTP answers to values and errors (docs/wire.md, "Errors")."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from ..errors import (
    AuthenticationError,
    FlowExecutionError,
    FlowNotFoundError,
    InsufficientCreditsError,
    NoukaiError,
    PermissionDeniedError,
    RateLimitError,
)
from .program import Response

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_BY_STATUS: dict[int, type[NoukaiError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: FlowNotFoundError,
    429: RateLimitError,
}
_BY_CODE: dict[str, type[NoukaiError]] = {
    "INSUFFICIENT_CREDITS": InsufficientCreditsError,
    "CREDITS_EXHAUSTED": InsufficientCreditsError,
    "FLOW_NOT_FOUND": FlowNotFoundError,
    "RUN_NOT_FOUND": FlowNotFoundError,
}


def error_class(status: int | None, code: str | None) -> type[NoukaiError]:
    """The class for an error answer; by the code alone where a recording holds no status."""
    if status is None:
        return _BY_CODE.get(code or "", FlowExecutionError)
    return _BY_STATUS.get(status, FlowExecutionError)


def error_from(response: Response) -> NoukaiError:
    """The exception for an answer that is not a success."""
    body = _decoded(response.body)
    code, message, execution_id = _detail(body)
    details: dict[str, Any] = {
        "status_code": response.status,
        "code": code,
        "execution_id": execution_id,
        "request_id": response.headers.get("x-request-id"),
        "response_body": body,
    }
    kind = error_class(response.status, code)
    if kind is AuthenticationError:
        details["www_authenticate"] = response.headers.get("www-authenticate")
    if kind is RateLimitError:
        details["retry_after"] = retry_after(response)
    said = ": ".join(part for part in (code, message) if part)
    return kind(said or f"the service answered HTTP {response.status}", **details)


def retry_after(response: Response) -> float | None:
    """The answer's Retry-After in seconds, None where there is none that can be read."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def decode(model: type[ModelT], response: Response) -> ModelT:
    """The answer's body as ``model``."""
    return validated(model.model_validate_json, model.__name__, response)


def validated(validate: Callable[[bytes], T], name: str, response: Response) -> T:
    """The answer's body by ``validate``; ``name`` is for the error, which says what is wrong."""
    try:
        return validate(response.body)
    except ValidationError as error:
        raise FlowExecutionError(
            f"the service's answer is no {name}: {first_problem(error)}",
            status_code=response.status,
            code="INVALID_RESPONSE",
            request_id=response.headers.get("x-request-id"),
            response_body=_decoded(response.body),
        ) from error


def first_problem(error: ValidationError) -> str:
    """What a model disliked first, and where. Says nothing of the values: they may be private."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _decoded(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _detail(body: Any) -> tuple[str | None, str | None, str | None]:
    detail = body.get("detail", body) if isinstance(body, dict) else body
    if not isinstance(detail, dict):
        return None, str(detail)[:500] if detail else None, None
    texts = (detail.get(name) for name in ("code", "message", "executionId"))
    code, message, execution_id = (str(text) if text is not None else None for text in texts)
    return code, message, execution_id
