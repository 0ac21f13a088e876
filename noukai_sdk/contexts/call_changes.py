"""Compare what the models of two calls received."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .message_changes import MessageChange, message_changes
from .model_inputs import CallInputs, ModelInput, StepInputs

_ABSENT = object()


@dataclass(frozen=True)
class ValueChange:
    """A setting, the model, the schema or a tool that differs; None on the side that does not have it."""

    name: str
    old: Any
    new: Any

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain JSON values."""
        return {"name": self.name, "from": self.old, "to": self.new}


@dataclass
class RequestChange:
    """Two requests to models, or one that only one call has.

    Attributes:
        old, new: The requests.
        values: The model, settings, tools and schema that differ.
        messages: What became of each message.
    """

    old: ModelInput | None
    new: ModelInput | None
    values: list[ValueChange] = field(default_factory=list)
    messages: list[MessageChange] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not self.values and all(each.kind == "same" for each in self.messages)

    @property
    def counts(self) -> dict[str, int]:
        """How many messages there are of each kind of change."""
        found: dict[str, int] = {}
        for each in self.messages:
            found[each.kind] = found.get(each.kind, 0) + 1
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain JSON values."""
        return {
            "from": None if self.old is None else self.old.number,
            "to": None if self.new is None else self.new.number,
            "changed": [each.as_dict() for each in self.values],
            "messages": [each.as_dict() for each in self.messages],
        }


@dataclass
class StepChange:
    """A step of both calls, or of one of them. Of several attempts, the last one is compared."""

    old: StepInputs | None
    new: StepInputs | None
    requests: list[RequestChange] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The step, with both names if they differ."""
        labels = [each.label for each in (self.old, self.new) if each is not None]
        return " → ".join(dict.fromkeys(labels))

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain JSON values."""
        return {
            "from": None if self.old is None else self.old.label,
            "to": None if self.new is None else self.new.label,
            "requests": [each.as_dict() for each in self.requests],
        }


@dataclass
class CallChange:
    """What changed from one call to another."""

    old: CallInputs
    new: CallInputs
    steps: list[StepChange] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return all(
            step.old and step.new and all(each.is_same for each in step.requests)
            for step in self.steps
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain JSON values."""
        sides = {}
        for name, call in (("from", self.old), ("to", self.new)):
            sides[name] = {"number": call.number, "slug": call.slug, "note": call.note or None}
        return {**sides, "steps": [each.as_dict() for each in self.steps]}


def compare_calls(old: CallInputs, new: CallInputs) -> CallChange:
    """Return what changed from one call to another; steps without a model are left out."""
    change = CallChange(old, new)
    olds, news = _last_attempts(old), _last_attempts(new)
    if len(olds) == len(news) == 1:
        # One agent each, whatever the two flows call it.
        change.steps = [_step_change(olds[0], news[0])]
        return change
    by_label = {step.label: step for step in news}
    change.steps = [_step_change(step, by_label.pop(step.label, None)) for step in olds]
    change.steps += [_step_change(None, step) for step in by_label.values()]
    return change


def _last_attempts(call: CallInputs) -> list[StepInputs]:
    return list({step.label: step for step in call.steps if step.inputs}.values())


def _step_change(old: StepInputs | None, new: StepInputs | None) -> StepChange:
    change = StepChange(old, new)
    olds = [] if old is None else old.inputs
    news = [] if new is None else new.inputs
    for at in range(max(len(olds), len(news))):
        one = olds[at] if at < len(olds) else None
        other = news[at] if at < len(news) else None
        change.requests.append(compare_requests(one, other))
    return change


def compare_requests(old: ModelInput | None, new: ModelInput | None) -> RequestChange:
    """Return what changed from one request to another; None is a request that was not made."""
    messages = message_changes(old.messages if old else (), new.messages if new else ())
    change = RequestChange(old, new, messages=messages)
    if old is not None and new is not None:
        change.values = [
            *_differing("", {"model": old.model}, {"model": new.model}),
            *_differing("", old.settings, new.settings),
            *_differing("tool ", _by_name(old.tools), _by_name(new.tools)),
            *_differing("", {"output schema": old.schema}, {"output schema": new.schema}),
        ]
    return change


def _differing(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ValueChange]:
    return [
        ValueChange(f"{prefix}{name}", old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


def _by_name(tools: Sequence[Any]) -> dict[str, Any]:
    return {tool_name(tool): tool for tool in tools}


def tool_name(tool: Any) -> str:
    """Return the name of a tool in the form of OpenAI or Anthropic; its JSON without one."""
    if isinstance(tool, Mapping):
        function = tool.get("function")
        named = function if isinstance(function, Mapping) else tool
        if isinstance(named.get("name"), str):
            return str(named["name"])
    return json.dumps(tool, ensure_ascii=False, default=str)[:80]
