"""Write a value that a recording repeats only once.

A stream holds the output of a step in its parts, then as a whole, and again as the result of the flow. In a
cassette file the first one stays, the others are null, and ``"same"`` says what they are::

    {"same": {"events[4].output": "events[2-3].outputData", "events[5].result": "events[4].output"}, ...}

``events[2-3].outputData`` are the texts of these events, joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from .redaction import parse_path

SAME = "same"

# Shorter values are easier to read where they stand.
_SHORTEST = 1_000

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_JOINED = re.compile(r"events\[([0-9]+[,-][0-9,-]+)\]\.outputData")

_Place = tuple[dict[str, Any], str, str]
"""A dict, one of its keys, and the path of the value there."""


def without_repetitions(recording: dict[str, Any]) -> dict[str, Any]:
    """Return a recording in which values that stand elsewhere are null, and named in ``"same"``.

    Args:
        recording: As a file holds it. It is changed.

    Example:
        >>> output = "x" * 1000
        >>> event = {"eventType": "flow_completed", "result": output}
        >>> without_repetitions({"result": {"result": output}, "events": [event]})["same"]
        {'result.result': 'events[0].result'}
    """
    places: dict[tuple[bool, str], str] = {}
    same: dict[str, str] = {}
    parts: dict[Any, list[int]] = {}
    events = recording.get("events", ())
    for values, name, path in _places(recording):
        value = values[name]
        if name == "eventType" and path.startswith("events["):
            _note_part(values, int(path[len("events[") : path.index("]")]), parts)
        if isinstance(value, (str, dict, list)):
            text = value if isinstance(value, str) else json.dumps(value)
            if len(text) < _SHORTEST:
                continue
            key = isinstance(value, str), text
            source = places.get(key)
            if source is None and values.get("eventType") == "step_completed":
                numbers = parts.get(values.get("stepId"), [])
                if len(numbers) > 1 and value == _joined(events, numbers):
                    source = f"events[{_as_ranges(numbers)}].outputData"
            places.setdefault(key, path)
            if source is not None:
                same[path] = source
                values[name] = None
    return {SAME: same, **recording} if same else recording


def with_repetitions(recording: dict[str, Any]) -> dict[str, Any]:
    """Return a recording with all of its values, as it was before :func:`without_repetitions`.

    Raises:
        ValueError: ``"same"`` is damaged, or names a value that is not there.
    """
    same = recording.pop(SAME)
    if not isinstance(same, Mapping):
        raise ValueError('"same" must be an object')
    for path, source in same.items():
        if not isinstance(source, str):
            raise ValueError(f'"same" has no text for {path}')
        try:
            joined = _JOINED.fullmatch(source)
            if joined is not None:
                value: Any = _joined(recording["events"], _numbers(joined[1]))
            else:
                holder, name = _find(recording, source)
                value = deepcopy(holder[name])  # the program may change what it gets
            holder, name = _find(recording, path)
            holder[name] = value
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f'"same" says that {path} is {source}, but one is not there'
            ) from error
    return recording


def _places(recording: dict[str, Any]) -> Iterator[_Place]:
    """Yield the places of values that may be repeated. The events come first: their parts must stay."""
    for number, event in enumerate(recording.get("events", ())):
        yield from _fields(event, f"events[{number}]")
    yield from _fields(recording.get("result") or {}, "result")
    for number, status in enumerate(recording.get("statuses", ())):
        yield from _fields(status, f"statuses[{number}]")
    for number, round_ in enumerate(recording.get("rounds", ())):
        yield from _fields(round_["paused"], f"rounds[{number}].paused")


def _fields(values: dict[str, Any], path: str) -> Iterator[_Place]:
    for name in list(values):
        if "'" in name and '"' in name:
            continue  # no path can say it
        yield values, name, path + _step(name)
        if name == "accumulatedOutputs" and isinstance(values[name], dict):
            yield from _fields(values[name], path + _step(name))


def _step(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return f".{name}"
    return f'["{name}"]' if "'" in name else f"['{name}']"


def _note_part(event: dict[str, Any], number: int, parts: dict[Any, list[int]]) -> None:
    """Note the events that hold the parts of a step's output."""
    step = event.get("stepId")
    if event["eventType"] == "step_started":
        parts[step] = []
    elif event["eventType"] == "step_output" and isinstance(event.get("outputData"), str):
        parts.setdefault(step, []).append(number)


def _joined(events: Any, numbers: Iterable[int]) -> str:
    return "".join(events[number]["outputData"] for number in numbers)


def _as_ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in ranges)


def _numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _find(recording: dict[str, Any], path: str) -> tuple[Any, Any]:
    """Return the list or dict that holds the value at ``path``, and its index or name there."""
    holder: Any = recording
    *steps, last = parse_path(path)
    for step in steps:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    key = int(last) if isinstance(holder, list) else last
    holder[key]
    return holder, key
