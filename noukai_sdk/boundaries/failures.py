"""Errors of recorded functions as JSON, and back.

An error is made again without its constructor: an instance of its class with the recorded arguments and
attributes. The class is looked up among those that are loaded; nothing is imported for a recording.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import pydantic_core
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..errors import RecordedFunctionError
from .annotations import Classes, classes_of
from .rebuilding import Decoder, NotKept, Unreadable
from .values import JSON, Encoder

_TAG = "builtins.Exception"
_MAX_CAUSES = 3


def encode_error(error: Exception) -> JSON:
    """Return an error as JSON: its class, message, arguments and attributes, its notes and its cause.

    What cannot be kept of them is ``{"$object": NAME}`` with the name of its type.

    Example:
        >>> encode_error(KeyError("isbn"))["name"], encode_error(KeyError("isbn"))["args"]
        ('KeyError', ['isbn'])
    """
    try:
        data = _FailureEncoder().value(error, 0)
    except RecursionError:
        data = {}
    return data if "$type" in data else _described(error)


def decode_error(data: JSON, *, name: str = "") -> Exception:
    """Return the error that `encode_error` made this JSON from.

    Returns:
        A `RecordedFunctionError` that describes the recorded error, if its class is not loaded now.
    """
    error: Exception | None = None
    with suppress(Unreadable, RecursionError):
        error = _FailureDecoder().value(data)
    if not isinstance(error, Exception):
        error = _stand_in(data if isinstance(data, dict) else {}, "its recording is damaged")
    if isinstance(error, RecordedFunctionError) and name:
        error.message = f"{name}: {error.message}"
        error.args = (error.message,)
    return error


def error_text(data: Mapping[str, Any]) -> str:
    """Return an encoded error as one line: its class and its message.

    Example:
        >>> error_text(encode_error(ValueError("no such shelf")))
        'ValueError: no such shelf'
    """
    kind, message = str(data.get("name", "Exception")), str(data.get("message", ""))
    return f"{kind}: {message}" if message else kind


class _FailureEncoder(Encoder):
    def __init__(self) -> None:
        super().__init__({}, lenient=True)
        self._causes = 0

    def _instance(self, value: Any, kind: type, depth: int) -> JSON:
        if isinstance(value, Exception):
            return self.failure(value, depth)
        return super()._instance(value, kind, depth)

    def failure(self, error: Exception, depth: int) -> JSON:
        kind: Any = type(error)
        outer, self.classes = self.classes, _classes_around(kind)
        try:
            data = _described(error)
            if isinstance(error, pydantic_core.ValidationError):
                problems = error.errors(include_url=False)
                data["problems"] = [self._entries(problem, depth + 1) for problem in problems]
                data["title"] = error.title
            else:
                data["args"] = [self.value(arg, depth + 1) for arg in error.args]
                attributes = _attributes(error)
                if attributes:
                    data["attributes"] = self._entries(attributes, depth + 1)
            notes = getattr(error, "__notes__", None)
            if notes:
                data["notes"] = [str(note) for note in notes]
            cause = error.__cause__
            if isinstance(cause, Exception) and self._causes < _MAX_CAUSES:
                self._causes += 1
                encoded = self.value(cause, depth + 1)
                if "$type" in encoded:  # not the error itself
                    data["cause"] = encoded
            return data
        finally:
            self.classes = outer


class _FailureDecoder(Decoder):
    def __init__(self) -> None:
        super().__init__({})

    def _instance(self, data: Mapping[str, Any], name: str) -> Any:
        if name != _TAG:
            return super()._instance(data, name)
        cls: Any = _loaded_class(str(data["module"]), str(data["name"]))
        error: Exception | None = None
        reason = "this process has no class of that name; import its module before the replay"
        if cls is not None:
            outer, self.classes = self.classes, _classes_around(cls)
            try:
                error = self._made(cls, data)
            except Exception as problem:  # noqa: BLE001 - whatever the class does not accept
                reason = f"its class does not take what was recorded: {problem}"
            finally:
                self.classes = outer
        if error is None:
            error = _stand_in(data, reason)
        if data.get("notes"):
            vars(error)["__notes__"] = [str(note) for note in data["notes"]]
        if "cause" in data:
            error.__cause__ = self.value(data["cause"])
        return error

    def _made(self, cls: Any, data: Mapping[str, Any]) -> Exception:
        if cls is pydantic_core.ValidationError:
            return _validation_error(str(data["title"]), [self.value(p) for p in data["problems"]])
        args = [self.value(arg) for arg in data.get("args", [data["message"]])]
        attributes = self._entries(data.get("attributes", {}))
        error = _make(cls, args, attributes)
        try:
            has_message = _unicode(str(error)) == data["message"]
        except Exception:  # noqa: BLE001 - it needs what was not kept
            has_message = False
        if not has_message:
            with suppress(Exception):  # a class that allows no subclass
                with_message = _make(_with_message(cls), args, attributes)
                vars(with_message)["_recorded_message"] = str(data["message"])
                return with_message
        return error


def _make(cls: type[Exception], args: list[Any], attributes: Mapping[str, Any]) -> Exception:
    # The constructor of the nearest builtin class alone: no code of the program runs.
    base: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error: Exception = base.__new__(cls, *args)
    error.args = tuple(args)
    for name, value in attributes.items():
        member = inspect.getattr_static(cls, name, None)
        if inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member):
            with suppress(AttributeError, TypeError):  # read-only ones come from the arguments
                member.__set__(error, value)
        else:
            vars(error)[name] = value
    return error


def _attributes(error: Exception) -> dict[str, Any]:
    """Return the attributes of an error, those that are defined in C and slots too."""
    attributes = dict(vars(error))
    for cls in type(error).__mro__:
        if cls in (BaseException, object):
            continue
        for name, member in vars(cls).items():
            if inspect.ismemberdescriptor(member) or inspect.isgetsetdescriptor(member):
                with suppress(Exception):  # not set
                    value = getattr(error, name)
                    if value is not None:
                        attributes.setdefault(name, value)
    return {name: value for name, value in attributes.items() if not name.startswith("__")}


def _described(error: Exception) -> dict[str, JSON]:
    kind = type(error)
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__
        message = ""
    data = {"$type": _TAG, "module": kind.__module__, "name": kind.__qualname__}
    return {**data, "message": _unicode(message)}


def _unicode(text: str) -> str:
    """Return a text without lone surrogates: a message may quote bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()


