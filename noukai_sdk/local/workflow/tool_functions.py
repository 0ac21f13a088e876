"""Call Python functions as a model requests."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import anyio
from pydantic import ValidationError

from ...function_tools import as_content, bind, failure, name_of, schema_of, unknown
from ..runtime.error_text import error_text
from ..runtime.worker_threads import call_function
from .kinds import Tool

__all__ = ["as_content", "name_of", "run_tool_calls", "schema_of"]

logger = logging.getLogger("noukai_sdk.local")

ToolCall = dict[str, Any]


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


async def _run(by_name: dict[str, Tool], request: dict[str, Any]) -> Any:
    function = by_name.get(request["name"])
    if function is None:
        return unknown(request["name"], list(by_name))
    try:
        call = bind(function, request["arguments"])
        name = (getattr(function, "__module__", None), name_of(function))
        is_async = inspect.iscoroutinefunction(function)
        return await call_function(call, is_async=is_async, name=name)
    # The model reads the error, and may try another way.
    except Exception as error:
        if not isinstance(error, ValidationError):
            logger.warning("tool %s failed", request["name"], exc_info=error)
        return failure(error, error_text)
