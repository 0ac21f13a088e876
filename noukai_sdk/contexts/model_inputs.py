"""Read what the models of a call received: from its events, or else from the snapshots of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from ..models.sessions import StepSnapshot
from ..replay.recording import Recording
from ..replay.sources import RENDERED_PROMPT
from .model_messages import Message, message_of

# Where each provider has the schema of the output.
_SCHEMAS = ("json_schema", "response_format")
_NO_MODEL = "this step calls no model"
_SUB_FLOW = "this step runs a workflow, whose agents follow"
_RENDERED = (
    "the service keeps only the rendered prompt: settings, tools and earlier turns are unknown"
)
_OLD = "recorded by an earlier version: only messages, tools and the temperature were kept"
_REQUESTS_ONLY = (
    "what the models received was not kept: this recording has the request and the response of the call "
    "alone. A session of noukai dev or noukai serve has it, and so has a cassette that `noukai session "
    "pull` makes of one"
)


@dataclass(frozen=True)
class ModelInput:
    """One request to a model.

    Attributes:
        number: The number of the request in its attempt, from 1: one for each round of tools and each
            repair of an output.
        model: The model as the flow names it, such as ``openai:gpt-4o-mini``.
        messages: In the provider's form, with the system prompt first.
        tools: The definitions of tools, in the provider's form.
        schema: The schema or format of the output, None if there is none.
        settings: The other settings, by the provider's names.
        note: Why something is missing.
    """

    number: int
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Any, ...] = ()
    schema: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def size(self) -> int:
        """The number of characters of all messages."""
        return sum(each.size for each in self.messages)

    @property
    def around(self) -> tuple[Any, ...]:
        """All but the messages: model, settings, tools and schema."""
        return self.model, self.settings, self.tools, self.schema

    def as_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON values."""
        return {
            "number": self.number,
            "model": self.model,
            "settings": dict(self.settings),
            "tools": list(self.tools),
            "schema": self.schema,
            "messages": [dict(each.value) for each in self.messages],
            "characters": self.size,
            "note": self.note or None,
        }


@dataclass
class StepInputs:
    """One attempt of a step, or of one item of a loop.

    Attributes:
        attempt: From 1.
        tokens: What the step has used in all of its attempts and rounds, None if that is not known.
        inputs: The requests to its model, in their order.
        note: Why there are none.
        outer: The step that runs the workflow of this one, whose id is then its path.
    """

    id: str
    attempt: int = 1
    loop_index: int | None = None
    tokens: Mapping[str, Any] | None = None
    inputs: list[ModelInput] = field(default_factory=list)
    note: str = ""
    outer: str | None = None

    @property
    def label(self) -> str:
        """The id, with the index of a loop's item: ``review[2]``."""
        return self.id if self.loop_index is None else f"{self.id}[{self.loop_index}]"

    def as_dict(self) -> dict[str, Any]:
        """Return the step as plain JSON values."""
        return {
            "step": self.id,
            "loopIndex": self.loop_index,
            "attempt": self.attempt,
            "tokens": None if self.tokens is None else dict(self.tokens),
            "requests": [each.as_dict() for each in self.inputs],
            "note": self.note or None,
        }


