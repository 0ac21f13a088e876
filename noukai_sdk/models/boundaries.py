"""The calls of recorded functions in a session, as ``PUT /seq/sessions/{id}/boundaries`` takes them.

An extension of our backend (docs/wire.md, "Sessions"); the hosted service answers 404.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import WireModel


class Boundary(WireModel):
    """One call of a recorded function. Values are JSON, encoded by ``boundaries/values.py``.

    A call that has neither ``completed_at`` nor ``abandoned`` had not ended with its session.

    Attributes:
        name: The name of the function, or the one that it was given.
        position: The number of the call among the calls of this name in the session, from 0.
        kind: A generator has ``items``, any other function ``result``.
        arguments: What of the arguments counts, by parameter name; under ``key=`` what that returned.
        result: What the function returned.
        items: What a generator yielded.
        chunks: When items arrived: ``(seconds since the call began, number of items)``.
        error: The exception that the function raised, encoded by ``boundaries/failures.py``.
        started_at, completed_at: ISO 8601, on the client's clock.
        abandoned: The caller stopped waiting: a timeout, a cancelled task, a generator left early.
        passes: How many passes of the event loop after the call that ended before it this call ended: 0 or
            1, so that the program saw both end at once. None for more, and where there is no loop.
        live: The function runs in a replay too; only differences are reported.
        site: Where it was called, as ``main.py:41``.
        unavailable: Why result, items and error are not kept, None if they are.
    """

    name: str
    position: int
    kind: Literal["function", "generator"] = "function"
    arguments: Any = None
    result: Any = None
    items: list[Any] | None = None
    chunks: tuple[tuple[float, int], ...] = ()
    error: dict[str, Any] | None = None
    started_at: str | None = None
    completed_at: str | None = None
    abandoned: bool = False
    passes: Literal[0, 1] | None = None
    live: bool = False
    site: str | None = None
    unavailable: str | None = None


class Boundaries(WireModel):
    """The body of ``PUT /seq/sessions/{id}/boundaries``. A second PUT replaces the first.

    Attributes:
        boundaries: In the order in which the calls began.
        total: How many the session has, if not all are kept.
    """

    boundaries: list[Boundary] = Field(default_factory=list)
    total: int | None = None
