"""What a call or a step took and returned, from its recording: the same for recorded and for live calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from ..models.traces import StepTrace
from ..replay.recording import Recording

Status = Literal["completed", "failed", "paused", "running", "abandoned"]


@dataclass(frozen=True)
class Measure:
    """What a call, or one step of it, took and returned.

    Attributes:
        output: The result; None if there is none.
        tokens_in, tokens_out: None if the service does not say.
        cost_usd: A decimal string; None if the price is not known.
        seconds: None if the time is not known.
        model: The models that were used.
        error: The message of a call that failed.
    """

    status: Status
    output: Any = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: str | None = None
    seconds: float | None = None
    model: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the measure as JSON values, in camelCase."""
        names = {"tokens_in": "tokensIn", "tokens_out": "tokensOut", "cost_usd": "costUsd"}
        return {names.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measure:
        """Return the measure that :meth:`as_dict` has written."""
        return cls(
            values.get("status") or "running",
            values.get("output"),
            values.get("tokensIn"),
            values.get("tokensOut"),
            values.get("costUsd"),
            values.get("seconds"),
            values.get("model"),
            values.get("error"),
        )


@dataclass
class _Step:
    """A finished step, from an event, a result or a trace."""

    step_id: str
    output: Any = None
    prompt: int | None = None
    completion: int | None = None
    cost_usd: str | None = None
    milliseconds: float | None = None
    model: str | None = None
    was_skipped: bool = False


def measure(
    recording: Recording, step: str | None = None, trace: Sequence[StepTrace] = ()
) -> Measure:
    """Return what a call took and returned.

    Args:
        recording: The call.
        step: Measure this step alone.
        trace: The steps of its run, if they were read: the response of a call need not tell them.
    """
    steps = [*_from_events(recording.events)] or [*_from_trace(trace)] or [*_from_result(recording)]
    status, error = _status(recording)
    output, seconds = recording.output, _seconds(recording)
    if step is not None:
        steps = [each for each in steps if each.step_id == step]
        output = steps[-1].output if steps else None
        took = [each.milliseconds for each in steps if each.milliseconds is not None]
        seconds = sum(took) / 1000 if took else None
    return Measure(
        status,
        output,
        _sum(each.prompt for each in steps),
        _sum(each.completion for each in steps),
        _cost(each.cost_usd for each in steps),
        seconds,
        ", ".join(dict.fromkeys(each.model for each in steps if each.model)) or None,
        error,
    )


def step_outputs(recording: Recording) -> dict[str, Any]:
    """Return the outputs of the steps that have completed, as far as the recording has events."""
    return {
        each.step_id: each.output for each in _from_events(recording.events) if not each.was_skipped
    }


def model_steps(recording: Recording) -> list[str]:
    """Return the ids of the steps that called a model, as far as the recording tells."""
    steps = [*_from_events(recording.events)] or [*_from_result(recording)]
    found = [each.step_id for each in steps if each.model or each.prompt is not None]
    # A step that failed has no event at its end.
    found += [
        event["stepId"]
        for event in recording.events
        if event.get("eventType") == "step_input" and _model_of(event) and event.get("stepId")
    ]
    return list(dict.fromkeys(found))


def _from_events(events: Sequence[Mapping[str, Any]]) -> Iterator[_Step]:
    models: dict[str, str] = {}
    for event in events:
        step_id = event.get("stepId")
        if not isinstance(step_id, str):
            continue
        if event.get("eventType") == "step_input" and (model := _model_of(event)):
            models[step_id] = model
        elif event.get("eventType") == "step_completed":
            yield _step(event, event.get("output"), models.get(step_id))


def _from_result(recording: Recording) -> Iterator[_Step]:
    result = recording.result or {}
    for each in result.get("steps") or ():
        if isinstance(each, Mapping) and isinstance(each.get("stepId"), str):
            yield _step(each, None, None)


def _step(values: Mapping[str, Any], output: Any, model: str | None) -> _Step:
    tokens = values.get("tokens") or {}
    return _Step(
        str(values["stepId"]),
        output,
        tokens.get("prompt"),
        tokens.get("completion"),
        values.get("costUsd"),
        values.get("durationMs"),
        model,
        bool(values.get("skipped")),
    )


def _from_trace(trace: Sequence[StepTrace]) -> Iterator[_Step]:
    # The items of a loop have the models.
    models = {each.step_id: each.model_used for each in trace if each.model_used}
    for each in trace:
        if each.status == "completed" and each.loop_index is None:
            tokens = each.tokens
            output = each.output_context
            # A service wraps what is not an object.
            if isinstance(output, dict) and output.keys() == {"output"}:
                output = output["output"]
            yield _Step(
                each.step_id,
                output,
                None if tokens is None else tokens.prompt,
                None if tokens is None else tokens.completion,
                each.cost_usd,
                each.duration_ms,
                models.get(each.step_id),
            )


def _model_of(event: Mapping[str, Any]) -> str | None:
    data = event.get("inputData")
    if not isinstance(data, Mapping) or "messages" not in data:
        return None
    model = data.get("model")
    return model if isinstance(model, str) else None


def _status(recording: Recording) -> tuple[Status, str | None]:
    ends = [event for event in recording.events if event.get("eventType") == "step_error"]
    last = recording.statuses[-1] if recording.statuses else {}
    error = recording.error.message if recording.error is not None else None
    if error is None and last.get("status") == "failed":
        error = _message(last.get("error"))
    elif error is None and ends and recording.events[-1] is ends[-1]:
        error = _message(ends[-1].get("error"))
    if error is not None or (recording.result or {}).get("status") == "failed":
        return "failed", error
    if recording.abandoned:
        return "abandoned", None
    if (recording.result or {}).get("status") == "completed" or last.get("status") == "completed":
        return "completed", None
    if any(event.get("eventType") == "flow_completed" for event in recording.events):
        return "completed", None
    return ("paused" if recording.rounds else "running"), None


def _message(error: Any) -> str:
    if isinstance(error, Mapping):
        return str(error.get("message") or error.get("code") or "it failed")
    return str(error or "it failed")


def _seconds(recording: Recording) -> float | None:
    took = (recording.result or {}).get("durationMs")
    if isinstance(took, int | float):
        return took / 1000
    if recording.started_at is None or recording.completed_at is None:
        return None
    # A job is submitted at once, and takes its time afterwards.
    return None if recording.statuses else round(recording.seconds, 6)


def decimal_of(text: str | None) -> Decimal | None:
    """Return the number of a decimal string; None if it is not one."""
    try:
        return None if text is None else Decimal(str(text))
    except InvalidOperation:
        return None


def _sum(counts: Iterator[int | None]) -> int | None:
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known else None


def _cost(costs: Iterator[str | None]) -> str | None:
    known = [cost for each in costs if (cost := decimal_of(each)) is not None]
    return f"{sum(known, Decimal(0)):f}" if known else None
