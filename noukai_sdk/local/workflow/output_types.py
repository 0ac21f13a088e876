"""The types of agents' outputs: what the model is asked for, and what its response becomes."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError, create_model

if TYPE_CHECKING:
    from .json_schemas import JsonSchema

_MOST_PROBLEMS = 10
_SHOWN_CHARS = 80
# Models like to put JSON into a code block, even when told not to.
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


class MismatchError(ValueError):
    """A response is not JSON of the expected type; the message says what does not fit, line by line."""


class OutputType:
    """A pydantic model, a dataclass, a TypedDict or any other type that pydantic can read from JSON.

    Providers take schemas of objects only. For any other type the model is asked for ``{"result": ...}``.

    Args:
        kind: The type.

    Raises:
        TypeError: pydantic cannot make a JSON schema of it.

    Example:
        >>> OutputType(list[int]).parse('{"result": [1, 2]}')
        [1, 2]
    """

    def __init__(self, kind: Any) -> None:
        self.name = str(getattr(kind, "__name__", kind))
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
            self.schema = self._adapter.json_schema()
            self._is_object = _is_object(self.schema)
            if not self._is_object:
                wrapper = create_model("Output", result=(kind, ...))
                self._wrapper: TypeAdapter[Any] = TypeAdapter(wrapper)
                self.schema = self._wrapper.json_schema()
        # Reading annotations runs the code in them.
        except Exception as error:
            first = str(error).partition("\n")[0]
            raise TypeError(f"{self.name} is not a type that JSON can hold: {first}") from error

    def parse(self, text: str) -> Any:
        """Read the response of a model.

        Raises:
            MismatchError: It does not fit.
        """
        text = unfenced(text)
        try:
            if self._is_object:
                return self._adapter.validate_json(text)
            return self._wrapper.validate_json(text).result
        except ValidationError as error:
            raise MismatchError(_problems(error)) from error

    def load(self, value: Any) -> Any:
        """Return the output that ``value`` is the JSON value of.

        Raises:
            MismatchError: It does not fit, for example because the type has changed.
        """
        try:
            return self._adapter.validate_json(json.dumps(value))
        except ValidationError as error:
            raise MismatchError(_problems(error)) from error


_cached = lru_cache(maxsize=256)(OutputType)


def output_type(kind: Any) -> OutputType | JsonSchema:
    """Return the output type for a Python type or a JSON schema.

    Raises:
        TypeError: JSON has no such values.
    """
    # Values of a schema have the interface already.
    return kind if hasattr(kind, "given") else _cached(kind)


def unfenced(text: str) -> str:
    """Return a response without the code block around it."""
    fenced = _FENCED.fullmatch(text)
    return fenced[1] if fenced else text


def _is_object(schema: dict[str, Any]) -> bool:
    """Return whether all values of a schema are objects."""
    name = schema.get("$ref", "").rpartition("/")[2]
    target = schema.get("$defs", {}).get(name, schema)
    return bool(target.get("type") == "object")


def _problems(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False)[:_MOST_PROBLEMS]:
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"]
        # A missing field has the whole object as its input.
        if problem["type"] not in ("missing", "json_invalid"):
            value = repr(problem["input"])
            message += f", not {value[:_SHOWN_CHARS]}{'...' if value[_SHOWN_CHARS:] else ''}"
        lines.append(f"{place}: {message}" if place else message)
    if error.error_count() > _MOST_PROBLEMS:
        lines.append(f"and {error.error_count() - _MOST_PROBLEMS} more")
    return "\n".join(lines)
