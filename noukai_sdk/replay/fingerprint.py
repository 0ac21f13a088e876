"""What makes two inputs the same input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

# How the answer is delivered (runRemaining, trace) is no part of the input.
INPUT_FIELDS = (
    "message",
    "messages",
    "parameters",
    "attachments",
    "blockOverrides",
    "inputOverrides",
    "tools",
    "toolChoice",
)


def fingerprint(request: Mapping[str, Any], version: int | None) -> str:
    """A canonical hash of a call's input.

    Example:
        >>> fingerprint({"message": "a"}, None) == fingerprint({"message": "b"}, None)
        False
    """
    inputs = {name: request[name] for name in INPUT_FIELDS if name in request}
    return _digest({**inputs, "version": version})


def message_fingerprint(request: Mapping[str, Any]) -> str:
    """The same for sources that recorded nothing but the message."""
    return _digest({"message only": request.get("message")})


def differing_fields(recorded: Mapping[str, Any], called: Mapping[str, Any]) -> list[str]:
    """The input fields in which a call differs from a recording."""
    return [name for name in INPUT_FIELDS if _differs(recorded.get(name), called.get(name))]


def _differs(recorded: Any, called: Any) -> bool:
    # Nearly every value is a text or not there, and comparing those takes no canonical form.
    if recorded is None or isinstance(recorded, str):
        return bool(recorded != called)
    return _canonical(recorded) != _canonical(called)


def _digest(value: Any) -> str:
    return hashlib.blake2b(_canonical(value).encode(), digest_size=16).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(to_jsonable_python(value), sort_keys=True, separators=(",", ":"))
