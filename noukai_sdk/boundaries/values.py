"""Values of recorded functions as JSON, and back.

JSON values stand for themselves. Everything else is an object with ``$type``: a type of the standard
library by its short name, a class of the program by its full name, with its fields beside it::

    [1, "two"]                        [1, "two"]
    (1, 2)                            {"$type": "tuple", "$items": [1, 2]}
    date(2026, 1, 31)                 {"$type": "date", "$value": "2026-01-31"}
    Book("Dune", 1965)                {"$type": "app.Book", "title": "Dune", "year": 1965}
    {"$ref": "#", 7: "seven"}         {"$$ref": "#", "$7": "seven"}

So a key that begins with ``$`` is ours: such a key of the program gets one more ``$``, and a key that is
not a text is its JSON after a ``$``. Fields and texts stay readable, so that secrets in them are masked.

Classes come from the return annotation (annotations.py). An instance is made from its fields
(rebuilding.py); no constructor and no validator runs, because what they did is already in the fields.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from enum import Enum, Flag
from functools import cached_property
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from ..errors import RecordedValueError
from .annotations import Classes, Unresolved, classes_of, full_name, named_fields
from .library_values import library_fields
from .rebuilding import FACTORIES, Decoder, Unreadable, adapter_of
from .scalars import encode_scalar, is_small, is_unicode

JSON = Any

# JSON levels. A service takes 128, and the recording around a value has some of its own.
MAX_DEPTH = 120


class Unkept(Exception):
    """Why a value cannot be kept; its path grows on the way up to `encode`."""

    def __init__(self, reason: str, fix: str, *, unnamed: type | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix
        self.unnamed = unnamed
        self.path: list[str] = []


def encode(value: Any, annotation: Any = None, *, name: str = "", place: str = "result") -> JSON:
    """Return a value as JSON, after a check that it can be read back.

    Args:
        value: What the function returned or yielded.
        annotation: The function's evaluated return annotation (`return_annotation`).
        name: The function's name, for errors.
        place: How errors call the value.

    Raises:
        RecordedValueError: The value, or a part of it, cannot be kept.

    Example:
        >>> encode({"id": 7, "tags": ("a", "b")})
        {'id': 7, 'tags': {'$type': 'tuple', '$items': ['a', 'b']}}
    """
    classes = classes_of(annotation)
    encoder = Encoder(classes)
    try:
        encoded = encoder.value(value, 0)
        if encoder.has_instances:
            _check_round_trip(encoded, classes)
    except Unkept as problem:
        raise _error(problem, annotation, name, place, value) from None
    except RecursionError:
        deep = Unkept("is nested too deeply", "record a smaller part of it")
        raise _error(deep, annotation, name, place, value) from None
    return encoded


def decode(value: JSON, annotation: Any = None, *, name: str = "") -> Any:
    """Return the value that `encode` made this JSON from.

    Raises:
        RecordedValueError: The JSON is damaged, or does not fit the classes as they are now.

    Example:
        >>> decode({"$type": "tuple", "$items": ["a", "b"]})
        ('a', 'b')
    """
    try:
        return Decoder(classes_of(annotation)).value(value)
    except Unreadable as problem:
        reason = str(problem)
    except RecursionError:
        reason = "it is nested too deeply"
    raise RecordedValueError(
        f"the recorded result of {name or 'the function'} cannot be read: {reason}", function=name
    )


def encode_arguments(arguments: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the arguments of a call as JSON that can be compared, never an error.

    They are never read back, so classes need no annotation. A part that cannot be kept is
    ``{"$object": NAME}`` with the name of its type.

    Example:
        >>> encode_arguments({"isbn": "0441013597", "connection": object()})
        {'isbn': '0441013597', 'connection': {'$object': 'object'}}
    """
    return {name: encode_loosely(value) for name, value in arguments.items()}


def encode_loosely(value: Any) -> JSON:
    """Return a value as JSON in which ``{"$object": NAME}`` stands for what cannot be kept."""
    encoder = Encoder(None, lenient=True)
    try:
        return encoder.value(value, 0)
    except RecursionError:
        return _placeholder(value)


