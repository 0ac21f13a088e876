"""Values that functions of steps return, raise and print: none of them may spoil a run or its session."""

from __future__ import annotations

import logging
import math
from collections import UserDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer

from noukai_sdk.local.workflow.tool_functions import run_tool_calls

from .backends import Backend, code_of, parse


def circular() -> list[Any]:
    values: list[Any] = []
    values.append({"values": values})
    return values


def nested(levels: int) -> Any:
    value: Any = "end"
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


class BadText(str):
    """A text that cannot be printed."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BadObject:
    """An object that cannot be printed, compared or hashed."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]  # as in the class that it stands for

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class BadError(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BadMapping(dict[Any, Any]):
    """A dict whose items cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("no items")

    def __iter__(self) -> Any:
        raise RuntimeError("no keys")


class BadModel(BaseModel):
    """A model that cannot be serialized."""

    x: int = 1

    @model_serializer
    def fail(self) -> Any:
        raise RuntimeError("no fields")


class BadEnd(BaseException):
    """Not an Exception."""

    def __str__(self) -> str:
        raise SystemExit


class Color(Enum):
    """An enumeration."""

    RED = object()
    BLUE = "\ud800"


@dataclass
class Point:
    """A dataclass."""

    x: Any


def generator() -> Iterator[Any]:
    yield 1
    raise RuntimeError("no more")


async def coroutine() -> Any:
    return object()


def raise_(error: BaseException) -> Any:
    raise error


def group() -> Any:
    error: BaseException = ValueError("\ud800\0")
    error.__cause__ = BadError()
    error.__context__ = error
    return raise_(error)


VALUES: dict[str, Callable[[], Any]] = {
    "object": object,
    "circular": circular,
    "deep": lambda: nested(5000),
    "deepish": lambda: nested(250),
    "nan": lambda: [math.nan, math.inf, -math.inf, -0.0, 1e308],
    "huge_int": lambda: 10**5000,
    "ints": lambda: [2**53, 2**63, -(2**64), 10**400],
    "bytes": lambda: b"\xff\x00",
    "text_bytes": lambda: [b"text", bytearray(b"x"), memoryview(b"y")],
    "surrogate": lambda: "half \ud83d",
    "surrogates": lambda: {"\ud83d": ["\udc00", {"a": "\ud800"}]},
    "null": lambda: {"a\0b": "\0"},
    "bad_text": lambda: BadText("x"),
    "bad_texts": lambda: {BadText("k"): [BadText("v")]},
    "bad_object": BadObject,
    "bad_objects": lambda: [BadObject(), {"a": BadObject()}],
    "keys": lambda: {1: "a", None: "b", (1, 2): "c", 1.5: "d", b"f": "g"},
    "bad_keys": lambda: {object(): 1, frozenset([1]): 2, Point(1).__class__: 3},
    "same_keys": lambda: {1: "a", "1": "b"},
    "sets": lambda: [{1, "a"}, frozenset(), {(1, 2)}],
    "generator": generator,
    "iterator": lambda: iter([1, object()]),
    "coroutine": coroutine,
    "deque": lambda: deque([1, UserDict(a=1)]),
    "times": lambda: [datetime.now(timezone.utc), timedelta(days=10**6)],
    "decimals": lambda: [Decimal("NaN"), Decimal("1e999999"), Decimal("sNaN"), complex(1, 2)],
    "enums": lambda: [Color.RED, Color.BLUE],
    "dataclass": lambda: Point(Point(object())),
    "bad_mapping": lambda: BadMapping(a=1),
    "bad_model": BadModel,
    "types": lambda: [int, len, math, Path("\udcff"), range(3), slice(1), Ellipsis],
    "error": lambda: ValueError("returned"),
    "raise_bad": lambda: raise_(BadError()),
    "raise_surrogate": lambda: raise_(ValueError("\ud800\0")),
    "raise_long": lambda: raise_(ValueError("x" * 10_000_000)),
    "raise_object": lambda: raise_(ValueError(BadObject())),
    "raise_end": lambda: raise_(BadEnd()),
    "raise_exit": lambda: raise_(SystemExit(BadText())),
    "raise_interrupt": lambda: raise_(KeyboardInterrupt()),
    "raise_stop": lambda: raise_(StopIteration(1)),
    "raise_async_stop": lambda: raise_(StopAsyncIteration(1)),
    "raise_group": group,
    "recursion": lambda: (lambda f: f(f))(lambda f: f(f)),
}


def value(message: Any) -> Any:
    """Return or raise the value of this name."""
    return VALUES[message["name"] if isinstance(message, dict) else message]()


async def async_value(message: Any) -> Any:
    """Return or raise the value of this name, on the event loop."""
    result = value(message)
    return await result if hasattr(result, "__await__") else result


def keep(value: Any) -> Any:
    """Return a value unchanged."""
    return value


FLOWS = {
    "made": "[{id: made, function: '%s:value'}, {id: kept, function: '%s:keep'}]",
    "awaited": "[{id: made, function: '%s:async_value'}, {id: shown, transform: '{{node.made}}'}]",
    "looped": "[{id: made, function: '%s:value', for_each: '{{parameters.names}}'},"
    " {id: end, transform: text}]",
    "hidden": "[{id: made, function: '%s:value'}]\ncapture: redacted",
}


def test_function_any_value_is_stored_or_fails_its_step(
    stored: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    # pytest-xdist cannot send the tracebacks of these errors.
    caplog.set_level(logging.CRITICAL + 1, "noukai_sdk.local")
    is_sqlite = stored.settings.database_file is not None
    for flow, steps in FLOWS.items() if is_sqlite else [("looped", FLOWS["looped"])]:
        stored.write_flow(flow, f"steps: {steps.replace('%s', __name__)}")
        for name in VALUES:
            body = {"message": name, "parameters": {"names": [name]}}
            response = stored.post(f"tests/{flow}/execute", body, flow)
            if response.status_code == 200:
                assert response.json()["status"] == "completed"
            else:
                outcome = code_of(response)
                assert outcome in [(502, "OUTPUT_INVALID"), (500, "STEP_FAILED")], (flow, name)
                assert len(response.content) < 10_000, (flow, name)
        executions = stored.session(flow)
        assert len(executions) == len(VALUES)
        for execution in executions:
            assert execution["status"] in ("completed", "failed")
            run = f"/seq/acme/tests/{flow}/runs/{execution['executionId']}"
            if flow == "made":
                assert stored.get(f"{run}/trace").status_code == 200
                assert parse(stored.get(f"{run}/trace/stream").text)
    # Nothing keeps the other runs from being stored.
    assert stored.post("samples/hello-world/execute", {"message": "hi"}).status_code == 200
    assert stored.get("/seq/sessions?limit=200&q=x").status_code == 200


async def test_tool_result_that_cannot_be_printed_is_an_error_for_the_model() -> None:
    def bad() -> Any:
        return BadObject()

    def worse() -> Any:
        raise BadError

    for tool in (bad, worse):
        call = {"id": "1", "function": {"name": tool.__name__, "arguments": "{}"}}
        [turn] = await run_tool_calls((tool,), [call])
        assert "cannot be printed" in turn["content"]
