"""From HTTP responses to values and errors (docs/wire.md, "Errors")."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from http import HTTPStatus
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
    RunNotFoundError,
)
from .program import Response

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_BY_STATUS: dict[int, type[NoukaiError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    429: RateLimitError,
}
_BY_CODE: dict[str, type[NoukaiError]] = {
    "INSUFFICIENT_CREDITS": InsufficientCreditsError,
    "CREDITS_EXHAUSTED": InsufficientCreditsError,
    "FLOW_NOT_FOUND": FlowNotFoundError,
    "RUN_NOT_FOUND": RunNotFoundError,
}
# A run or a job by its id: a 404 without one of our codes is about it.
_RUN_PATH = r"/seq/[^/]+/[^/]+/[^/]+/(?:runs|jobs)/"


def error_class(status: int | None, code: str | None, path: str = "") -> type[NoukaiError]:
    """Return the class of an error response to a request of ``path``, or of a recording without one.

    A recording without a status goes by its code alone.
    """
    if status is None:
        return _BY_CODE.get(code or "", FlowExecutionError)
    if status == HTTPStatus.NOT_FOUND:
        if code == "RUN_NOT_FOUND" or (code != "FLOW_NOT_FOUND" and re.search(_RUN_PATH, path)):
            return RunNotFoundError
        return FlowNotFoundError
    return _BY_STATUS.get(status, FlowExecutionError)


def error_from(response: Response, path: str = "") -> NoukaiError:
    """Build the exception for a response, to a request of ``path``, that is not a success."""
    body = json_or_text(response.body)
    code = message = execution_id = None
    detail = body.get("detail", body) if isinstance(body, dict) else body
    if isinstance(detail, dict):
        fields = (detail.get(name) for name in ("code", "message", "executionId"))
        code, message, execution_id = (None if value is None else str(value) for value in fields)
    elif detail:
        message = str(detail)[:500]
    details: dict[str, Any] = {
        "status_code": response.status,
        "code": code,
        "execution_id": execution_id,
        "request_id": response.headers.get("x-request-id"),
        "response_body": body,
    }
    kind = error_class(response.status, code, path)
    if kind is AuthenticationError:
        details["www_authenticate"] = response.headers.get("www-authenticate")
    if kind is RateLimitError:
        details["retry_after"] = retry_after(response)
    text = ": ".join(part for part in (code, message) if part)
    return kind(text or f"the service responded with HTTP {response.status}", **details)


def retry_after(response: Response) -> float | None:
    """Return the response's Retry-After in seconds, None if it is missing or not a number of seconds."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def decode(model: type[ModelT], response: Response) -> ModelT:
    """Parse the body of ``response`` as ``model``."""
    return validated(model.model_validate_json, model.__name__, response)


def validated(validate: Callable[[bytes], T], name: str, response: Response) -> T:
    """Parse the body of ``response`` by ``validate``. Errors call what was expected ``name``."""
    try:
        return validate(response.body)
    except ValidationError as error:
        raise FlowExecutionError(
            f"the service's response is not a valid {name}: {first_problem(error)}",
            status_code=response.status,
            code="INVALID_RESPONSE",
            request_id=response.headers.get("x-request-id"),
            response_body=json_or_text(response.body),
        ) from error


def first_problem(error: ValidationError) -> str:
    """Describe the first problem of a model, without the value: it may be private."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    return f"{path}: {first['msg']}" if path else first["msg"]


def json_or_text(body: bytes) -> Any:
    """Decode ``body`` as JSON, or else as text."""
    try:
        return from_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")
