"""Limit what a run renders, receives and emits, for services that store it.

Loops and templates multiply their input: with 4,000 items that each repeat a message of 8 kB, a request of
16 kB makes 400 MB of events and steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from ...errors import FlowExecutionError
from .state import RunState

# What is stored of an event, or of a step, besides its input and output: ids, times, names of fields.
_OVERHEAD = 200


@dataclass(frozen=True)
class SizeLimits:
    """Limits in bytes, of JSON in UTF-8.

    Attributes:
        max_prompt_bytes: The rendered input of a step: the messages that a model gets, or the
            arguments of a function; in a loop, of one item.
        max_output_bytes: The output of a step.
        max_run_bytes: Everything that a run emits, each input and output as often as it is stored.
    """

    max_prompt_bytes: int = 4 * 1024 * 1024
    max_output_bytes: int = 4 * 1024 * 1024
    max_run_bytes: int = 64 * 1024 * 1024


class Budget:
    """What is left of the limits for one run. ``state.stored_bytes`` counts over its pauses."""

    def __init__(self, limits: SizeLimits, state: RunState) -> None:
        self.limits = limits
        self._state = state

    def take_input(self, step_id: str, value: Any) -> None:
        """Count the rendered input of a step. It is stored as an event and with the step.

        Raises:
            FlowExecutionError: ``PROMPT_TOO_LARGE`` or ``RUN_TOO_LARGE``, as in the other methods.
        """
        size = size_of(value)
        if size > self.limits.max_prompt_bytes:
            message = (
                f"the input of step {step_id!r} has {size} bytes, more than the limit of "
                f"{self.limits.max_prompt_bytes}"
            )
            raise FlowExecutionError(message, code="PROMPT_TOO_LARGE")
        self.take(2 * (size + _OVERHEAD))

    def take_chunk(self, text: str) -> None:
        """Count a chunk of output, which is stored as an event."""
        self.take(len(text) + _OVERHEAD)

    def check_output(self, step_id: str, size: int) -> None:
        """Raise FlowExecutionError (``OUTPUT_TOO_LARGE``) if an output, so far, is too large."""
        if size > self.limits.max_output_bytes:
            message = (
                f"the output of step {step_id!r} has more than {self.limits.max_output_bytes} bytes"
            )
            raise FlowExecutionError(message, code="OUTPUT_TOO_LARGE")

    def take_output(self, step_id: str, value: Any, copies: int) -> None:
        """Count an output that is stored ``copies`` times."""
        size = size_of(value)
        self.check_output(step_id, size)
        self.take(copies * (size + _OVERHEAD))

    def take(self, size: int) -> None:
        """Count bytes that are stored."""
        self._state.stored_bytes += size
        limit = self.limits.max_run_bytes
        if self._state.stored_bytes > limit:
            message = f"the inputs and outputs of this run have more than {limit} bytes in all"
            raise FlowExecutionError(message, code="RUN_TOO_LARGE")


def size_of(value: Any) -> int:
    """Return the size of a JSON value in bytes."""
    try:
        return len(to_json(value, inf_nan_mode="null"))
    except (PydanticSerializationError, UnicodeError):
        # Half of a surrogate pair.
        return len(json.dumps(value, ensure_ascii=False))
