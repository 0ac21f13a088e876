"""Call the functions among the tools of a call, and give the other tool calls to its ``tool_handler``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .arguments import is_async_callable
from .errors import ReplayError
from .function_tools import Tool, as_content, bind, failure, is_about_arguments, unknown
from .session.scope import has_provider

logger = logging.getLogger("noukai_sdk")


class ToolRunner:
    """The tools of a call of which at least one is a function.

    Args:
        method: The name of the method that was called, for errors.
        tools: The tools: functions, and dicts in OpenAI's form.
        others: The ``tool_handler``, which takes the calls of tools that are dicts.
        is_async: The call is one of the async client.

    Attributes:
        definitions: The tools as the service gets them.
        handler: Takes all tool calls of a pause.
        makes_tool_spans: Each function has an OpenTelemetry span of its own.

    Raises:
        TypeError: An async function on the sync client, or a dict without ``others``.
        ValueError: A function cannot be a tool, or two tools have the same name.
    """

    makes_tool_spans = True

    def __init__(
        self,
        method: str,
        tools: Sequence[Any],
        others: Callable[[list[Any]], Any] | None,
        *,
        is_async: bool,
    ) -> None:
        self._functions = {each.__name__: each for each in tools if isinstance(each, Tool)}
        self._others = others
        self.definitions = [each.definition if isinstance(each, Tool) else each for each in tools]
        self.handler: Callable[[list[Any]], Any] = self._run_async if is_async else self._run
        names = [_name(each) for each in self.definitions]
        self._names = names
        for name, function in self._functions.items():
            if names.count(name) > 1:
                raise ValueError(f"{method}() got two tools with the name {name!r}")
            if not is_async and is_async_callable(function.function):
                raise TypeError(
                    f"{method}() of the sync client takes plain functions as tools, and {name} is "
                    "async: use AsyncNoukai"
                )
        plain = [_name(each) for each in tools if isinstance(each, Mapping)]
        if plain and others is None:
            raise TypeError(
                f"{method}() got functions and dicts as tools: pass tool_handler= for the dicts "
                f"({', '.join(map(str, plain))})"
            )

    def _run(self, calls: list[Any]) -> list[dict[str, Any]]:
        """Call the functions one after the other, then the handler."""
        results = [_result(call, self._call(call)) for call in self._own(calls)]
        rest = self._rest(calls)
        if not rest:
            return results
        assert self._others is not None  # __init__ has checked
        with _span(rest):
            return [*results, *_list_of(self._others(rest))]

    async def _run_async(self, calls: list[Any]) -> list[dict[str, Any]]:
        """Call the functions and the handler, all at once."""
        import anyio

        own, rest = self._own(calls), self._rest(calls)
        results: list[Any] = [None] * len(own)
        more: list[Any] = []
        errors: list[BaseException] = []

        async def run(index: int) -> None:
            try:
                results[index] = _result(own[index], await self._call_async(own[index]))
            except ReplayError as error:
                errors.append(error)

        async def run_others() -> None:
            assert self._others is not None  # __init__ has checked
            try:
                with _span(rest):
                    returned = self._others(rest)
                    is_awaitable = inspect.isawaitable(returned)
                    more.extend(_list_of(await returned if is_awaitable else returned))
            except Exception as error:  # noqa: BLE001 - a task group would put it into a group
                errors.append(error)

        async with anyio.create_task_group() as group:
            for index in range(len(own)):
                group.start_soon(run, index)
            if rest:
                group.start_soon(run_others)
        if errors:
            raise errors[0]
        return [*results, *more]

    def _own(self, calls: list[Any]) -> list[Any]:
        """Return the calls of functions, and of tools that do not exist."""
        return [call for call in calls if self._is_own(call)]

    def _rest(self, calls: list[Any]) -> list[Any]:
        return [call for call in calls if not self._is_own(call)]

    def _is_own(self, call: Any) -> bool:
        name = call["function"]["name"]
        return name in self._functions or name not in self._names

    def _call(self, call: Any) -> Any:
        name = call["function"]["name"]
        if name not in self._functions:
            return unknown(name, [str(each) for each in self._names])
        with _span([call]) as span:
            try:
                return bind(self._functions[name], call["function"]["arguments"])()
            except ReplayError:
                raise  # says that the replay is wrong, not the call
            except Exception as error:  # noqa: BLE001 - the model reads it
                return _failed(name, error, span)

    async def _call_async(self, call: Any) -> Any:
        name = call["function"]["name"]
        if name not in self._functions:
            return self._call(call)
        with _span([call]) as span:
            try:
                bound = bind(self._functions[name], call["function"]["arguments"])
                if is_async_callable(self._functions[name].function):
                    return await bound()
                from anyio.to_thread import run_sync

                # In a list: trio refuses a thread's awaitable as a result.
                (result,) = await run_sync(lambda: [bound()], abandon_on_cancel=True)
                return await result if inspect.isawaitable(result) else result
            except ReplayError:
                raise
            except Exception as error:  # noqa: BLE001 - the model reads it
                return _failed(name, error, span)


def _name(definition: Any) -> Any:
    function = definition.get("function")
    return function.get("name") if isinstance(function, Mapping) else None


def _list_of(results: Any) -> Any:
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise TypeError(f"tool results must be a list of dicts, not {type(results).__name__}")
    return results


def _result(call: Any, value: Any) -> dict[str, Any]:
    try:
        content = as_content(value)
    except Exception as error:  # noqa: BLE001 - the result may be of any class
        content = as_content({"error": f"the result has no JSON form: {error}"})
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


def _span(calls: list[Any]) -> AbstractContextManager[Any]:
    """Return the OpenTelemetry span of tool calls, or None in its place."""
    if not has_provider():
        return nullcontext()
    from .session.call_spans import tool_span

    return tool_span(calls)


def _failed(name: str, error: Exception, span: Any = None) -> dict[str, str]:
    if span is not None:
        from .telemetry import record_error

        record_error(span, error)
    if not is_about_arguments(error):
        logger.warning("tool %s failed: the model reads the error", name, exc_info=error)
    return failure(error, lambda each: f"{type(each).__name__}: {each}")
