"""Give sets another order: the helpers that instrumented code calls.

A set with the same elements may be iterated in any order, which depends on the hash seed, on the addresses
of its elements and on what it held before. Each helper returns its argument unchanged unless this run
varies the order at this line.
"""

from __future__ import annotations

import asyncio
import builtins
import random
import re
import reprlib
from collections.abc import Callable
from typing import Any

from .chance import hash_of
from .sites import Site
from .source_reads import Sources

_SIZES = (32, 128, 512, 2_048, 8_192)
_MOST_ELEMENTS, _LONGEST_ELEMENT = 50, 100
_BY_ADDRESS: Any = object.__hash__
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 200
_repr.maxlist = _repr.maxdict = _repr.maxtuple = _repr.maxset = 20


class SetOrder:
    """The helpers of one run. Their names are those in instrumented code, without underscores."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        # By address: other processes have other addresses, and that is not what a plan has changed.
        self._addresses: dict[int, int] = {}

    def helpers(self) -> dict[str, Callable[..., Any]]:
        """Return the helpers by their names in builtins."""
        of = {
            "order": self.order,
            "pop": self.pop,
            "made": self.made,
            "text": self.text,
            "hash": self.hash,
            "id": self.id,
            "value": self.value,
            "local": self.local,
        }
        return {f"__noukai_{name}__": function for name, function in of.items()}

    def order(self, value: Any, file: str, line: int) -> Any:
        """Return what an iteration goes over."""
        if not isinstance(value, (set, frozenset)) or len(value) < 2:
            return value
        read = self._sources.read("set", "order", Site(file, line))
        if read is not None and read.varied:
            return self._shuffled(value)
        return _in_base_order(value)

    def pop(self, value: Any, file: str, line: int) -> Any:
        """Call ``value.pop()``."""
        if not isinstance(value, set) or len(value) < 2:
            return value.pop()
        read = self._sources.read("set", "order", Site(file, line))
        varied = read is not None and read.varied
        element = self._shuffled(value)[0] if varied else next(iter(_in_base_order(value)))
        value.remove(element)
        return element

    def made(self, value: Any, file: str, line: int) -> Any:
        """Return a set that was just made."""
        if type(value) not in (set, frozenset) or len(value) < 2:
            return value
        read = self._sources.read("made set", "order", Site(file, line))
        if read is None:
            return value
        if read.number == 0:
            for element in list(value)[:_MOST_ELEMENTS]:
                self._sources.note_token("made set", read, _shown(element))
        return _relaid(value) if read.varied and type(value) is set else value

    def text(self, value: Any, file: str, line: int) -> Any:
        """Return what is turned into text."""
        if not isinstance(value, (set, frozenset)) or len(value) < 2:
            return value
        read = self._sources.read("set", "order", Site(file, line))
        if read is None or not read.varied or type(value) not in (set, frozenset):
            return value
        inner = ", ".join(map(repr, self._shuffled(value)))
        return _Text(f"{{{inner}}}" if type(value) is set else f"frozenset({{{inner}}})")

    def hash(self, call: tuple[Callable[[Any], Any], Any], file: str, line: int) -> Any:
        """Call ``hash(value)``."""
        function, value = call
        if function is not builtins.hash:
            return function(value)
        read = self._sources.read("random", "hash", Site(file, line))
        base = self._address(value) >> 4 if type(value).__hash__ is _BY_ADDRESS else hash(value)
        if read is None or not read.varied or isinstance(value, (int, float)):
            return base
        return base ^ (0x5BD1E995 << self._sources.plan.variant % 8)

    def id(self, call: tuple[Callable[[Any], Any], Any], file: str, line: int) -> Any:
        """Call ``id(value)``."""
        function, value = call
        if function is not builtins.id:
            return function(value)
        read = self._sources.read("random", "id", Site(file, line))
        return self._address(value) + (0 if read is None or not read.varied else 0x4000000)

    def _address(self, value: Any) -> int:
        """Return an address of an object that is the same in each process."""
        return self._addresses.setdefault(id(value), 0x7F0000000000 + 16 * len(self._addresses))

    def value(self, value: Any, file: str, line: int) -> Any:
        """Note what is put into an object that tasks or threads may share."""
        read = self._sources.read("completion", "changes", Site(file, line))
        if read is not None:
            self._sources.note_token("completion", read, _token(value))
        return value

    def local(self, value: Any, file: str, line: int) -> Any:
        """Note that a line reads the time zone or the locale of the machine."""
        self._sources.read("zone", "zone", Site(file, line))
        return value

    def _shuffled(self, value: Any) -> list[Any]:
        elements = list(_in_base_order(value))
        before = list(elements)
        variant = self._sources.plan.variant
        if variant == 0:
            return elements[::-1]
        random.Random(variant).shuffle(elements)  # noqa: S311  # an order to try, not a secret
        if elements == before:
            elements.append(elements.pop(0))
        return elements


class _Text:
    """Stands for a set that is turned into text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __format__(self, spec: str) -> str:
        return format(self._text, spec)


def _in_base_order(value: Any) -> Any:
    """Return a set in an order that does not depend on the addresses of its elements.

    Two objects with the default hash are in another order in each process.
    """
    if not any(type(each).__hash__ is _BY_ADDRESS for each in value):
        return value
    return sorted(value, key=_base_key)


def _base_key(value: Any) -> tuple[int, str]:
    try:
        if isinstance(value, asyncio.Task):
            text = value.get_name()
        else:
            text = f"{type(value).__qualname__} {_repr.repr(getattr(value, '__dict__', value))}"
    except Exception:  # noqa: BLE001  # a method of the user's
        text = type(value).__qualname__
    text = _ADDRESS.sub("", text)
    return len(text), text


def _relaid(value: Any) -> Any:
    """Return a real set with the same elements, in another order if that can be had."""
    before = list(value)
    for size in _SIZES:
        other: set[Any] = set(range(-size, 0))
        other.update(before)
        other.difference_update(range(-size, 0))
        other.update(before)  # negative numbers among them
        if list(other) != before:
            return other
    return value


def _shown(value: Any) -> str:
    """Return a value as it probably stands in a text."""
    try:
        return str(getattr(value, "value", value))[:_LONGEST_ELEMENT]
    except Exception:  # noqa: BLE001  # a method of the user's
        return ""


def _token(value: Any) -> str:
    """Return what names the task that runs, and a value, so that their order can be compared."""
    try:
        text = _ADDRESS.sub("", _repr.repr(value))
    except Exception:  # noqa: BLE001  # a repr of the user's
        text = type(value).__name__
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    name = "" if task is None else task.get_name()
    return f"{hash_of(name):x} {hash_of(text):x}"
