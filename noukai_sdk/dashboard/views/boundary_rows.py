"""The calls of recorded functions on a session's page: as lines among those of the flows, and whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...boundaries.display import arguments_text, value_text
from ...boundaries.failures import error_text
from ...models.boundaries import Boundary
from ...replay.recording import seconds_of
from .calls import CallRow
from .recorded_values import Parts, Value
from .waterfall import Bar

# More lines than these are shown when the reader asks for them, and no more than the most.
SHOWN = 200
MOST_SHOWN = 2_000
_PREVIEW = 160
# Longer lists and objects have no preview: a line shows their beginning alone.
_LONGEST_PREVIEW = 50


@dataclass
class BoundaryRow:
    """A call of a recorded function, in one line.

    Attributes:
        index: Its place among the session's, from 0.
        status: ``completed``, ``failed`` (it raised), ``abandoned`` or ``unfinished``.
        problem: Its error, or why its result is missing.
        start, end: Milliseconds since the session began.
    """

    index: int
    name: str
    status: str
    arguments: str
    result: str
    problem: str
    site: str
    is_live: bool
    start: float | None = None
    end: float | None = None
    bar: Bar | None = None
    is_recorded: ClassVar[bool] = True

    @property
    def function(self) -> str:
        """Return the name without its module."""
        return self.name.rpartition(".")[2]

    @property
    def module(self) -> str:
        """Return the module of the name, empty if it has none."""
        return self.name.rpartition(".")[0]

    @property
    def milliseconds(self) -> float | None:
        """Return how long the call took."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass
class BoundaryView:
    """A call of a recorded function, whole.

    Attributes:
        arguments: By name; one without a name if a key function has chosen what counts.
        items: What a generator has yielded, as one list.
        note: Why something is missing.
    """

    row: BoundaryRow
    parts: Parts
    arguments: list[tuple[str, Value]] = field(default_factory=list)
    result: Value | None = None
    items: Value | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)
    cause: str = ""


@dataclass
class BoundaryRows:
    """The calls of recorded functions of a page.

    Attributes:
        rows: Those that are shown.
        total: How many belong to the page.
        is_hidden: There are so many that the reader has to ask for them.
    """

    rows: list[BoundaryRow] = field(default_factory=list)
    total: int = 0
    is_hidden: bool = False

    @property
    def more(self) -> int:
        """Return how many are not shown, though the reader has asked for them."""
        return 0 if self.is_hidden else self.total - len(self.rows)


def boundary_rows(
    boundaries: Sequence[tuple[int, Boundary]], start: float | None, *, shows_all: bool = False
) -> BoundaryRows:
    """Return the lines of a session's recorded functions.

    Args:
        boundaries: Those of the page with their places, in the order in which they began.
        start: The start of the session, in seconds since 1970.
        shows_all: Show them, however many they are.
    """
    found = BoundaryRows(total=len(boundaries))
    found.is_hidden = len(boundaries) > SHOWN and not shows_all
    if not found.is_hidden:
        found.rows = [_row(index, each, start) for index, each in boundaries[:MOST_SHOWN]]
    return found


def boundary_view(boundary: Boundary, index: int, *, limit: int | None) -> BoundaryView:
    """Return a call of a recorded function as the page shows it.

    Args:
        boundary: The call.
        index: Its place among the session's.
        limit: Characters of a text that are shown; None for all.
    """
    parts = Parts(limit)
    view = BoundaryView(_row(index, boundary, None), parts)
    arguments = boundary.arguments
    if isinstance(arguments, dict) and "$type" not in arguments:
        for name, value in arguments.items():
            view.arguments.append((name, parts.add(f"arguments.{name}", _readable(value))))
    elif arguments is not None:
        view.arguments.append(
            ("Key of the arguments", parts.add("arguments", _readable(arguments)))
        )
    if boundary.error is not None:
        view.error = error_text(boundary.error)
        attributes = boundary.error.get("attributes")
        if attributes:
            view.arguments.append(
                ("Attributes of the error", parts.add("error", _readable(attributes)))
            )
        cause = boundary.error.get("cause")
        view.cause = error_text(cause) if isinstance(cause, dict) else ""
    elif boundary.items is None and boundary.unavailable is None and boundary.completed_at:
        view.result = parts.add("result", _readable(boundary.result))
    if boundary.items is not None:
        view.items = parts.add("items", _readable(boundary.items))
    view.notes = list(_notes(boundary))
    return view