class Encoder:
    """Encodes one value.

    Args:
        classes: The classes whose instances are kept; None for all.
        lenient: Write ``{"$object": NAME}`` for what cannot be kept, instead of an error.
    """

    def __init__(self, classes: Classes | None, *, lenient: bool = False) -> None:
        self.classes = classes
        self.lenient = lenient
        self.has_instances = False
        self._open: set[int] = set()

    def value(self, value: Any, depth: int) -> JSON:
        """Return the JSON of ``value``, which is ``depth`` levels inside; raise `Unkept`."""
        kind = type(value)
        if kind is str:
            return value if is_unicode(value) else encode_scalar(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if is_small(value) else encode_scalar(value)
        if kind is float:
            return value if math.isfinite(value) else encode_scalar(value)
        scalar = encode_scalar(value)
        if scalar is not None:
            return scalar
        try:
            return self._container(value, kind, depth)
        except RecursionError:
            raise
        except Exception as error:
            if self.lenient:
                return _placeholder(value)
            if isinstance(error, Unkept):
                raise
            reason = f"cannot be read: {type(error).__name__}: {error}"
            raise Unkept(reason, _ONLY_DATA) from None

    def _container(self, value: Any, kind: type, depth: int) -> JSON:
        if depth > MAX_DEPTH:
            raise Unkept(f"is nested deeper than {MAX_DEPTH} levels", "record a part of it")
        if id(value) in self._open:
            raise Unkept("contains itself", "return a value without a cycle")
        self._open.add(id(value))
        try:
            if kind is dict:
                return self._entries(value, depth)
            if kind is list:
                return self._items(value, depth)
            encode_type = _CONTAINERS.get(kind)
            if encode_type is not None:
                return encode_type(self, value, depth)
            return self._instance(value, kind, depth)
        finally:
            self._open.discard(id(value))

    def _items(self, values: Any, depth: int) -> list[JSON]:
        encoded: list[JSON] = []
        try:
            for item in values:
                encoded.append(self.value(item, depth + 1))  # noqa: PERF401 - errors name the index
        except Unkept as problem:
            problem.path.append(f"[{len(encoded)}]")
            raise
        return encoded

    def _entries(self, values: Mapping[Any, Any], depth: int) -> dict[str, JSON]:
        encoded: dict[str, JSON] = {}
        key: Any = None
        try:
            for key, value in values.items():
                encoded[self._key(key, depth)] = self.value(value, depth + 1)
        except Unkept as problem:
            problem.path.append(f"[{key!r:.60}]")
            raise
        if len(encoded) != len(values) and not self.lenient:
            raise Unkept("has keys that read alike", "make its keys distinct")
        return encoded

    def _key(self, key: Any, depth: int) -> str:
        if type(key) is str and is_unicode(key):
            return f"${key}" if key.startswith("$") else key
        return "$" + json.dumps(self.value(key, depth + 1), ensure_ascii=False, sort_keys=True)

    def _tagged_items(self, value: Any, depth: int) -> JSON:
        return {"$type": type(value).__name__, "$items": self._items(value, depth + 1)}

    def _sorted_items(self, value: Any, depth: int) -> JSON:
        items = [self.value(item, depth + 2) for item in value]
        # The order of a set changes from process to process.
        items.sort(key=lambda item: json.dumps(item, sort_keys=True))
        return {"$type": type(value).__name__, "$items": items}

    def _tagged_entries(self, value: Any, depth: int) -> JSON:
        return {"$type": type(value).__name__, **self._entries(value, depth + 1)}

    def _deque(self, value: deque[Any], depth: int) -> JSON:
        return {**self._tagged_items(value, depth), "$size": value.maxlen}

    def _defaultdict(self, value: defaultdict[Any, Any], depth: int) -> JSON:
        factory = value.default_factory
        if factory is not None and factory not in FACTORIES.values():
            raise Unkept("is a defaultdict with a function of its own", "return dict(...) of it")
        factory_name = None if factory is None else getattr(factory, "__name__", "")
        return {**self._tagged_entries(value, depth), "$factory": factory_name}

    def _instance(self, value: Any, kind: type, depth: int) -> JSON:
        """Encode an instance of a class of the program."""
        if hasattr(kind, "__mapper__") or "_sa_instance_state" in getattr(value, "__dict__", ()):
            raise Unkept(
                f"is a {kind.__qualname__}, an ORM object that belongs to its database session",
                "return a pydantic model or a dataclass with its fields",
            )
        if isinstance(value, (SecretStr, SecretBytes)):
            return {"$type": "SecretStr" if isinstance(value, SecretStr) else "SecretBytes"}
        fields = library_fields(value)
        if fields is not None:
            self.has_instances = True
            return {"$type": full_name(kind), **self._fields(fields, depth)}
        is_enum = isinstance(value, Enum)
        is_model = isinstance(value, BaseModel)
        is_dataclass = dataclasses.is_dataclass(kind) and not isinstance(value, BaseException)
        names = named_fields(kind)
        if not (is_enum or is_model or is_dataclass or names):
            return self._other(value, kind, depth)
        if self.classes is not None and self.classes.get(full_name(kind)) is not kind:
            if self.lenient:
                return self._other(value, kind, depth)
            reason = (
                f"is an instance of {kind.__qualname__}, which the return annotation does not name"
            )
            raise Unkept(reason, "", unnamed=kind)
        self.has_instances = True
        data: dict[str, JSON] = {"$type": full_name(kind)}
        if is_enum:
            data.update(
                {"$value": value.value} if isinstance(value, Flag) else {"$name": value.name}
            )
        elif is_model:
            data.update(self._fields(_model_fields(value), depth))
            self._model_state(value, data, depth)
        elif is_dataclass:
            data.update(self._fields(self._dataclass_fields(value, kind), depth))
        else:
            data.update(self._fields(dict(zip(names or (), value, strict=True)), depth))
        return data

    def _fields(self, fields: Mapping[str, Any], depth: int) -> dict[str, JSON]:
        encoded: dict[str, JSON] = {}
        name = ""
        try:
            for name, value in fields.items():
                encoded[self._key(name, depth)] = self.value(value, depth + 1)
        except Unkept as problem:
            problem.path.append(f".{name}")
            raise
        return encoded

    def _dataclass_fields(self, value: Any, kind: type) -> dict[str, Any]:
        fields = dataclasses.fields(kind)
        if self.classes is None:
            fields = tuple(field for field in fields if field.compare)
        kept = {
            field.name: getattr(value, field.name) for field in fields if hasattr(value, field.name)
        }
        if self.classes is not None:
            # What __post_init__ or a method has set.
            for name, attribute in getattr(value, "__dict__", {}).items():
                if name not in kept and not _is_cached_property(kind, name):
                    kept[name] = attribute
        return kept

    def _model_state(self, value: BaseModel, data: dict[str, JSON], depth: int) -> None:
        if self.classes is None:
            return
        unset = sorted(set(type(value).model_fields) - value.model_fields_set)
        if unset:
            data["$unset"] = unset
        private = getattr(value, "__pydantic_private__", None)
        if private:
            data["$private"] = self._fields(private, depth + 1)

    def _other(self, value: Any, kind: type, depth: int) -> JSON:
        """Encode what pydantic can write and read, such as a URL."""
        is_named = self.classes is None or full_name(kind) in self.classes
        adapter = adapter_of(kind) if is_named else None
        if adapter is not None:
            written = adapter.dump_python(value, mode="json")
            read = adapter.validate_python(written)
            if type(read) is kind and read == value:
                return {"$type": full_name(kind), "$value": self.value(written, depth + 1)}
        if self.lenient:
            # Of a subclass of a type of JSON, the value is what counts.
            plain = next((cls for cls in _PLAIN if isinstance(value, cls)), None)
            if plain is not None:
                return self.value(plain(value), depth)
        name = kind.__qualname__ if kind.__module__ == "builtins" else full_name(kind)
        raise Unkept(f"is of the type {name}, which cannot be kept", _ONLY_DATA)


def _model_fields(model: BaseModel) -> dict[str, Any]:
    """Return the fields of a pydantic model and its extra ones, but not what it has computed from them."""
    names = type(model).model_fields
    fields = {name: value for name, value in vars(model).items() if name in names}
    return {**fields, **(model.__pydantic_extra__ or {})}


_ONLY_DATA = (
    "return data instead: JSON, a pydantic model, a dataclass "
    '(docs/recorded.md, "What is kept of a value")'
)
_PLAIN: tuple[type[Any], ...] = (str, int, float, list, tuple, dict)
_CONTAINERS: dict[type, Any] = {
    tuple: Encoder._tagged_items,
    set: Encoder._sorted_items,
    frozenset: Encoder._sorted_items,
    deque: Encoder._deque,
    Counter: Encoder._tagged_entries,
    OrderedDict: Encoder._tagged_entries,
    defaultdict: Encoder._defaultdict,
}


def _check_round_trip(encoded: JSON, classes: Classes) -> None:
    """Check that the JSON becomes a value that has the same JSON."""
    try:
        again = Encoder(classes).value(Decoder(classes).value(encoded), 0)
    except Unreadable as error:
        raise Unkept(f"cannot be read back: {error}", _ONLY_DATA) from None
    if again != encoded:
        problem = Unkept("would not come back as it is", _ONLY_DATA)
        problem.path = _first_difference(encoded, again)[::-1]
        raise problem


def _first_difference(before: JSON, after: JSON) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            if key in after and before[key] != after[key]:
                step = [] if key.startswith("$") else [f".{key}"]
                return step + _first_difference(before[key], after[key])
    if isinstance(before, list) and isinstance(after, list):
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            if one != other:
                return [f"[{index}]", *_first_difference(one, other)]
    return []


def _error(
    problem: Unkept, annotation: Any, name: str, place: str, value: Any
) -> RecordedValueError:
    where = place + "".join(reversed(problem.path))
    if len(where) > 200:
        where = f"{where[:120]}…{where[-79:]}"
    fix = problem.fix
    if problem.unnamed is not None:
        fix = _annotation_fix(problem.unnamed, annotation, problem.path, value)
    message = f"{name or 'the function'}: {where} {problem.reason}; {fix}"
    return RecordedValueError(message, function=name, place=where)


def _annotation_fix(cls: type, annotation: Any, path: Sequence[str], value: Any) -> str:
    if isinstance(annotation, Unresolved):
        return (
            f"the annotation {annotation.text!r} cannot be evaluated ({annotation.reason}): "
            "define or import its names where the function is defined, not for type checkers alone"
        )
    name = wanted = cls.__qualname__
    kind = type(value)
    if len(path) == 1 and kind in (list, set, frozenset):
        wanted = f"{kind.__name__}[{name}]"
    elif len(path) == 1 and kind is tuple:
        wanted = f"tuple[{name}, ...]"
    elif len(path) == 1 and kind is dict:
        wanted = f"dict[{type(next(iter(value))).__name__}, {name}]"
    if annotation in (None, Any, object, kind) and (not path or wanted != name):
        return f"annotate the return type as -> {wanted}"
    if annotation is None:
        return f"annotate the return type with a type that names {name}"
    text = annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
    if not path:
        return f"annotate the return type as -> {text} | {name}"
    return f"name {name} in the return annotation, which is {text}"


def _placeholder(value: Any) -> JSON:
    kind = type(value)
    if issubclass(kind, type):
        return {"$object": f"class {value.__qualname__}"}
    if kind in (types.FunctionType, types.BuiltinFunctionType, types.MethodType):
        return {"$object": f"function {value.__qualname__}"}
    return {"$object": kind.__qualname__}


def _is_cached_property(cls: type, name: str) -> bool:
    return isinstance(getattr(cls, name, None), cached_property)
