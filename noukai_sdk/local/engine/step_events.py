"""Step events as the engine gives them: the wire's, with what only the engine knows."""

from __future__ import annotations

from ...models import events


class StepInput(events.StepInput):
    """``loop_index`` tells the item of a loop, counted from 0; None outside of one."""

    loop_index: int | None = None


class StepOutput(events.StepOutput):
    """``loop_index`` tells the item of a loop, counted from 0; None outside of one."""

    loop_index: int | None = None


class StepCompleted(events.StepCompleted):
    """``skipped`` is true for a step that a condition left out; its output is None."""

    skipped: bool | None = None
