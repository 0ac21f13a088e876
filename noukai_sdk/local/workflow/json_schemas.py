"""JSON schemas as the types of agents' outputs, for flow files, which have no Python types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .output_types import MismatchError, unfenced

_MOST_PROBLEMS = 10


class SchemaError(ValueError):
    """A mapping is not a JSON schema; ``path`` is the place of the fault in it."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class JsonSchema:
    """The type of the values that fit a JSON schema. It has the interface of ``OutputType``.

    Attributes:
        given: The schema.

    Example:
        >>> JsonSchema({"type": "array", "items": {"type": "integer"}}).parse('{"result": [1, 2]}')
        [1, 2]
    """

    given: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The title of the schema."""
        return str(self.given.get("title", "its schema"))

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The schema of an object: providers take no others."""
        if self._is_object:
            return dict(self.given)
        return {"type": "object", "properties": {"result": self.given}, "required": ["result"]}

    def check(self) -> None:
        """Check that it is a JSON schema.

        Raises:
            SchemaError: It is not.
        """
        import jsonschema

        try:
            self._kind.check_schema(dict(self.given))
        except jsonschema.SchemaError as error:
            raise SchemaError(error.message, tuple(error.absolute_path)) from error

    def parse(self, text: str) -> Any:
        """Read the response of a model.

        Raises:
            MismatchError: It does not fit.
        """
        try:
            value = json.loads(unfenced(text))
        except ValueError as error:
            raise MismatchError(f"Invalid JSON: {error}") from error
        if not self._is_object:
            if not isinstance(value, dict) or "result" not in value:
                raise MismatchError("result: this field is required")
            value = value["result"]
        return self.load(value)

    def load(self, value: Any) -> Any:
        """Return ``value``.

        Raises:
            MismatchError: It does not fit.
        """
        problems = []
        for error in self._validator.iter_errors(value):
            place = ".".join(map(str, error.absolute_path))
            problems.append(f"{place}: {error.message}" if place else error.message)
        if problems:
            raise MismatchError("\n".join(problems[:_MOST_PROBLEMS]))
        return value

    @property
    def _is_object(self) -> bool:
        return self.given.get("type") == "object"

    @cached_property
    def _validator(self) -> Any:
        from referencing import Registry

        # With the default, the library would fetch schemas from other servers.
        return self._kind(self.given, registry=Registry())

    @property
    def _kind(self) -> Any:
        import jsonschema

        default = jsonschema.Draft202012Validator
        return jsonschema.validators.validator_for(self.given, default=default)
