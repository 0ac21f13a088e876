"""Check the types and ranges of settings.

Wrong types raise TypeError, and wrong values ValueError. No message shows a value that may be a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .hidden_keys import shown, type_name


def of_type(setting: str, value: object, kind: Any, expected: str) -> None:
    """Check that a value is of the type ``kind``, which ``expected`` describes."""
    if not isinstance(value, kind):
        raise TypeError(f"{setting} must be {expected}, not {type_name(value)}")


def text(setting: str, value: object) -> None:
    """Check that a value is a str."""
    of_type(setting, value, str, "a str")


def flag(setting: str, value: object) -> None:
    """Check that a value is True or False."""
    of_type(setting, value, bool, "True or False")


def mapping(setting: str, value: object) -> None:
    """Check that a value is a mapping."""
    of_type(setting, value, Mapping, "a mapping")


def whole(setting: str, value: Any, least: int | None = None) -> None:
    """Check that a value is an int, of ``least`` or more."""
    expected = "a whole number" if least is None else f"an int of {least} or more"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{setting} must be {expected}, not {type_name(value)}")
    if least is not None and value < least:
        raise ValueError(f"{setting} must be {least} or more, not {value!r}")


def seconds(setting: str, value: Any, *, may_be_zero: bool = False) -> None:
    """Check that a value is a number of more than 0, or of 0 or more."""
    allowed = "0 seconds or more" if may_be_zero else "more than 0 seconds"
    _number(setting, value, f"a number of {allowed}")
    if not (value > 0 or (may_be_zero and value == 0)):
        raise ValueError(f"{setting} must be {allowed}, not {value!r}")


def temperature(setting: str, value: Any) -> None:
    """Check that a value is a number from 0 to 2."""
    _number(setting, value, "a number from 0 to 2")
    if not 0 <= value <= 2:
        raise ValueError(f"{setting} must be 0 to 2, not {value!r}")


def top_p(setting: str, value: Any) -> None:
    """Check that a value is a number of more than 0 and at most 1."""
    _number(setting, value, "a number of more than 0 and at most 1")
    if not 0 < value <= 1:
        raise ValueError(f"{setting} must be more than 0 and at most 1, not {value!r}")


def _number(setting: str, value: object, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{setting} must be {expected}, not {type_name(value)}")


def one_of(setting: str, value: object, known: tuple[str, ...]) -> None:
    """Check that a value is one of several texts."""
    text(setting, value)
    if value not in known:
        raise ValueError(f"{setting} must be {' or '.join(map(repr, known))}, not {shown(value)}")
