"""Values as JSON text that becomes the same values again: plain ones, and instances of known types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from ...errors import FlowExecutionError

_AS_THEY_ARE = (type(None), bool, int, float, str)
# The key of an object that stands for an instance; the name of its type, and then its JSON.
_TYPE, _VALUE = "$noukai_type", "value"

Types = Mapping[str, type]
"""Types that pydantic can write as JSON and read again, by their names."""


class OutputNotStorableError(FlowExecutionError):
    """A value is not one that JSON can hold, so that a resumed run would see another one."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="OUTPUT_NOT_STORABLE")


def plain(what: str, value: Any, types: Types | None = None) -> Any:
    """Return a value as JSON holds it: tuples are lists. Instances of ``types`` stay.

    Args:
        what: What the value is, for the error.
        value: The value.
        types: Types of instances that :func:`to_text` can write.

    Raises:
        OutputNotStorableError: JSON cannot hold it.

    Example:
        >>> plain("the output", {"size": (3, 4)})
        {'size': [3, 4]}
    """
    try:
        return _plain(value, "", frozenset((types or {}).values()))
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


def to_text(what: str, value: Any, types: Types | None = None) -> str:
    """Return a value as JSON text. Raises as :func:`plain`."""
    try:
        return json.dumps(plain(what, value, types), separators=(",", ":"), default=_tagged)
    except (
        ValueError
    ) as error:  # an int of more than 4,300 digits, or an instance that JSON cannot hold
        message = f"{what} cannot be kept in the store of runs: {error}"
        raise OutputNotStorableError(message) from None


def from_text(text: str, types: Types) -> Any:
    """Return the value that :func:`to_text` has written.

    Raises:
        ValueError: An instance does not fit its type any more.
    """
    return json.loads(text, object_hook=partial(_untagged, types) if _TYPE in text else None)


def _tagged(value: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter  # for runs with such outputs alone

    kind = type(value)
    content = TypeAdapter(kind).dump_python(value, mode="json", by_alias=True)
    return {_TYPE: kind.__qualname__, _VALUE: content}


def _untagged(types: Types, value: dict[str, Any]) -> Any:
    kind = types.get(value[_TYPE]) if value.keys() == {_TYPE, _VALUE} else None
    if kind is None:  # the node that has the type is gone, and runs again
        return value
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_json(json.dumps(value[_VALUE]))


class _NotPlainError(Exception):
    def __init__(self, kind: str, place: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.place = place


def _plain(value: Any, place: str, types: frozenset[type]) -> Any:
    kind = type(value)
    # Exact types: a subclass, such as an Enum of texts, would come back as its base.
    if kind in _AS_THEY_ARE or kind in types:
        return value
    if kind is list or kind is tuple:
        return [_plain(item, f"{place}[{index}]", types) for index, item in enumerate(value)]
    if getattr(kind, "is_plain_json", False) is True:
        return value
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise _NotPlainError(f"key of type {type(key).__name__}", place)
        return {
            key: _plain(item, f"{place}.{key}".lstrip("."), types) for key, item in value.items()
        }
    raise _NotPlainError(kind.__name__, place)
