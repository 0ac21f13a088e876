"""Values as JSON text that becomes the same values again."""

from __future__ import annotations

import json
from typing import Any

from ...errors import FlowExecutionError

_AS_THEY_ARE = (type(None), bool, int, float, str)


class OutputNotStorableError(FlowExecutionError):
    """A value is not one that JSON can hold, so that a resumed run would see another one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="OUTPUT_NOT_STORABLE")


def plain(what: str, value: Any) -> Any:
    """Return a value as JSON holds it: tuples are lists.

    Args:
        what: What the value is, for the error.
        value: The value.

    Raises:
        OutputNotStorableError: JSON cannot hold it.

    Example:
        >>> plain("the output", {"size": (3, 4)})
        {'size': [3, 4]}
    """
    try:
        return _plain(value, "")
    except _NotPlainError as error:
        place = f" at {error.place}" if error.place else ""
        message = (
            f"{what} cannot be kept in the store of runs: it is or holds a {error.kind}{place}, which JSON "
            "cannot hold. Return dicts, lists, texts, numbers, booleans and None only"
        )
        raise OutputNotStorableError(message) from None
    except RecursionError:
        message = (
            f"{what} cannot be kept in the store of runs: it holds itself, or is nested too deep"
        )
        raise OutputNotStorableError(message) from None


def to_text(what: str, value: Any) -> str:
    """Return a value as JSON text. Raises as :func:`plain`."""
    try:
        return json.dumps(plain(what, value), separators=(",", ":"))
    except ValueError as error:  # an int of more than 4,300 digits
        message = f"{what} cannot be kept in the store of runs: {error}"
        raise OutputNotStorableError(message) from None


class _NotPlainError(Exception):
    def __init__(self, kind: str, place: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.place = place


def _plain(value: Any, place: str) -> Any:
    kind = type(value)
    # Exact types: a subclass, such as an Enum of texts, would come back as its base.
    if kind in _AS_THEY_ARE:
        return value
    if kind is list or kind is tuple:
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if getattr(kind, "is_plain_json", False) is True:
        return value
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise _NotPlainError(f"key of type {type(key).__name__}", place)
        return {key: _plain(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    raise _NotPlainError(kind.__name__, place)
