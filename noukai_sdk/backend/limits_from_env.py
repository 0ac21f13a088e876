"""Read the limits of a service from environment variables, which suit containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..local.engine.sizes import SizeLimits

_PREFIX = "NOUKAI_"
_OF_SETTINGS = (
    "max_message_bytes",
    "max_body_bytes",
    "max_connections",
    "max_pending_jobs",
    "max_pending_jobs_in_all",
    "function_threads",
    "threads_of_one_function",
)


def limits_from(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments for Settings that the environment has.

    Raises:
        ValueError: A variable is not a whole number above 0.

    Example:
        >>> limits_from({"NOUKAI_MAX_PENDING_JOBS": "50"})["max_pending_jobs"]
        50
    """
    sizes = SizeLimits(**_numbers(environment, [field.name for field in fields(SizeLimits)]))
    return {"sizes": sizes, **_numbers(environment, _OF_SETTINGS)}


def _numbers(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, int]:
    numbers = {}
    for name in names:
        variable = f"{_PREFIX}{name.upper()}"
        text = environment.get(variable, "").strip()
        if not text:
            continue
        if not text.isdecimal() or not 0 < int(text) < 2**53:
            raise ValueError(f"{variable}: {text!r} is not a whole number above 0")
        numbers[name] = int(text)
    return numbers
