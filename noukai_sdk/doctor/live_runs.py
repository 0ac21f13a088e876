"""Compare two runs through the service, as far as the models returned the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .observation import MadeCall, Observation
from .run_comparison import Change, changes_of


def live_changes(one: Observation, other: Observation, ignore: Sequence[str] = ()) -> list[Change]:
    """Return what differs between two live runs through no fault of the models.

    The inputs of calls count up to the first call with another output, and the response if there is none.
    """
    same = _same_outputs(one.calls, other.calls)
    if same is None:
        return changes_of(one, other, ignore)
    return changes_of(_cut(one, same), _cut(other, same))


def _same_outputs(calls: Sequence[MadeCall], others: Sequence[MadeCall]) -> int | None:
    """Return the number of the first call whose output differs, None if there is none."""
    for number, (call, other) in enumerate(zip(calls, others, strict=False)):
        if call.lane != other.lane or call.input != other.input or call.output != other.output:
            return number
    return None


def _cut(observation: Observation, last: int) -> Observation:
    """Return the calls up to this one, without the response."""
    return replace(
        observation, calls=observation.calls[: last + 1], response=None, failure=None, refusal=None
    )