def in_order(
    calls: Sequence[CallRow], boundaries: Sequence[BoundaryRow]
) -> list[CallRow | BoundaryRow]:
    """Return the lines of both in the order in which they began; calls stay in theirs."""
    merged: list[CallRow | BoundaryRow] = []
    waiting = sorted(boundaries, key=lambda row: (row.start is None, row.start or 0.0, row.index))
    waiting.reverse()
    for call in calls:
        while waiting and _is_before(waiting[-1], call):
            merged.append(waiting.pop())
        merged.append(call)
    return merged + waiting[::-1]


def _is_before(row: BoundaryRow, call: CallRow) -> bool:
    return row.start is not None and call.start is not None and row.start <= call.start


def _row(index: int, boundary: Boundary, start: float | None) -> BoundaryRow:
    arguments, error = boundary.arguments, boundary.error
    named = isinstance(arguments, dict) and "$type" not in arguments
    if error is not None:
        status, problem = "failed", _cut(error_text(error))
    elif boundary.abandoned:
        status, problem = "abandoned", "abandoned by its caller"
    elif boundary.completed_at is None:
        status, problem = "unfinished", "the request ended before this call"
    else:
        status, problem = "completed", ""
    if boundary.unavailable is not None:
        problem = f"not kept: {boundary.unavailable}"
    result = "" if boundary.items is None else f"{len(boundary.items)} yielded: "
    result += _preview(boundary.result if boundary.items is None else boundary.items)
    return BoundaryRow(
        index,
        boundary.name,
        status,
        _cut(arguments_text(_begun(arguments)) if named else _preview(arguments)),
        _cut(result),
        problem,
        boundary.site or "",
        boundary.live,
        _since(start, boundary.started_at),
        _since(start, boundary.completed_at),
    )


def _notes(boundary: Boundary) -> Iterable[str]:
    if boundary.live:
        yield "It runs in replays too, and differences are reported (live=True)."
    if boundary.unavailable is not None:
        yield f"A replay cannot serve this call: {boundary.unavailable}."
    if boundary.abandoned:
        yield "Its caller stopped waiting: a timeout, a cancelled task, or a generator left early."
    elif boundary.completed_at is None:
        yield "The request ended before this call did."


def _readable(value: Any) -> Any:
    """Return plain JSON and texts as they are, for a tree; other values as Python text."""
    try:
        return value_text(value) if _has_types(value) else value
    except RecursionError:
        return value


def _has_types(value: Any) -> bool:
    if isinstance(value, dict):
        return any(key.startswith("$") for key in value) or any(map(_has_types, value.values()))
    return isinstance(value, list) and any(map(_has_types, value))


def _preview(value: Any) -> str:
    return "" if value is None else _cut(_text(_begun(value)))


def _text(value: Any) -> str:
    try:
        return value_text(value, 10 * _PREVIEW)
    except RecursionError:
        return "…"


def _begun(value: Any, level: int = 0) -> Any:
    """Return the beginning of a value, as much as a line may show."""
    if isinstance(value, str):
        return value[:_PREVIEW]
    if isinstance(value, list):
        return [_begun(each, level + 1) for each in value[:_LONGEST_PREVIEW]] if level < 5 else []
    if isinstance(value, dict):
        items = list(value.items())[:_LONGEST_PREVIEW] if level < 5 else []
        return {key: _begun(each, level + 1) for key, each in items}
    return value


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _PREVIEW else line[: _PREVIEW - 1] + "…"


def _since(start: float | None, time: str | None) -> float | None:
    moment = seconds_of(time)
    return None if start is None or moment is None else (moment - start) * 1000
