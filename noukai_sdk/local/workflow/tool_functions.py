"""Python functions as tools: their schema, and calling one with what a model asks."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, to_json

from ..runtime.worker_threads import called
from .node import Tool

logger = logging.getLogger("noukai_sdk.local")

ToolCall = dict[str, Any]


def schema_of(function: Tool) -> dict[str, Any]:
    """The function as a tool in OpenAI's form, from its name, docstring and annotations.

    Raises:
        ValueError: It takes arguments that have no name, or of a type that is none of JSON's.

    Example:
        >>> def get_weather(city: str) -> str:
        ...     "The weather in a city."
        >>> schema_of(get_weather)["function"]["description"]
        'The weather in a city.'
    """
    try:
        parameters = _adapter(function).json_schema()
    # Reading annotations runs the code in them.
    except Exception as error:
        raise ValueError(f"{name_of(function)!r} cannot be a tool: {error}") from error
    if parameters.get("type") != "object":
        raise ValueError(f"{name_of(function)!r} cannot be a tool: its arguments need names")
    described = {"description": inspect.getdoc(function) or "", "parameters": parameters}
    return {"type": "function", "function": {"name": name_of(function), **described}}


def name_of(function: Tool) -> str:
    """What the model calls the function."""
    return str(getattr(function, "__name__", type(function).__name__))


async def answer(functions: Sequence[Tool], calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Call what the model asks for, one after the other; gives the tool turns.

    A call that fails, or that cannot be made, is answered with its error, so that the model can do
    better or say so.
    """
    known = {name_of(function): function for function in functions}
    return [_turn(call, await _result(known, call["function"])) for call in calls]


def as_content(value: Any) -> str:
    """A tool's result as a model reads it."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()


def _turn(call: ToolCall, result: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call["id"], "content": as_content(result)}


async def _result(known: dict[str, Tool], asked: dict[str, Any]) -> Any:
    function = known.get(asked["name"])
    if function is None:
        return {"error": f"there is no tool {asked['name']!r}; there are {', '.join(known)}"}
    try:
        arguments = json.loads(asked["arguments"] or "{}")
        return await _called(function, arguments)
    except ValidationError as error:
        return {"error": f"wrong arguments: {error}"}
    # The model is told, and may ask in another way.
    except Exception as error:
        logger.warning("tool %s failed", asked["name"], exc_info=error)
        return {"error": f"{type(error).__name__}: {error}"}


async def _called(function: Tool, arguments: dict[str, Any]) -> Any:
    given = ArgsKwargs((), arguments)
    call = partial(_adapter(function).validate_python, given)
    return await called(call, is_async=inspect.iscoroutinefunction(function))


@lru_cache(maxsize=256)
def _adapter(function: Tool) -> TypeAdapter[Any]:
    return TypeAdapter(function)  # type: ignore[arg-type]  # pydantic takes functions too
