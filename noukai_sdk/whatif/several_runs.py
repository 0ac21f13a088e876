"""The live calls of several runs beside their recordings: differences, and the spread over the runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import fmean, stdev
from typing import Any

from ..models.reports import Change
from ..replay.drift import changed_values
from .compared_calls import LiveCall
from .measures import Measure, decimal_of

_MOST_FIELDS = 200
_MOST_CHANGES = 200


@dataclass(frozen=True)
class Spread:
    """How a number varies over runs. ``deviation`` is that of a sample; 0 for one run."""

    count: int
    mean: float
    low: float
    high: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some numbers, None if there are none.

        Example:
            >>> Spread.of([1, 2, 3])
            Spread(count=3, mean=2.0, low=1, high=3, deviation=1.0)
        """
        if not values:
            return None
        deviation = stdev(values) if len(values) > 1 else 0.0
        return cls(len(values), fmean(values), min(values), max(values), deviation)

    def as_dict(self) -> dict[str, Any]:
        """Return the spread as JSON values."""
        return {
            "runs": self.count,
            "mean": self.mean,
            "min": self.low,
            "max": self.high,
            "standardDeviation": self.deviation,
        }


@dataclass(frozen=True)
class Answer:
    """One of the different answers.

    Attributes:
        runs: The numbers of the runs that gave it.
        changes: How it differs from the recorded one; empty if it does not, None if none was recorded.
    """

    output: Any
    runs: tuple[int, ...]
    changes: tuple[Change, ...] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        changes = None
        if self.changes is not None:
            changes = [
                {"path": each.path, "recorded": each.recorded, "live": each.sent, "diff": each.diff}
                for each in self.changes
            ]
        return {"output": self.output, "runs": list(self.runs), "changes": changes}


@dataclass(frozen=True)
class FieldSpread:
    """A field of JSON answers that is a number, over the runs."""

    path: str
    recorded: float | None
    spread: Spread

    def as_dict(self) -> dict[str, Any]:
        """Return the field as JSON values."""
        return {"path": self.path, "recorded": self.recorded, **self.spread.as_dict()}


@dataclass
class ComparedCall:
    """A call that ran live, in each run, beside its recording.

    Attributes:
        runs: The measure of each run in which it was made, by the number of the run.
        changed_input: Runs in which the application made it with another input than recorded.
    """

    flow: str
    kind: str
    number: int
    steps: tuple[str, ...]
    recorded: Measure | None
    runs: dict[int, Measure] = field(default_factory=dict)
    changed_input: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The call in words."""
        slug = self.flow.rpartition("/")[2]
        step = f", step {', '.join(self.steps)}" if self.steps else ""
        return f"{slug} call {self.number}{step}"

    @property
    def answers(self) -> list[Answer]:
        """The different answers of runs that completed, the most frequent first."""
        groups: dict[str, list[int]] = {}
        outputs: dict[str, Any] = {}
        for number, measure in self.runs.items():
            if measure.status == "completed":
                key = json.dumps(measure.output, sort_keys=True, default=str)
                groups.setdefault(key, []).append(number)
                outputs[key] = measure.output
        ordered = sorted(groups.items(), key=lambda each: (-len(each[1]), each[1]))
        return [
            Answer(outputs[key], tuple(runs), self._changes(outputs[key])) for key, runs in ordered
        ]

    @property
    def fields(self) -> list[FieldSpread]:
        """The numbers in the answers, if they are JSON."""
        recorded = {} if self.recorded is None else dict(_numbers(as_json(self.recorded.output)))
        values: dict[str, list[float]] = {}
        for measure in self.runs.values():
            for path, value in _numbers(as_json(measure.output)):
                values.setdefault(path, []).append(value)
        spreads = []
        for path, numbers in list(values.items())[:_MOST_FIELDS]:
            spread = Spread.of(numbers)
            assert spread is not None  # there is a number
            spreads.append(FieldSpread(path, recorded.get(path), spread))
        return spreads

    def spread(self, name: str) -> Spread | None:
        """Return the spread of ``tokens_in``, ``tokens_out``, ``cost_usd`` or ``seconds``."""
        return Spread.of([float(value) for value in self.values(name) if value is not None])

    def values(self, name: str) -> list[int | float | Decimal | None]:
        """Return the values of each run."""
        return [number_of(measure, name) for measure in self.runs.values()]

    def _changes(self, output: Any) -> tuple[Change, ...] | None:
        if self.recorded is None or self.recorded.status != "completed":
            return None
        recorded, live = as_json(self.recorded.output), as_json(output)
        if not (isinstance(recorded, dict | list) and type(recorded) is type(live)):
            recorded, live = self.recorded.output, output
        return tuple(changed_values(recorded, live)[:_MOST_CHANGES])

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        names = {
            "tokensIn": "tokens_in",
            "tokensOut": "tokens_out",
            "costUsd": "cost_usd",
            "seconds": "seconds",
        }
        spreads = {key: self.spread(name) for key, name in names.items()}
        return {
            "flow": self.flow,
            "kind": self.kind,
            "number": self.number,
            "steps": list(self.steps),
            "recorded": None if self.recorded is None else self.recorded.as_dict(),
            "runs": {str(number): each.as_dict() for number, each in self.runs.items()},
            "changedInput": {
                str(number): list(each) for number, each in self.changed_input.items()
            },
            "spread": {
                key: None if spread is None else spread.as_dict() for key, spread in spreads.items()
            },
            "answers": [answer.as_dict() for answer in self.answers],
            "fields": [each.as_dict() for each in self.fields],
        }


def compare(runs: Sequence[tuple[int, Sequence[LiveCall]]]) -> list[ComparedCall]:
    """Return each live call with its measures in all runs, which are numbers with their live calls."""
    compared: dict[tuple[Any, ...], ComparedCall] = {}
    for number, calls in runs:
        for call in calls:
            key = call.flow, call.kind, call.number, call.steps
            found = compared.get(key)
            if found is None:
                found = compared[key] = ComparedCall(*key, call.recorded)
            found.recorded = found.recorded or call.recorded
            found.runs[number] = call.live
            if call.changed_input:
                found.changed_input[number] = call.changed_input
    return list(compared.values())


def number_of(measure: Measure, name: str) -> int | float | Decimal | None:
    """Return one of the numbers of a measure."""
    value = getattr(measure, name)
    if name == "cost_usd":
        return decimal_of(value)
    return value if isinstance(value, int | float) else None


def as_json(output: Any) -> Any:
    """Return what a text is as JSON, if it is an object or a list; else the output itself."""
    if not isinstance(output, str):
        return output
    text = output.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    if text[:1] not in "{[":
        return output
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return output


def _numbers(value: Any, path: str = "$") -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _numbers(each, f"{path}.{name}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _numbers(each, f"{path}[{index}]")
