"""One call of a session, whole: request, steps with their prompts, tool rounds, result."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...contexts.model_inputs import StepInputs, call_inputs
from ...models.sessions import RecordedError, StepSnapshot
from ...replay.recording import INPUT_FIELDS, Recording
from ...replay.sources import RENDERED_PROMPT
from .messages import ToolCall, Turn, results_by_id, tool_calls, turns
from .received import Received, received_of
from .recorded_values import Named, Parts, Value
from .times import milliseconds_between, read_time
from .waterfall import Bar, axis

Event = Mapping[str, Any]

_INDEX = re.compile(r"\[([0-9]{1,9})\]")


@dataclass
class StepView:
    """An attempt of a step.

    Attributes:
        prompt: The rendered prompt as turns; empty if the step calls no model.
        received: Each request to its model, as far as that is known.
        agents: The requests of the agents in its workflow, by their paths.
        settings: What else was sent to the model.
        input: The input of a step that calls no model.
        streamed: The number of parts in which the output came; 0 if it was not streamed.
        bar: When it ran, on the time axis of the call; None if that is not known.
        is_result: The output is the result of the call, which is not shown again.
    """

    id: str
    title: str
    status: str
    attempt: int = 1
    loop_index: int | None = None
    model: str = ""
    tokens: Mapping[str, Any] | None = None
    cost: str | None = None
    milliseconds: float | None = None
    prompt: tuple[Turn, ...] = ()
    received: tuple[Received, ...] = ()
    agents: dict[str, tuple[Received, ...]] = field(default_factory=dict)
    settings: tuple[Named, ...] = ()
    input: Value | None = None
    output: Value | None = None
    streamed: int = 0
    bar: Bar | None = None
    is_result: bool = False
    error: str = ""


@dataclass
class CallView:
    """A call.

    Attributes:
        turns: The messages of the request, if it has several.
        inputs: The other parts of the request.
        note: Why something is missing.
        raw: All that is known of the call, as JSON.
    """

    recording: Recording
    parts: Parts
    turns: tuple[Turn, ...] = ()
    inputs: tuple[Named, ...] = ()
    steps: list[StepView] = field(default_factory=list)
    rounds: list[tuple[ToolCall, ...]] = field(default_factory=list)
    result: Value | None = None
    error: str = ""
    note: str = ""
    is_in_progress: bool = False

    @property
    def has_received(self) -> bool:
        """Whether it is known what the models received."""
        return any(step.received or step.agents for step in self.steps)


def call_view(
    recording: Recording,
    snapshots: Sequence[StepSnapshot] = (),
    *,
    limit: int | None,
    is_in_progress: bool = False,
) -> CallView:
    """Return a call as the page shows it.

    Args:
        recording: The call.
        snapshots: Its steps, if the source is a session of the service.
        limit: Characters of a text that are shown; None for all.
        is_in_progress: The call has not ended.
    """
    parts = Parts(limit)
    view = CallView(recording, parts, is_in_progress=is_in_progress)
    request = recording.request or {}
    view.turns = turns(request.get("messages"), parts, "messages")
    shown = ["message", *(name for name in INPUT_FIELDS if name != "message")]
    view.inputs = tuple(
        Named(name, parts.add(f"request.{name}", request[name]))
        for name in shown
        if request.get(name) not in (None, {}, []) and not (name == "messages" and view.turns)
    )
    view.steps = _steps(recording.events, snapshots, parts)
    _add_received(view.steps, call_inputs(0, recording, snapshots).steps, parts)
    view.rounds = [
        tool_calls(
            each.paused.get("toolCalls"),
            parts,
            f"rounds.{at}",
            results_by_id(each.tool_results),
        )
        for at, each in enumerate(recording.rounds)
    ]
    if recording.output is not None:
        view.result = parts.add("result", recording.output)
        for step in reversed(view.steps):
            if step.output is not None and step.output.whole == view.result.whole:
                step.is_result, view.result = True, None
                break
    if recording.error is not None:
        view.error = error_text(recording.error)
    view.note = _note(recording)
    return view


def _add_received(steps: Sequence[StepView], inputs: Sequence[StepInputs], parts: Parts) -> None:
    known = {(step.id, step.loop_index, step.attempt): at for at, step in enumerate(steps)}
    for number, each in enumerate(inputs):
        at = known.get((each.id, each.loop_index, each.attempt))
        if at is not None:
            steps[at].received = received_of(each, parts, f"steps.{at}")
        elif each.outer is not None:
            # Of an item or a round of the step, if it has some.
            index = _INDEX.match(each.id.removeprefix(each.outer))
            indexes = (int(index[1]), None) if index else (None,)
            places = [(each.outer, item, each.attempt) for item in indexes]
            at = next((known[place] for place in places if place in known), None)
            if at is not None:
                name = f"steps.{at}.agents.{number}"
                steps[at].agents[each.id] = received_of(each, parts, name)


def error_text(error: RecordedError) -> str:
    """Return an error as a text: status, code, message."""
    known = (str(error.status_code or ""), error.code or error.type or "")
    return ": ".join(filter(None, [" ".join(filter(None, known)), error.message]))


def _note(recording: Recording) -> str:
    if recording.unavailable:
        return f"Inputs and outputs are missing: {recording.unavailable}."
    if recording.abandoned:
        return (
            "Its caller stopped waiting: a timeout, a cancelled task, or a client that went away."
        )
    if recording.truncated:
        return "The service has cut some of the inputs or outputs."
    return ""


@dataclass
class _Streamed:
    """What the events tell of a step."""

    id: str
    loop_index: int | None
    name: str = ""
    input: Any = None
    chunks: list[Any] = field(default_factory=list)
    end: Event | None = None
    error: Any = None
    is_paused: bool = False

    @property
    def is_empty(self) -> bool:
        return self.end is None and not self.chunks and self.input is None and self.error is None


def _read_events(events: Sequence[Event]) -> dict[tuple[str, int | None], list[_Streamed]]:
    """Return the attempts of each step, in the order of the events."""
    found: dict[tuple[str, int | None], list[_Streamed]] = defaultdict(list)
    for event in events:
        step_id = event.get("stepId")
        kind = event.get("eventType")
        if step_id is None:
            continue
        index = event.get("loopIndex")
        key = (str(step_id), index if isinstance(index, int) else None)
        before = found[key][-1] if found[key] else None
        if before is None or (
            kind == "step_started" and not before.is_empty and not before.is_paused
        ):
            found[key].append(_Streamed(*key))
        step = found[key][-1]
        step.is_paused = kind == "step_paused_for_tool_calls"
        step.name = str(event.get("name") or step.name)
        if kind == "step_input":
            step.input = event.get("inputData")
        elif kind == "step_output":
            step.chunks.append(event.get("outputData"))
        elif kind == "step_completed":
            step.end = event
        elif kind == "step_error":
            step.error = event.get("error") or {"message": "the step failed"}
    return found


def _steps(
    events: Sequence[Event], snapshots: Sequence[StepSnapshot], parts: Parts
) -> list[StepView]:
    streamed = _read_events(events)
    if not snapshots:
        attempts = [each for of_step in streamed.values() for each in enumerate(of_step, 1)]
        views = [_step(None, each, parts, f"steps.{at}") for at, (_, each) in enumerate(attempts)]
        for view, (attempt, _) in zip(views, attempts, strict=True):
            view.attempt = attempt
        return views
    steps = []
    for at, snapshot in enumerate(snapshots):
        step_id, index = snapshot["stepId"], snapshot.get("loopIndex")
        of_step = streamed.get((step_id, index)) or streamed.get((step_id, None)) or []
        attempt = snapshot.get("attempt", 1)
        event = of_step[min(attempt, len(of_step)) - 1] if of_step else None
        steps.append(_step(snapshot, event, parts, f"steps.{at}"))
    _draw(steps, snapshots)
    return steps


def _draw(steps: Sequence[StepView], snapshots: Sequence[StepSnapshot]) -> None:
    """Put the steps on a time axis, if there are several."""
    starts = [read_time(each.get("startedAt")) for each in snapshots]
    ends = [read_time(each.get("completedAt")) for each in snapshots]
    first = min((start for start in starts if start is not None), default=None)
    if first is None or len(steps) < 2:
        return
    since = [
        tuple(None if time is None else (time - first).total_seconds() * 1000 for time in pair)
        for pair in zip(starts, ends, strict=True)
    ]
    drawn = axis([(start, end) for start, end in since])
    for step, (start, end) in zip(steps, since, strict=True):
        step.bar = drawn.bar(start, end)


def _step(
    snapshot: StepSnapshot | None, streamed: _Streamed | None, parts: Parts, name: str
) -> StepView:
    streamed = streamed or _Streamed("", None)
    end: Event = streamed.end or {}
    if snapshot is None:
        failed = streamed.error is not None
        status = "failed" if failed else "completed" if streamed.end is not None else "running"
        if end.get("skipped"):
            status = "skipped"
        view = StepView(streamed.id, streamed.name or streamed.id, status)
        view.loop_index, view.milliseconds = streamed.loop_index, end.get("durationMs")
        given, output, error = streamed.input, end.get("output"), streamed.error
    else:
        view = StepView(
            snapshot["stepId"],
            streamed.name or snapshot["stepId"],
            snapshot.get("status", "completed"),
            snapshot.get("attempt", 1),
            snapshot.get("loopIndex"),
            snapshot.get("modelUsed") or "",
        )
        view.milliseconds = snapshot.get("durationMs")
        if view.milliseconds is None:
            times = snapshot.get("startedAt"), snapshot.get("completedAt")
            view.milliseconds = milliseconds_between(*times)
        given, output = snapshot.get("inputSnapshot"), snapshot.get("outputSnapshot")
        error = snapshot.get("errorSnapshot")
    used = end.get("tokens") if snapshot is None else snapshot.get("tokens", end.get("tokens"))
    view.tokens = used if isinstance(used, Mapping) else None
    cost = end.get("costUsd") if snapshot is None else snapshot.get("costUsd", end.get("costUsd"))
    view.cost = None if cost is None else str(cost)
    prompt = None
    if snapshot is not None and isinstance(output, dict) and RENDERED_PROMPT in output:
        prompt = output[RENDERED_PROMPT]
        output = {key: value for key, value in output.items() if key != RENDERED_PROMPT}
    _add_input(view, given, prompt, parts, name)
    view.streamed = len(streamed.chunks)
    if output is None and streamed.chunks and view.status != "completed":
        # In progress, or failed on the way: what has come so far.
        is_text = all(isinstance(chunk, str) for chunk in streamed.chunks)
        output = "".join(streamed.chunks) if is_text else streamed.chunks
    if output is not None:
        view.output = parts.add(f"{name}.output", output)
    if error is not None:
        code = error.get("code") if isinstance(error, Mapping) else None
        message = error.get("message") if isinstance(error, Mapping) else error
        view.error = f"{code}: {message}" if code else str(message)
    return view


def _add_input(view: StepView, given: Any, prompt: Any, parts: Parts, name: str) -> None:
    """Show an input as the prompt that was sent to the model, if it is one."""
    if prompt is not None:
        view.prompt = turns(prompt, parts, f"{name}.prompt")
        if not view.prompt:
            view.prompt = (Turn("user", (parts.add(f"{name}.prompt", prompt),)),)
    elif isinstance(given, Mapping):
        view.prompt = turns(given.get("messages"), parts, f"{name}.prompt")
    if not isinstance(given, Mapping):
        if given is not None:
            view.input = parts.add(f"{name}.input", given)
        return
    if not view.prompt or prompt is not None:
        if given:
            view.input = parts.add(f"{name}.input", dict(given))
        return
    model = given.get("model")
    view.model = view.model or (model if isinstance(model, str) else "")
    view.settings = tuple(
        Named(key, parts.add(f"{name}.input.{key}", value))
        for key, value in given.items()
        if key not in ("messages", "model", "request") and value is not None
    )
