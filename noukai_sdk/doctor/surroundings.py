"""Control what the user's code reads of its environment: variables, the host, the process, files."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Literal

from .sites import Owner, owner_of
from .source_lines import words
from .source_reads import Sources

# Variables of this package, and those that set Python and its tools up.
_KEPT = ("NOUKAI_", "PYTHON", "LD_", "DYLD_", "SSL_", "LC_", "XDG_", "PYTEST_", "COVERAGE_")
# These libraries read variables for the user's settings; others read their own.
_OF_SETTINGS = words(
    "pydantic_settings decouple environs environ dynaconf starlette dotenv prettyconf goodconf "
    "typed_settings omegaconf configargparse everett"
)
# These modules of the standard library read variables on behalf of whoever calls them.
_PASSED_ON = words("os _collections_abc getpass posixpath ntpath pathlib")
_MARK = "noukai-doctor"
_FILE = re.compile(r"[^\s/]*/\S*|\S*\.(?!\d)\w{1,7}")
_ABSENT: Any = object()

# Functions that tell something about the machine or the process: module, name, what else they return.
_FUNCTIONS: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (socket, "gethostname", lambda _: "localhost"),  # its address can be looked up
    (socket, "getfqdn", lambda value: f"{_MARK}.{value}"),
    (os, "getlogin", lambda value: f"{value}-{_MARK}"),
    (os, "getcwd", lambda value: f"{value}/../{os.path.basename(value)}"),  # noqa: PTH119  # a text
    (os, "cpu_count", lambda value: (value or 1) + 3),
    (os, "uname", lambda value: os.uname_result((value[0], f"{value[1]}-{_MARK}", *value[2:]))),
    (os, "listdir", lambda value: sorted(value, reverse=value == sorted(value))),
    *(
        (platform, name, lambda value: f"{value}-{_MARK}")
        for name in ("node", "platform", "machine", "release", "version", "processor")
    ),
)


def control_surroundings(sources: Sources) -> None:
    """Give the user's code the environment of the run, from now on."""
    for module, name, other in _FUNCTIONS:
        original = getattr(module, name, None)
        if original is not None:
            setattr(module, name, _controlled(sources, module, name, original, other))
    for name in ("getpid", "getppid"):
        if hasattr(os, name):
            setattr(os, name, _numbered(sources, name, getattr(os, name)))
    threading.get_ident = _controlled(
        sources, threading, "get_ident", threading.get_ident, lambda value: value
    )
    _control_variables(sources)


class _Number(int):
    """A number of a process. As a text it is the same in all runs; the program may send signals to it."""

    text = ""

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(int(self.text), spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


def _numbered(sources: Sources, name: str, original: Callable[[], int]) -> Callable[[], int]:
    def read_number() -> int:
        value = original()
        if _reader(sys._getframe(1)) != "user":
            return value
        read = sources.read("environment", f"os.{name}")
        number = _Number(value)
        number.text = "8563" if read is not None and read.varied else "4242"
        return number

    read_number.__name__ = read_number.__qualname__ = name
    return read_number


def _controlled(
    sources: Sources, module: Any, name: str, original: Any, other: Callable[[Any], Any]
) -> Any:
    def read_surroundings(*args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        # Libraries compare what they read with what the operating system says elsewhere.
        if _reader(sys._getframe(1)) != "user":
            return value
        read = sources.read("environment", f"{module.__name__}.{name}")
        return other(value) if read is not None and read.varied else value

    read_surroundings.__name__ = read_surroundings.__qualname__ = name
    return read_surroundings


def _control_variables(sources: Sources) -> None:
    environ: Any = type(os.environ)
    of_system = environ.__getitem__

    def value_of(self: Any, key: Any, default: Any) -> Any:
        try:
            value = of_system(self, key)
        except KeyError:
            value = _ABSENT
        if self is not os.environ or not isinstance(key, str) or key.startswith(_KEPT):
            return value
        if _reader(sys._getframe(2)) not in ("user", "settings"):
            return value
        read = sources.read("environment", key)
        if read is None or not read.varied:
            return value
        return _other(value, default, sources.plan.variant)

    def get_item(self: Any, key: Any) -> Any:
        value = value_of(self, key, _ABSENT)
        if value is _ABSENT:
            raise KeyError(key) from None
        return value

    def get(self: Any, key: Any, default: Any = None) -> Any:
        value = value_of(self, key, default)
        return default if value is _ABSENT else value

    environ.__getitem__ = get_item
    environ.get = get


def _reader(frame: FrameType | None) -> Owner | Literal["settings"]:
    """Return whose code reads a variable or calls a function."""
    while frame is not None:
        owner = owner_of(frame.f_code.co_filename)
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if owner == "library" and package in _OF_SETTINGS:
            return "settings"
        if owner != "doctor" and not (owner == "standard library" and package in _PASSED_ON):
            return owner
        frame = frame.f_back
    return "standard library"


def _other(value: Any, default: Any, variant: int) -> Any:
    """Return another value of a variable, of the same form; or none, if it has one."""
    if variant == 1 and value is not _ABSENT:
        return _ABSENT
    if value is _ABSENT:
        if default is _ABSENT or default is None:
            return _MARK if variant == 0 else "1"
        value = str(default)
    lowered = value.strip().lower()
    for one, other in (("true", "false"), ("yes", "no"), ("on", "off"), ("1", "0")):
        if lowered in (one, other):
            return other if lowered == one else one
    if "://" in value:
        return f"{value}{'&' if '?' in value else '?'}{_MARK}=1"
    # The same file by another name: no run may make files elsewhere.
    if os.path.isdir(value) or _FILE.fullmatch(value):  # noqa: PTH112  # a text
        return f"{value}/." if os.path.isdir(value) else _same_file(value)  # noqa: PTH112  # a text, as the program has set it
    with suppress(ValueError):
        return str(int(value) + 7)
    with suppress(ValueError):
        return str(float(value) + 7)
    return f"{value}-{_MARK}"


def _same_file(value: str) -> str:
    folder, slash, name = value.rpartition("/")
    return f"{folder}{slash}./{name}"
