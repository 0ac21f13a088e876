"""Python functions as tools: their schema, and calling them as a model requests."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs, to_json

from ..runtime.error_text import error_text
from ..runtime.worker_threads import call_function
from .kinds import Tool

logger = logging.getLogger("noukai_sdk.local")

ToolCall = dict[str, Any]


def schema_of(function: Tool) -> dict[str, Any]:
    """Return the function as a tool in OpenAI's format, from its name, docstring and annotations.

    Raises:
        ValueError: It has positional-only arguments, or arguments of a type that JSON does not have.

    Example:
        >>> def get_weather(city: str) -> str:
        ...     "Return the weather in a city."
        >>> schema_of(get_weather)["function"]["description"]
        'Return the weather in a city.'
    """
    name = name_of(function)
    try:
        parameters = _adapter(function).json_schema()
    # Reading annotations runs the code in them.
    except Exception as error:
        raise ValueError(f"{name!r} cannot be a tool: {error}") from error
    if parameters.get("type") != "object":
        raise ValueError(f"{name!r} cannot be a tool: its arguments need names")
    description = inspect.getdoc(function) or ""
    tool = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": tool}


def name_of(function: Tool) -> str:
    """Return the name by which a model calls the function."""
    return str(getattr(function, "__name__", type(function).__name__))


async def run_tool_calls(
    functions: Sequence[Tool], calls: Sequence[ToolCall]
) -> list[dict[str, Any]]:
    """Run the calls that a model requested, all at once, and return the tool turns in their order.

    Async functions run on the event loop, all others in worker threads. The turn of a call that fails, or
    that cannot be made, holds the error, so that the model can correct the call or report it.
    """
    by_name = {name_of(function): function for function in functions}
    contents = [""] * len(calls)

    async def run(index: int) -> None:
        try:
            contents[index] = as_content(await _run(by_name, calls[index]["function"]))
        # The result may be of any class, whose methods may raise anything.
        except Exception as error:  # noqa: BLE001 - the model reads the error
            text = f"the result cannot be printed: {error_text(error)}"
            contents[index] = as_content({"error": text})

    if len(calls) == 1:
        await run(0)
    else:
        async with anyio.create_task_group() as group:
            for index in range(len(calls)):
                group.start_soon(run, index)
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": content}
        for call, content in zip(calls, contents, strict=True)
    ]


def as_content(value: Any) -> str:
    """Convert the result of a tool to the text that the model reads."""
    return value if isinstance(value, str) else to_json(value, fallback=str).decode()


async def _run(by_name: dict[str, Tool], request: dict[str, Any]) -> Any:
    function = by_name.get(request["name"])
    if function is None:
        return {"error": f"there is no tool {request['name']!r}; there are {', '.join(by_name)}"}
    try:
        arguments = ArgsKwargs((), json.loads(request["arguments"] or "{}"))
        call = partial(_adapter(function).validate_python, arguments)
        name = (getattr(function, "__module__", None), name_of(function))
        is_async = inspect.iscoroutinefunction(function)
        return await call_function(call, is_async=is_async, name=name)
    except ValidationError as error:
        return {"error": f"wrong arguments: {error}"}
    # The model reads the error, and may try another way.
    except Exception as error:
        logger.warning("tool %s failed", request["name"], exc_info=error)
        return {"error": error_text(error)}


@lru_cache(maxsize=256)
def _adapter(function: Tool) -> TypeAdapter[Any]:
    return TypeAdapter(function)  # type: ignore[arg-type]  # pydantic takes functions too