@dataclass
class CallInputs:
    """What the models of a call received.

    Attributes:
        number: The number of the call in its session, from 1.
        steps: In the order in which they began.
        note: Why something is missing.
    """

    number: int
    slug: str
    kind: str
    execution_id: str | None
    steps: list[StepInputs]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the call as plain JSON values."""
        return {
            "number": self.number,
            "slug": self.slug,
            "kind": self.kind,
            "executionId": self.execution_id,
            "steps": [each.as_dict() for each in self.steps],
            "note": self.note or None,
        }


def call_inputs(
    number: int, recording: Recording, snapshots: Sequence[StepSnapshot] = ()
) -> CallInputs:
    """Return what the models of a call received.

    Args:
        number: The number of the call in its session, from 1.
        recording: The call.
        snapshots: Its steps, if the source is a session of a service.
    """
    steps = _from_events(recording.events)
    if not any(step.inputs for step in steps) and snapshots:
        steps = _from_snapshots(snapshots)
    note = ""
    if recording.unavailable:
        note = f"inputs and outputs are missing: {recording.unavailable}"
    elif not any(step.inputs for step in steps) and not (snapshots or _has_inputs(recording)):
        note, steps = _REQUESTS_ONLY, []
    elif recording.truncated:
        note = "the service has cut some of the inputs or outputs"
    slug, kind = recording.slug or "(deleted flow)", recording.kind or "call"
    return CallInputs(number, slug, kind, recording.execution_id, steps, note)


def shared_messages(before: ModelInput, request: ModelInput) -> int:
    """Return with how many messages of the request before it a request begins."""
    pairs = zip(before.messages, request.messages, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].key == pair[1].key, pairs))


def _has_inputs(recording: Recording) -> bool:
    """Return whether the events have the inputs of steps, those of steps without a model too."""
    kinds = {event.get("eventType") for event in recording.events}
    return not kinds.isdisjoint(("step_input", "sub_flow_input"))


class _Reader:
    """Reads the steps of a run from its events."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int | None, int], StepInputs] = {}
        self._attempts: dict[str, int] = {}
        self._paused: set[str] = set()

    @property
    def steps(self) -> list[StepInputs]:
        return list(self._steps.values())

    def read(self, event: Mapping[str, Any]) -> None:
        kind, step_id = event.get("eventType"), event.get("stepId")
        if not isinstance(step_id, str):
            return
        index = event.get("loopIndex")
        index = index if isinstance(index, int) else None
        if kind == "step_started":
            # After a pause for tools the same attempt goes on.
            if step_id in self._paused:
                self._paused.remove(step_id)
            else:
                self._attempts[step_id] = self._attempts.get(step_id, 0) + 1
                self._step(step_id, None)
        elif kind == "step_paused_for_tool_calls":
            self._paused.add(step_id)
        elif kind == "step_input":
            _add_input(self._step(step_id, index), event.get("inputData"))
        elif kind == "sub_flow_input":
            attempt = self._attempts.setdefault(step_id, 1)
            step = self._step(str(event.get("path")), None, attempt)
            step.outer = step_id
            _add_input(step, event.get("inputData"))
        elif kind == "step_completed":
            step = self._step(step_id, None)
            if event.get("skipped"):
                step.note = "this step was skipped"
            if isinstance(event.get("tokens"), Mapping):
                step.tokens = event["tokens"]

    def _step(self, step_id: str, index: int | None, attempt: int | None = None) -> StepInputs:
        attempt = attempt or self._attempts.setdefault(step_id, 1)
        key = step_id, index, attempt
        return self._steps.setdefault(key, StepInputs(step_id, attempt, index))


def _add_input(step: StepInputs, value: Any) -> None:
    """Add the input of a step, if it is a request to a model."""
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        step.inputs.append(_model_input(len(step.inputs) + 1, value))


def _from_events(events: Sequence[Mapping[str, Any]]) -> list[StepInputs]:
    reader = _Reader()
    for event in events:
        reader.read(event)
    return _noted(reader.steps)


def _noted(steps: Sequence[StepInputs]) -> list[StepInputs]:
    """Leave out loops whose items are there, and say why a step has no requests."""
    loops = {(step.id, step.attempt) for step in steps if step.loop_index is not None}
    kept = [
        step
        for step in steps
        if step.inputs or step.loop_index is not None or (step.id, step.attempt) not in loops
    ]
    outer = {step.outer for step in kept}
    for step in kept:
        if not step.inputs:
            step.note = step.note or (_SUB_FLOW if step.id in outer else _NO_MODEL)
    return kept


def _from_snapshots(snapshots: Sequence[StepSnapshot]) -> list[StepInputs]:
    steps = []
    for snapshot in snapshots:
        step = StepInputs(
            snapshot["stepId"],
            snapshot.get("attempt", 1),
            snapshot.get("loopIndex"),
            snapshot.get("tokens"),
        )
        given, output = snapshot.get("inputSnapshot"), snapshot.get("outputSnapshot")
        prompt = output.get(RENDERED_PROMPT) if isinstance(output, Mapping) else None
        model = snapshot.get("modelUsed") or ""
        _add_input(step, given)
        if not step.inputs and prompt is not None:
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            read = tuple(map(message_of, messages))
            step.inputs.append(ModelInput(1, model, read, note=_RENDERED))
        if not step.inputs:
            step.note = "the service has no prompt of this step: it may call no model"
        if snapshot.get("status") == "skipped":
            step.note = "this step was skipped"
        steps.append(step)
    return _noted(steps)


def _model_input(number: int, value: Mapping[str, Any]) -> ModelInput:
    """Read the input of a step that calls a model, as docs/wire.md defines it ("Model inputs")."""
    sent, given = value.get("request"), value["messages"]
    model, note = str(value.get("model") or ""), ""
    if isinstance(sent, Mapping):
        settings = dict(sent)
        if model.endswith(f":{settings.get('model')}"):
            del settings["model"]
    else:
        note = _OLD
        settings = {name: value[name] for name in ("temperature",) if name in value}
    listed = settings.pop("messages", given)
    messages = [
        given[each] if isinstance(each, int) and 0 <= each < len(given) else each
        for each in (listed if isinstance(listed, list) else given)
    ]
    if settings.get("system"):
        messages.insert(0, {"role": "system", "content": settings.pop("system")})
    tools = settings.pop("tools", value.get("tools")) or ()
    schema = None
    for name in _SCHEMAS:
        schema = settings.pop(name, None) or schema
    return ModelInput(
        number,
        model,
        tuple(map(message_of, messages)),
        tuple(tools) if isinstance(tools, (list, tuple)) else (tools,),
        schema,
        settings,
        note,
    )
