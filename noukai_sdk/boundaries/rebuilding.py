"""From the JSON of a value back to the value: what values.py writes, read."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ..masking.values import REDACTED
from .annotations import Classes, fields_of, named_fields
from .library_values import LIBRARY_TYPES, make_library_value
from .scalars import decode_scalar

FACTORIES: dict[str, Callable[[], Any]] = {
    factory.__name__: factory for factory in (bool, dict, float, int, list, set, str, tuple)
}


class Unreadable(Exception):
    """Why JSON does not become a value again."""


class NotKept:
    """Stands for a part of a recorded error that was not kept, such as a connection."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}: not kept in the recording>"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self!r} has no attribute {name!r}")


class Decoder:
    """Reads the JSON of values, with the classes that may be made."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes

    def value(self, data: Any) -> Any:
        """Return the value of ``data``; raise `Unreadable` if there is none."""
        if isinstance(data, list):
            return [self.value(item) for item in data]
        if not isinstance(data, dict):
            return data
        tag = data.get("$type")
        if not isinstance(tag, str):
            if "$object" in data:
                return NotKept(str(data["$object"]))
            return self._entries(data)
        read = _TYPES.get(tag)
        try:
            if read is not None:
                return read(self, data)
            if tag in LIBRARY_TYPES:
                return make_library_value(tag, self._entries(data))
            if "." in tag:
                return self._instance(data, tag)
            return decode_scalar(data)
        except Unreadable:
            raise
        except Exception as error:
            # A secret was masked: its mask stands for it.
            text = str(data.get("$value", data.get("$base64")))
            if REDACTED in text:
                return text.encode() if tag == "bytes" else text
            raise Unreadable(f"{_shown(data)} is not a valid {tag}") from error

    def _entries(self, data: Mapping[str, Any]) -> dict[Any, Any]:
        return {
            self._key(key): self.value(item) for key, item in data.items() if not _is_reserved(key)
        }

    def _key(self, key: str) -> Any:
        if not key.startswith("$"):
            return key
        if key.startswith("$$"):
            return key[1:]
        try:
            decoded = self.value(json.loads(key[1:]))
            hash(decoded)
        except (ValueError, TypeError) as error:
            if REDACTED in key:
                return REDACTED
            raise Unreadable(f"{key!r:.80} is not a valid key") from error
        return decoded

    def _items(self, data: Mapping[str, Any]) -> list[Any]:
        return [self.value(item) for item in data["$items"]]

    def _instance(self, data: Mapping[str, Any], name: str) -> Any:
        cls: Any = self._class(name)
        fields = self._entries(data)
        masked = [
            field for field, value in fields.items() if isinstance(value, str) and value == REDACTED
        ]
        for field in masked:
            fields[field] = _mask_for(fields_of(cls).get(field))
        if issubclass(cls, Flag):
            return cls(data["$value"])
        if issubclass(cls, Enum):
            try:
                return cls[data["$name"]]
            except KeyError:
                raise Unreadable(
                    f"{cls.__qualname__} has no member {data['$name']!r} now"
                ) from None
        if issubclass(cls, BaseModel):
            return self._model(cls, fields, data)
        names = named_fields(cls)
        if names is not None:
            values = {**getattr(cls, "_field_defaults", {}), **fields}
            _require(cls, [name for name in names if name not in values])
            return tuple.__new__(cls, [values[name] for name in names])
        if dataclasses.is_dataclass(cls):
            return _make_dataclass(cls, fields)
        adapter = adapter_of(cls)
        if adapter is None:
            raise Unreadable(f"{cls.__qualname__} is no longer a class that can be read")
        return adapter.validate_python(self.value(data["$value"]))

    def _class(self, name: str) -> type:
        cls = self.classes.get(name)
        if cls is not None:
            return cls
        # It has moved to another module, or its module ran as __main__.
        last = name.rpartition(".")[2]
        moved = [cls for cls in self.classes.values() if cls.__name__ == last]
        if len(moved) != 1:
            raise Unreadable(
                f"it holds a {name}, which the return annotation does not name; "
                "if the class was renamed or removed since, record the session again"
            )
        return moved[0]

    def _model(self, cls: type[BaseModel], fields: dict[str, Any], data: Mapping[str, Any]) -> Any:
        known = {name: value for name, value in fields.items() if name in cls.model_fields}
        extra = {name: value for name, value in fields.items() if name not in cls.model_fields}
        unset = set(data.get("$unset", ()))
        missing = [name for name in cls.model_fields if name not in known]
        _require(cls, [name for name in missing if cls.model_fields[name].is_required()])
        for name in missing:
            known[name] = _default(cls.model_fields[name], known)
        model = cls.__new__(cls)
        allows_extra = cls.model_config.get("extra") == "allow"
        private = {
            name: value.get_default()
            for name, value in cls.__private_attributes__.items()
            if value.get_default() is not PydanticUndefined
        }
        private.update(self._entries(data.get("$private", {})))
        ordered = {name: known[name] for name in cls.model_fields}
        object.__setattr__(model, "__dict__", ordered)
        object.__setattr__(model, "__pydantic_fields_set__", set(known) - unset - set(missing))
        object.__setattr__(model, "__pydantic_extra__", extra if allows_extra else None)
        has_private = bool(cls.__private_attributes__)
        object.__setattr__(model, "__pydantic_private__", private if has_private else None)
        return model

    def _deque(self, data: Mapping[str, Any]) -> deque[Any]:
        return deque(self._items(data), data["$size"])

    def _defaultdict(self, data: Mapping[str, Any]) -> defaultdict[Any, Any]:
        factory = data["$factory"]
        return defaultdict(None if factory is None else FACTORIES[factory], self._entries(data))


@lru_cache(maxsize=256)
def adapter_of(cls: type) -> TypeAdapter[Any] | None:
    """Return pydantic's adapter for a class; None if pydantic does not know it."""
    try:
        return TypeAdapter(cls)
    except Exception:  # noqa: BLE001 - schema errors, or what the class raises
        return None


