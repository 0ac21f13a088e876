"""A recorded function: its name, what of its arguments counts, and what is removed."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.reports import CallSite
from ..session.scope import active
from ..session.wrapping import Function, Kind, ScopeFactory, wrap

if TYPE_CHECKING:
    from ..replay.redaction import Redactor

Key = Callable[..., Any] | Sequence[str]
Redact = Callable[[dict[str, Any]], dict[str, Any]] | Sequence[str] | bool

logger = logging.getLogger("noukai_sdk")

UNFIT: Any = object()
"""In place of arguments that the function does not take: calling it says what is wrong."""


class RecordedFunction:
    """A function whose calls are kept in captures, and served in replays.

    Args:
        kind: The kind of the function.
        function: The function, without the decorator.
        name: The name in recordings; by default module and name, as ``books.load``.
        key: What of the arguments counts.
        redact: What is removed from arguments, result and error.
        live: The function runs in replays, too.

    Attributes:
        body: Runs the function in a capture: outside of the session, unless it is live.
    """

    def __init__(
        self,
        kind: Kind,
        function: Function,
        name: str | None = None,
        key: Key | None = None,
        redact: Redact | None = None,
        live: bool = False,
    ) -> None:
        self.kind = kind
        self.function = function
        self.name = name or _name(function)
        if name is None:
            _warn_of_namesake(self.name, function)
        self.live = live
        self.is_generator = "generator" in kind
        self._key = key
        self._redact = redact
        if isinstance(key, str) or not (key is None or callable(key) or isinstance(key, Sequence)):
            raise TypeError(
                "key= takes a function of the arguments, or a list of their names, "
                f"not {type(key).__name__}"
            )
        if isinstance(redact, str) or not (
            redact is None or callable(redact) or isinstance(redact, (bool, Sequence))
        ):
            raise TypeError(
                "redact= takes a function of the stored dict, a list of JSON paths, or False, "
                f"not {type(redact).__name__}"
            )
        if key is not None and not callable(key):
            known = getattr(self._signature, "parameters", {})
            for each in key:
                if self._signature is not None and each not in known:
                    raise ValueError(f"key={key!r}: {self.name}() has no argument {each!r}")
        if redact is not None and not isinstance(redact, bool) and not callable(redact):
            _ = self._redactor  # a malformed path is an error here, not at the first call

    @cached_property
    def body(self) -> Function:
        """The function, outside of the session."""
        if self.live:
            return self.function
        return wrap(self.function, ScopeFactory(self._outside, self._outside))  # type: ignore[no-any-return]  # wrap() keeps the kind

    def _outside(self) -> active:
        from .body_scope import outside_of_session

        return outside_of_session(self.name)

    @cached_property
    def annotation(self) -> Any:
        """The evaluated return annotation."""
        from .annotations import return_annotation

        return return_annotation(self._definition)

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return what counts of the arguments, as JSON; UNFIT if the function cannot be called so."""
        from .values import encode_arguments, encode_loosely

        signature = self._signature
        named: dict[str, Any] = {**({"args": list(args)} if args else {}), **kwargs}
        if signature is not None:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return UNFIT
            if self._key is not None:
                bound.apply_defaults()
            named = self._named(bound)
        if callable(self._key):
            return encode_loosely(self._key(*args, **kwargs))
        if self._key is not None:
            named = {name: named.get(name) for name in self._key}
        return encode_arguments(named)

    def _named(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        named: dict[str, Any] = {}
        parameters = bound.signature.parameters
        for position, (name, value) in enumerate(bound.arguments.items()):
            kind = parameters[name].kind
            if position == 0 and name in ("self", "cls") and self._key is None:
                continue
            if kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            else:
                named[name] = list(value) if kind is inspect.Parameter.VAR_POSITIONAL else value
        return named

    def redacted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return stored values without what is to be removed. ``values`` has the fields of the wire."""
        if self._redact is False:
            return dict(values)
        clean = self._redactor(values)
        return {name: clean.get(name) for name in values}

    def redacted_request(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the arguments of a call as its recording holds them."""
        return self.redacted({"arguments": request["arguments"]})

    @property
    def site(self) -> CallSite | None:
        """Where the function is defined."""
        code = getattr(self._definition, "__code__", None)
        if code is None:
            return None
        return CallSite(code.co_filename, code.co_firstlineno, code.co_name)

    @cached_property
    def _redactor(self) -> Redactor:
        from ..replay.redaction import Redactor

        redact = self._redact
        if callable(redact):
            return Redactor(hook=redact)
        return Redactor(() if redact is None or isinstance(redact, bool) else redact)

    @cached_property
    def _definition(self) -> Any:
        function = inspect.unwrap(_below_partials(self.function))
        return function if inspect.isroutine(function) else type(function).__call__

    @cached_property
    def _signature(self) -> inspect.Signature | None:
        with suppress(TypeError, ValueError):  # some functions written in C have none
            return inspect.signature(self.function)
        return None


def _below_partials(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    return function


def _name(function: Any) -> str:
    """Return module and name, such as ``books.load``: the same however the module was imported."""
    while isinstance(function, partial):
        function = function.func
    function = _below_partials(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    name = name.rpartition("<locals>.")[2]
    module = getattr(function, "__module__", None) or ""
    if module == "__main__":
        file = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(file).stem if file else ""
    module = module.rpartition(".")[2]
    return f"{module}.{name}" if module else name


_files: dict[str, str] = {}
"""The file of the first function of each name that was not given."""


def _warn_of_namesake(name: str, function: Any) -> None:
    """Warn of a function of another file with the same name: one could get what the other returned."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    # In a notebook each cell is a file, and may be run again.
    if code is None or function.__module__ == "__main__":
        return
    first = _files.setdefault(name, code.co_filename)
    if first != code.co_filename:
        logger.warning(
            "two recorded functions have the name %r, in %s and %s, so a replay may serve one with what "
            "the other returned: give one of them another name=",
            name,
            first,
            code.co_filename,
        )
