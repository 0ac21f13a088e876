"""The scalar types of the standard library as JSON, and back."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo


def encode_scalar(value: Any) -> dict[str, Any] | None:
    """Return a scalar that JSON does not know as an object with ``$type``; None for every other value.

    Example:
        >>> encode_scalar(Decimal("1.50"))
        {'$type': 'Decimal', '$value': '1.50'}
    """
    write = _WRITERS.get(type(value))
    if write is None:
        return None
    written: dict[str, Any] | None = write(value)
    return written


def decode_scalar(data: Mapping[str, Any]) -> Any:
    """Return the scalar that `encode_scalar` made this from.

    Raises:
        KeyError: There is no scalar of this ``$type``.
        ValueError: Its text is not valid, and others of what the types raise.
    """
    return _READERS[data["$type"]](data)


def _as_text(name: str, text: Callable[[Any], str] = str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {"$type": name, "$value": text(value)}


def _write_bytes(value: bytes | bytearray) -> dict[str, Any]:
    """Write bytes as text if they are UTF-8, so that secrets in them are found."""
    name = type(value).__name__
    try:
        return {"$type": name, "$value": value.decode()}
    except UnicodeDecodeError:
        return {"$type": name, "$base64": base64.b64encode(value).decode()}


def _read_bytes(data: Mapping[str, Any]) -> bytes:
    if "$base64" in data:
        return base64.b64decode(data["$base64"], validate=True)
    return str(data["$value"]).encode()


def _write_path(value: Any) -> dict[str, Any]:
    name = "Path" if isinstance(value, Path) else type(value).__name__
    text = str(value)
    # A file name that is not UTF-8.
    return {"$type": name, **({"$value": text} if is_unicode(text) else _escaped(text))}


def _write_delta(value: timedelta) -> dict[str, Any]:
    parts = {"days": value.days, "seconds": value.seconds, "microseconds": value.microseconds}
    return {"$type": "timedelta", **{name: part for name, part in parts.items() if part}}


def _read_delta(data: Mapping[str, Any]) -> timedelta:
    return timedelta(**{name: part for name, part in data.items() if name != "$type"})


def _write_moment(value: datetime | time) -> dict[str, Any] | None:
    data: dict[str, Any] = {"$type": type(value).__name__, "$value": value.isoformat()}
    zone = value.tzinfo
    key = getattr(zone, "key", None) if isinstance(zone, ZoneInfo) else None
    if key is not None:
        data["$zone"] = key
    elif zone is not None and value.utcoffset() is None:
        return None  # it would come back without its zone
    if value.fold:
        data["$fold"] = 1
    return data


def _read_moment(kind: type[datetime | time]) -> Callable[[Mapping[str, Any]], Any]:
    def read(data: Mapping[str, Any]) -> Any:
        moment = kind.fromisoformat(data["$value"])
        zone: tzinfo | None = moment.tzinfo
        if "$zone" in data:
            try:
                zone = ZoneInfo(data["$zone"])
            except (KeyError, ValueError):  # no time zone data on this machine: the offset stays
                zone = moment.tzinfo
        return moment.replace(tzinfo=zone, fold=data.get("$fold", 0))

    return read


def _write_complex(value: complex) -> dict[str, Any]:
    return {"$type": "complex", "$value": [repr(value.real), repr(value.imag)]}


def _write_text(value: str) -> dict[str, Any] | None:
    return None if is_unicode(value) else {"$type": "str", **_escaped(value)}


def _write_float(value: float) -> dict[str, Any] | None:
    return None if math.isfinite(value) else {"$type": "float", "$value": repr(value)}


def _write_int(value: int) -> dict[str, Any] | None:
    # In hexadecimal: Python refuses to read more than 4,300 decimal digits.
    return None if is_small(value) else {"$type": "int", "$value": hex(value)}


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, which UTF-8 cannot hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_small(number: int) -> bool:
    """Return whether every reader of JSON reads this integer: it has 64 bits."""
    return -(2**63) <= number < 2**63


def _escaped(text: str) -> dict[str, str]:
    return {"$escaped": text.encode("unicode_escape").decode("ascii")}


def _text_of(data: Mapping[str, Any]) -> str:
    if "$escaped" in data:
        return str(data["$escaped"]).encode("ascii").decode("unicode_escape")
    return str(data["$value"])


def _from_text(kind: Callable[[str], Any]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda data: kind(_text_of(data))


_BY_TEXT = (
    Decimal,
    Fraction,
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    UUID,
)
_WRITERS: dict[type, Callable[[Any], dict[str, Any] | None]] = {
    str: _write_text,
    int: _write_int,
    float: _write_float,
    complex: _write_complex,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    datetime: _write_moment,
    time: _write_moment,
    date: _as_text("date", date.isoformat),
    timedelta: _write_delta,
    **{kind: _as_text(kind.__name__) for kind in _BY_TEXT},
    **dict.fromkeys((PosixPath, WindowsPath, PurePosixPath, PureWindowsPath), _write_path),
}
_READERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "str": _text_of,
    "int": _from_text(lambda text: int(text, 16)),
    "float": _from_text(float),
    "complex": lambda data: complex(*map(float, data["$value"])),
    "bytes": _read_bytes,
    "bytearray": lambda data: bytearray(_read_bytes(data)),
    "datetime": _read_moment(datetime),
    "time": _read_moment(time),
    "date": _from_text(date.fromisoformat),
    "timedelta": _read_delta,
    **{kind.__name__: _from_text(kind) for kind in _BY_TEXT},
    "Path": _from_text(Path),
    "PurePosixPath": _from_text(PurePosixPath),
    "PureWindowsPath": _from_text(PureWindowsPath),
}