_TYPES: dict[str, Callable[[Decoder, Mapping[str, Any]], Any]] = {
    "tuple": lambda decoder, data: tuple(decoder._items(data)),
    "set": lambda decoder, data: set(decoder._items(data)),
    "frozenset": lambda decoder, data: frozenset(decoder._items(data)),
    "deque": Decoder._deque,
    "Counter": lambda decoder, data: Counter(decoder._entries(data)),
    "OrderedDict": lambda decoder, data: OrderedDict(decoder._entries(data)),
    "defaultdict": Decoder._defaultdict,
    "SecretStr": lambda decoder, data: SecretStr(REDACTED),
    "SecretBytes": lambda decoder, data: SecretBytes(REDACTED.encode()),
}


def _mask_for(annotation: Any) -> Any:
    """Return the mask of a secret as a value that the code around it can use."""
    kinds = (annotation, *get_args(annotation))
    if SecretStr in kinds:
        return SecretStr(REDACTED)
    if SecretBytes in kinds:
        return SecretBytes(REDACTED.encode())
    return REDACTED.encode() if bytes in kinds else REDACTED


def _default(field: FieldInfo, known: dict[str, Any]) -> Any:
    if getattr(field, "default_factory_takes_validated_data", False):  # since pydantic 2.10
        return field.get_default(call_default_factory=True, validated_data=known)
    return field.get_default(call_default_factory=True)


def _make_dataclass(cls: Any, fields: dict[str, Any]) -> Any:
    instance: Any = object.__new__(cls)
    known = dataclasses.fields(cls)
    missing = [field for field in known if field.name not in fields]
    without = [
        field.name
        for field in missing
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    _require(cls, without)
    for field in missing:
        if field.default is not dataclasses.MISSING:
            fields[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            fields[field.name] = field.default_factory()
    names = {field.name for field in known}
    for name, value in fields.items():
        # Other attributes need a __dict__: of a class that has slots now, they are no longer part.
        if name in names or hasattr(instance, "__dict__"):
            object.__setattr__(instance, name, value)  # a frozen one, too
    return instance


def _require(cls: type, missing: list[str]) -> None:
    if missing:
        raise Unreadable(
            f"{cls.__qualname__} now needs {', '.join(missing)}, which the recording does not have: "
            "give the field a default, or record the session again"
        )


def _is_reserved(key: str) -> bool:
    """Return whether a key is ours: ``$type``, not an escaped name or the JSON of a key."""
    return key in _RESERVED


_RESERVED = frozenset(
    ("$type", "$items", "$value", "$name", "$unset", "$private", "$size", "$factory", "$object")
)


def _shown(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
