"""The decorator ``@recorded``: what a function returns is kept in captures, and served in replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from ..session.wrapping import decorate
from .functions import RecordedFunction
from .wrappers import WRAPPERS

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class RecordedDecorator(Protocol):
    """The decorator that ``recorded(...)`` with options returns."""

    @overload
    def __call__(self, function: classmethod[C, P, R], /) -> classmethod[C, P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, R], /) -> staticmethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


class Recorded:
    """The type of :data:`recorded`."""

    @overload
    def __call__(self, function: classmethod[C, P, R], /) -> classmethod[C, P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, R], /) -> staticmethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def __call__(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        key: Callable[..., Any] | Sequence[str] | None = None,
        redact: Callable[[dict[str, Any]], dict[str, Any]] | Sequence[str] | bool | None = None,
        live: bool = False,
    ) -> RecordedDecorator: ...
    def __call__(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        key: Callable[..., Any] | Sequence[str] | None = None,
        redact: Callable[[dict[str, Any]], dict[str, Any]] | Sequence[str] | bool | None = None,
        live: bool = False,
    ) -> Any:
        """Keep what a function returns or raises in captures, and serve it in replays.

        In a replay the function does not run: the Nth call gets what the Nth call returned when it was
        recorded; calls that overlap are told apart by their arguments. Outside of captures and replays
        the function is called, and nothing else happens.

        Works on plain functions, coroutine functions, generators, async generators, methods, class and
        static methods, with or without parentheses. The decorated function keeps its signature and its
        kind.

        Args:
            function: The function to decorate.
            name: The name in recordings; by default its module and name, as ``books.load``.
            key: What of the arguments counts: a function that takes them, or a list of their names. By
                default all of them; one that is no data, such as a database connection, counts by its type.
            redact: What is removed beside the secrets that names and forms tell: a function of the dict
                that is stored (``arguments``, and ``result``, ``items`` or ``error``), or a list of JSON
                paths such as ``result.email``. False removes nothing.
            live: The function runs in replays, too, inside of them; its differences are reported as drift.

        Returns:
            A function of the same kind and signature.

        Raises:
            TypeError: The decorated object is not a function, or an option is not valid.
            RecordedValueError: At call time, in a capture: a result cannot be kept. In a replay: it cannot
                be read back.
            ReplayMissError: At call time, in a replay: nothing was recorded for this call.

        Example:
            >>> from noukai_sdk import recorded
            >>> @recorded
            ... def load_rubric(level: str) -> dict[str, str]:
            ...     return {"level": level}
            >>> load_rubric("b1")
            {'level': 'b1'}
        """

        def make(kind: Any, target: Any) -> Any:
            return WRAPPERS[kind](target, RecordedFunction(kind, target, name, key, redact, live))

        if function is None:
            return lambda function: decorate(function, make)
        return decorate(function, make)

    def value(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function as a recorded one, at this place only. Await the result of a coroutine function.

        Args:
            name: The name in recordings.
            function: The function, or a class. One that only returns an awaitable, such as a lambda, is no
                coroutine function.
            *args: Its arguments.
            **kwargs: Its arguments by name.

        Example:
            >>> from noukai_sdk import recorded
            >>> recorded.value("rate", float, "1.25")
            1.25
        """
        called = _constructor(function) if isinstance(function, type) else function
        call: Callable[P, R] = self(name=name)(called)
        return call(*args, **kwargs)

    def __repr__(self) -> str:
        return "noukai_sdk.recorded"


def _constructor(made: type) -> Callable[..., Any]:
    """Return a function that makes an instance of a class; its annotation says which."""

    def construct(*args: Any, **kwargs: Any) -> Any:
        return made(*args, **kwargs)

    construct.__annotations__["return"] = made
    return construct


recorded = Recorded()
"""Decorate a function whose results belong to the session: rows read, HTTP calls, feature flags."""
