"""Find the classes that a return annotation names.

A recording holds the name of a class and nothing that could load it. The class itself comes from the
annotation of the function, so a recording can never choose what is made.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from types import MappingProxyType, SimpleNamespace
from typing import Any

from pydantic import BaseModel
from typing_extensions import is_typeddict

Classes = Mapping[str, type]


@dataclasses.dataclass(frozen=True)
class Unresolved:
    """An annotation that Python cannot evaluate, and why."""

    text: str
    reason: str


def return_annotation(function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> Any:
    """Return the evaluated return annotation of a function; None if it has none.

    Only this one annotation is evaluated: those of the arguments often name what is imported for type
    checkers alone.

    Args:
        function: The function itself, not a wrapper.
        names: Local names where the function was defined, for classes that are not global.

    Example:
        >>> def load(number: "Missing") -> "list[int]": ...
        >>> return_annotation(load)
        list[int]
    """
    function = inspect.unwrap(function)
    annotation = getattr(function, "__annotations__", {}).get("return")
    if annotation is None:
        return None
    module = getattr(function, "__globals__", {})
    return _resolved(annotation, module, {**(names or {}), **_closure(function)})


def classes_of(annotation: Any) -> Classes:
    """Return the classes that an annotation names, also in the fields of others, by their full names."""
    try:
        return _cached_classes(annotation)
    except TypeError:  # not hashable, such as Annotated with a list
        return _find_classes(annotation)


def full_name(cls: type) -> str:
    """Return the module and the qualified name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def named_fields(cls: Any) -> tuple[str, ...] | None:
    """Return the names of a NamedTuple's fields; None for other classes."""
    return getattr(cls, "_fields", None) if issubclass(cls, tuple) else None


def fields_of(cls: type) -> dict[str, Any]:
    """Return the evaluated annotations of a class's fields."""
    if issubclass(cls, BaseModel):
        if not cls.__pydantic_complete__:
            cls.model_rebuild(raise_errors=False)
        fields = {name: field.annotation for name, field in cls.model_fields.items()}
        own = [name for name in cls.__private_attributes__ if name not in fields]
        fields.update((name, hint) for name, hint in _hints(cls).items() if name in own)
        extra = _hints(cls).get("__pydantic_extra__")
        return fields if extra is None else {**fields, "__pydantic_extra__": extra}
    return _hints(cls)


@lru_cache(maxsize=1024)
def _cached_classes(annotation: Any) -> Classes:
    return _find_classes(annotation)


def _find_classes(annotation: Any) -> Classes:
    found: dict[str, type] = {}
    waiting = [annotation]
    seen: list[Any] = []
    seen_classes: set[type] = set()
    while waiting:
        current = waiting.pop()
        if isinstance(current, type) and not typing.get_args(current):
            if current in seen_classes:
                continue
            seen_classes.add(current)
            if current.__module__ != "builtins":
                found[full_name(current)] = current
                waiting += _inside_class(current)
        elif current not in seen:
            seen.append(current)
            waiting += _inside(current)
    return MappingProxyType(found)


def _inside_class(cls: type) -> list[Any]:
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None:
        # Where the annotation says Page[Book], programs often return Page(...).
        return [*fields_of(cls).values(), generic["origin"], *generic["args"]]
    is_data = dataclasses.is_dataclass(cls) or issubclass(cls, BaseModel)
    if is_data or is_typeddict(cls) or named_fields(cls) is not None:
        return list(fields_of(cls).values())
    return []


def _inside(annotation: Any) -> list[Any]:
    """Return the parts of an annotation that is not a class."""
    if isinstance(annotation, typing.TypeVar):
        return [annotation.__bound__, *annotation.__constraints__]
    for attribute in ("__supertype__", "__value__"):  # NewType; a type alias
        if hasattr(annotation, attribute):
            return [getattr(annotation, attribute)]
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return [annotation.__origin__]
    args = typing.get_args(annotation)
    if origin is typing.Literal:
        return [type(value) for value in args if isinstance(value, Enum)]
    parts = [part for arg in args for part in (arg if isinstance(arg, list) else [arg])]
    return [origin, *parts] if isinstance(origin, type) else parts


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class, without those that cannot be evaluated."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception:  # noqa: BLE001 - whatever evaluating them raises: then each alone
        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            module = vars(sys.modules.get(base.__module__, SimpleNamespace()))
            for name, annotation in inspect.get_annotations(base).items():
                hints[name] = _resolved(annotation, module, dict(vars(base)))
        return hints


def _resolved(annotation: Any, module: Mapping[str, Any], names: dict[str, Any]) -> Any:
    holder = SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(holder, dict(module), names, include_extras=True)["value"]
    except Exception as error:  # noqa: BLE001 - whatever evaluating it raises
        return Unresolved(str(annotation), str(error))


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(names, cells, strict=False):
        with suppress(ValueError):  # not set yet
            found[name] = cell.cell_contents
    return found
