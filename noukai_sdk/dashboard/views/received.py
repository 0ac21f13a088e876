"""What the model of a step received, request by request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...contexts.call_changes import tool_name
from ...contexts.model_inputs import ModelInput, StepInputs, shared_messages
from .messages import Turn, turns
from .recorded_values import Named, Parts


@dataclass(frozen=True)
class Received:
    """A request to a model.

    Attributes:
        number, of: Its number among the requests of the attempt.
        model: Empty if it is that of the request before.
        values: Settings, tools and the schema of the output; none if they are those of the request before.
        same: How many messages it shares with the request before. They are not shown again.
        turns: The other messages.
        count, size: How many messages there are in all, and their characters.
        note: Why something is missing.
    """

    number: int
    of: int
    model: str
    values: tuple[Named, ...]
    same: int
    turns: tuple[Turn, ...]
    count: int
    size: int
    note: str


def received_of(step: StepInputs, parts: Parts, name: str) -> tuple[Received, ...]:
    """Return the requests of a step, with the names of their texts below ``name``."""
    found: list[Received] = []
    before: ModelInput | None = None
    for request in step.inputs:
        same = 0 if before is None else shared_messages(before, request)
        has_new_values = before is None or before.around != request.around
        grows = before is None or same == len(before.messages)
        place = f"{name}.prompt" if grows else f"{name}.requests.{request.number}"
        shown = [{"role": each.role, **each.value} for each in request.messages[same:]]
        found.append(
            Received(
                request.number,
                len(step.inputs),
                request.model if has_new_values else "",
                tuple(_values(request, parts, f"{name}.received.{request.number}"))
                if has_new_values
                else (),
                same,
                turns(shown, parts, place, same),
                len(request.messages),
                request.size,
                request.note,
            )
        )
        before = request
    return tuple(found)


def _values(request: ModelInput, parts: Parts, name: str) -> Iterator[Named]:
    for key, value in request.settings.items():
        yield Named(key, parts.add(f"{name}.settings.{key}", value))
    for at, tool in enumerate(request.tools):
        yield Named(f"tool {tool_name(tool)}", parts.add(f"{name}.tools.{at}", tool))
    if request.schema is not None:
        yield Named("output schema", parts.add(f"{name}.schema", request.schema))
