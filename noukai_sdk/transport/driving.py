"""What both drivers share: small steps without I/O."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any, Final

from ..protocol.program import CallTools, Effect
from .library import closed_during_call, error_from_fault

EventFilter = Callable[[Any], bool]
"""Decides whether the caller gets an event; may raise to end the stream."""

END: Final = object()
"""Stands in the place of an event when the program has returned."""


def to_sdk_error(effect: Effect, error: Exception, url: str, *, closed: bool) -> Exception:
    """Return the error to throw into the program: the SDK's own, caused by the HTTP library's.

    ``effect`` has raised ``error``, ``url`` is that of the last request, and ``closed`` says that the
    client was closed, which breaks its connections.
    """
    if isinstance(effect, CallTools):
        return error  # a tool's network trouble is not the service's
    fault = error_from_fault(error, url)
    if fault is None:
        return error
    if closed:
        fault = closed_during_call()
    fault.__cause__ = error
    return fault


def not_awaitable(results: Any) -> Any:
    """Return what a tool handler returned to a sync client. Raises TypeError for an awaitable."""
    if not inspect.isawaitable(results):
        return results
    if inspect.iscoroutine(results):
        results.close()
    raise TypeError("tool_handler returned an awaitable: use AsyncNoukai, or a plain function")


def jittered(seconds: float, jitter: float) -> float:
    """Return ``seconds``, up to ``jitter`` times longer at random."""
    return seconds * (1 + jitter * random.random())  # noqa: S311 - spreads retries, guards nothing
