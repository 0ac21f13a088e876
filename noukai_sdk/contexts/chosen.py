"""Read which calls and steps a user means: ``3``, ``3/score``, ``2..3``, ``2..3/score``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .model_inputs import CallInputs

_FORM = re.compile(r"([1-9][0-9]{0,8})(?:/(.+?))?(?:\.\.([1-9][0-9]{0,8})(?:/(.+))?)?", re.DOTALL)


@dataclass(frozen=True)
class ChosenCall:
    """A call by its number, from 1, and one of its steps; None for all."""

    number: int
    step: str | None = None


def read_choice(text: str) -> tuple[ChosenCall, ...]:
    """Return the call, or the two calls to compare. A step after the second call is meant for both.

    Raises:
        ValueError: The text has another form.

    Example:
        >>> read_choice("2..3/score")
        (ChosenCall(number=2, step='score'), ChosenCall(number=3, step='score'))
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not N, N/STEP, N..M or N..M/STEP, such as 3 or 2..3/score")
    number, step, other, other_step = match.groups()
    if other is None:
        return (ChosenCall(int(number), step),)
    return ChosenCall(int(number), step or other_step), ChosenCall(int(other), other_step or step)


def with_step(call: CallInputs, step: str | None) -> CallInputs:
    """Return the call with the attempts of one step alone; with all its steps for None.

    Raises:
        LookupError: The call has no such step. The message names those that it has.
    """
    if step is None:
        return call
    steps = [each for each in call.steps if step in (each.id, each.label, each.outer)]
    if not steps:
        raise LookupError(
            f"call {call.number} has no step {step!r}: {_names([each.label for each in call.steps])}"
        )
    return replace(call, steps=steps)


def _names(labels: Sequence[str]) -> str:
    return (
        f"its steps are {', '.join(dict.fromkeys(labels))}"
        if labels
        else "no steps of it were kept"
    )
