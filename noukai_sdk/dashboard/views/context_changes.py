"""What changed from what the models of one call received to what those of another did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...contexts.call_changes import CallChange, RequestChange
from ...contexts.message_changes import MessageChange, TextLine, folded, word_of
from .comparison import value_diff
from .replay import ChangedPart, DiffLine
from .texts import count

# Of one message; the rest is on the page of its call.
_MOST_LINES = 400
_LONGEST_LINE = 2_000
# A longer removed message is closed.
_OPEN_LINES = 30
_PREVIEW = 100


@dataclass(frozen=True)
class ShownMessage:
    """A message and what became of it.

    Attributes:
        state: ``same``, ``added``, ``removed`` or ``changed``, which have colours.
        headline: Numbers, role, kind and size.
        preview: The beginning of the text.
        is_open: The text is shown without a click.
    """

    state: str
    headline: str
    preview: str
    lines: tuple[DiffLine, ...]
    is_open: bool


@dataclass(frozen=True)
class ShownRequest:
    """Two requests to models.

    Attributes:
        title: Its number, if the step has several; which call has it, if only one does.
        values: The model, settings, tools and schema that differ.
        summary: How many messages there are of each kind of change.
    """

    title: str
    notes: tuple[str, ...]
    values: tuple[ChangedPart, ...]
    summary: str
    messages: tuple[ShownMessage, ...]


@dataclass(frozen=True)
class ShownStep:
    """A step of both calls, or of one of them."""

    title: str
    requests: tuple[ShownRequest, ...]


def shown_steps(change: CallChange) -> tuple[ShownStep, ...]:
    """Return the steps of two calls as the page shows them."""
    found = []
    for step in change.steps:
        several = len(step.requests) > 1
        requests = [_request(change, each, several=several) for each in step.requests]
        only = _only(change, step.old is not None, step.new is not None)
        found.append(ShownStep(f"{step.label}{only}", tuple(requests)))
    return tuple(found)


def _only(change: CallChange, in_old: bool, in_new: bool) -> str:
    if in_old and in_new:
        return ""
    return f", only in call {change.old.number if in_old else change.new.number}"


def _request(change: CallChange, request: RequestChange, *, several: bool) -> ShownRequest:
    sides = [each for each in (request.old, request.new) if each is not None]
    only = _only(change, request.old is not None, request.new is not None)
    counts = (f"{number} {word_of(kind)}" for kind, number in request.counts.items())
    return ShownRequest(
        f"Request {sides[0].number}{only}" if several else "",
        tuple(sorted({each.note for each in sides if each.note})),
        tuple(ChangedPart(each.name, value_diff(each.old, each.new)) for each in request.values),
        ", ".join(counts) or "none",
        tuple(map(_message, request.messages)),
    )


def _message(change: MessageChange) -> ShownMessage:
    lines = change.lines()
    if change.kind == "truncated":
        lines = list(_cut_lines(change))
    elif change.kind == "changed":
        lines = folded(lines)
    shown = tuple(_diff_lines(lines))
    is_open = change.kind in ("added", "changed", "truncated") or (
        change.kind == "removed" and len(shown) <= _OPEN_LINES
    )
    state = change.kind if change.kind in ("same", "added", "removed") else "changed"
    preview = " ".join(change.message.text[: 3 * _PREVIEW].split())[:_PREVIEW]
    return ShownMessage(state, change.headline, preview, shown, is_open)


def _cut_lines(change: MessageChange) -> Iterator[TextLine]:
    """Yield the text before, with what was cut as removed lines, and marks of the cut as added ones."""
    assert change.old is not None
    assert change.new is not None
    start, stop = change.kept
    old, new = change.old.text, change.new.text
    before, _, after = new.partition(change.rest)
    yield from (TextLine("removed", line) for line in old[:start].splitlines())
    yield from (TextLine("added", line) for line in before.splitlines())
    yield from (TextLine("same", line) for line in change.rest.splitlines())
    yield from (TextLine("removed", line) for line in old[stop:].splitlines())
    yield from (TextLine("added", line) for line in after.splitlines())


def _diff_lines(lines: list[TextLine]) -> Iterator[DiffLine]:
    signs = {"same": " ", "added": "+", "removed": "-"}
    for line in lines[:_MOST_LINES]:
        text = line.text.removesuffix("\n")
        more = len(text) - _LONGEST_LINE
        if more > 0:
            text = f"{text[:_LONGEST_LINE]}… {more:,} more characters"
        yield DiffLine(line.kind, f"{signs[line.kind]} {text}")
    if len(lines) > _MOST_LINES:
        yield DiffLine("place", f"… {count(len(lines) - _MOST_LINES, 'more line')}")
