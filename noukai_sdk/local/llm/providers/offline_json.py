"""Make a value that fits a JSON schema, for the offline model. The same schema and text, the same value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FORMATS = {
    "date": "2024-01-01",
    "date-time": "2024-01-01T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_DEEPEST = 20

Schema = Mapping[str, Any]


def sample(schema: Schema, text: str) -> Any:
    """Return a value that fits the schema, as far as it can be told without searching.

    Args:
        schema: A JSON schema.
        text: The value of texts, shortened if they must be short.

    Example:
        >>> sample({"type": "array", "items": {"type": "integer", "minimum": 3}, "minItems": 2}, "")
        [3, 3]
    """
    return _sample(schema, text, schema.get("$defs", {}), 0)


def _sample(schema: Schema, text: str, definitions: Schema, depth: int) -> Any:
    if "$ref" in schema:
        schema = {**definitions.get(schema["$ref"].rpartition("/")[2], {}), **schema}
    for part in schema.get("allOf", ()):
        schema = {**part, **schema}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        # A type that contains itself ends with its simplest choice, which is often null.
        simple = [choice for choice in choices if choice.get("type") == "null"]
        choice = simple[0] if simple and depth > 2 else choices[0]
        return _sample(choice, text, definitions, depth + 1)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or (kind is None and "properties" in schema):
        required = schema.get("required", ()) if depth < _DEEPEST else ()
        properties = schema.get("properties", {})
        inner = {name: properties.get(name, {}) for name in required}
        return {name: _sample(part, text, definitions, depth + 1) for name, part in inner.items()}
    if kind == "array":
        return _array(schema, text, definitions, depth)
    if kind in ("integer", "number"):
        return _number(schema, kind)
    if kind == "boolean":
        return True
    return None if kind == "null" else _text(schema, text)


def _array(schema: Schema, text: str, definitions: Schema, depth: int) -> list[Any]:
    first = schema.get("prefixItems", ())
    items = [_sample(part, text, definitions, depth + 1) for part in first]
    inner = schema.get("items")
    count = max(schema.get("minItems", 0), 1 if "items" in schema and depth < 3 else 0)
    count = min(count, schema.get("maxItems", count))
    added = (_sample(inner or {}, text, definitions, depth + 1) for _ in range(count - len(items)))
    return [*items, *added]


def _number(schema: Schema, kind: str) -> int | float:
    step = schema.get("multipleOf", 1 if kind == "integer" else 0.5)
    least, most = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"] + step
    if "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"] - step
    value = 1 if least is None or least <= 1 else least
    value = value if most is None else min(value, most)
    return int(value) if kind == "integer" else float(value)


def _text(schema: Schema, text: str) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = text[: schema.get("maxLength", len(text))]
    return text.ljust(schema.get("minLength", 0), ".")
