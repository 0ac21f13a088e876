"""What the two drivers share: how a program is advanced, and small steps without I/O."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

from ..errors import ClientClosedError
from ..protocol.program import CallTools, Effect, Program, Response
from .library import closed_during_call, fault_from

BOM = b"\xef\xbb\xbf"

Keep = Callable[[Any], bool]
"""Tells whether the caller gets an event; may raise to end the stream."""


class Done:
    """A program has returned ``value``."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value: Any = value


def advance(program: Program[Any], outcome: Any = None) -> Any:
    """The program's next want or event, or Done."""
    try:
        return program.send(outcome)
    except StopIteration as end:
        return Done(end.value)


def fail(program: Program[Any], error: Exception) -> Any:
    """As :func:`advance`, for a want that failed.

    A StopIteration among the errors is no result: thrown into a generator, Python makes a
    RuntimeError of it.
    """
    try:
        return program.throw(error)
    except StopIteration as end:
        return Done(end.value)


def to_sdk_error(want: Effect, error: Exception, path: str, *, closed: bool) -> Exception:
    """The error to give to the program: the SDK's own, caused by the HTTP library's."""
    if isinstance(want, CallTools):
        return error  # a tool's network trouble is not the service's
    fault = fault_from(error, path)
    if fault is None:
        return error
    if closed:  # the connection broke because it was closed
        fault = closed_during_call()
    fault.__cause__ = error
    return fault


def not_awaitable(results: Any) -> Any:
    """What a tool handler gave to a sync client. Raises TypeError where it waits to be awaited."""
    if not inspect.isawaitable(results):
        return results
    if inspect.iscoroutine(results):
        results.close()
    raise TypeError("tool_handler returned an awaitable: use AsyncNoukai, or a plain function")


def read_response(response: Any) -> Response:
    """The HTTP library's answer, read to its end, as the programs know it."""
    # A byte order mark is no JSON, and some proxies add one.
    return Response(response.status_code, response.headers, response.content.removeprefix(BOM))


def release(response: Any) -> None:
    """Break the circle of an answer that is no longer needed.

    A response of httpx and its stream hold each other: garbage that only the collector would find,
    with every call, and with a thousand calls under way it looks through them all.
    """
    response.stream = None


def response_head(response: Any) -> Response:
    """As :func:`whole`, of an answer whose body is still to come."""
    return Response(response.status_code, response.headers, b"")


def jittered(seconds: float, jitter: float) -> float:
    """``seconds``, up to ``jitter`` times longer."""
    return seconds * (1 + jitter * random.random())  # noqa: S311 - spreads retries, guards nothing


def raise_if_closed(closed: bool) -> None:
    """Raise ClientClosedError for a client that was closed."""
    if closed:
        raise ClientClosedError("this client was closed: make a new one")