def _loaded_class(module: str, name: str) -> type[Exception] | None:
    """Return the class of an error if it is loaded."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # No getattr: a module may import what it is asked for.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    # A class inside a function, or of a module that ran as __main__.
    same_name = [cls for cls in _subclasses(Exception) if cls.__qualname__ == name]
    candidates = [cls for cls in same_name if cls.__module__ == module]
    if not candidates and "__main__" in (module, *(cls.__module__ for cls in same_name)):
        candidates = same_name
    return candidates[-1] if candidates else None


def _subclasses(cls: type[Exception]) -> list[type[Exception]]:
    found: dict[type[Exception], None] = {}
    waiting = [cls]
    while waiting:
        new = [sub for sub in type.__subclasses__(waiting.pop()) if sub not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return [cls for cls in found if not hasattr(cls, "_stands_for_recorded")]


@lru_cache(maxsize=256)
def _classes_around(cls: Any) -> Classes:
    """Return the classes that an error's constructor and fields name, for its attributes."""
    found: dict[str, type] = {}
    for holder in (cls, cls.__init__):
        with suppress(Exception):  # names for type checkers alone, or a builtin
            for hint in typing.get_type_hints(holder).values():
                found.update(classes_of(hint))
    return found


@lru_cache(maxsize=256)
def _with_message(cls: type[Exception]) -> type[Exception]:
    """Return a subclass whose message is the recorded one, for errors that cannot make it again."""
    members = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__str__": lambda self: self._recorded_message,
        "_stands_for_recorded": True,
    }
    return type(cls.__name__, (cls,), members)


def _validation_error(title: str, problems: list[dict[str, Any]]) -> Exception:
    details: list[InitErrorDetails] = []
    for problem in problems:
        detail = InitErrorDetails(
            type=problem["type"], loc=tuple(problem["loc"]), input=problem["input"]
        )
        if "ctx" in problem:
            detail["ctx"] = problem["ctx"]
        try:
            pydantic_core.ValidationError.from_exception_data(title, [detail])
        except Exception:  # noqa: BLE001 - a type of error that the program has defined
            detail["type"] = PydanticCustomError(problem["type"], problem["msg"])
            detail.pop("ctx", None)
        details.append(detail)
    return pydantic_core.ValidationError.from_exception_data(title, details)


def _stand_in(data: Mapping[str, Any], reason: str) -> RecordedFunctionError:
    kind = f"{data.get('module', 'builtins')}.{data.get('name', 'Exception')}"
    message = str(data.get("message", ""))
    return RecordedFunctionError(
        f"the recorded call raised {kind}: {message} ({reason})",
        error_type=kind,
        error_message=message,
    )


__all__ = ["NotKept", "decode_error", "encode_error", "error_text"]
