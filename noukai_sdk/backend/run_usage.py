"""What a run took: its time, its steps, their tokens and cost, for the caller of ``execute``."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from .capture import keeps_steps

Json = dict[str, Any]


def step_usage(
    step_id: str, duration_ms: float | None, tokens: Json | None, cost_usd: str | None
) -> Json:
    """Return what one finished step took. Tokens and cost are left out if there are none."""
    usage: Json = {
        "stepId": step_id,
        "durationMs": None if duration_ms is None else round(duration_ms),
    }
    if tokens:
        usage["tokens"] = tokens
    if cost_usd is not None:
        usage["costUsd"] = cost_usd
    return usage


def run_usage(
    started_at: int, completed_at: int | None, steps: Sequence[Json], *, mode: str
) -> Json:
    """Return what a run with these finished steps took: in a mode that keeps no steps, its time alone.

    Times are microseconds since 1970.
    """
    usage: Json = {}
    if completed_at is not None:
        usage["durationMs"] = round((completed_at - started_at) / 1000)
    if not keeps_steps(mode):
        return usage
    counted = [step["tokens"] for step in steps if "tokens" in step]
    if counted:
        names = ("prompt", "completion", "total")
        usage["tokens"] = {name: sum(tokens[name] for tokens in counted) for name in names}
    costs = [Decimal(step["costUsd"]) for step in steps if "costUsd" in step]
    if costs:
        usage["costUsd"] = f"{sum(costs):f}"
    return {**usage, "steps": list(steps)}
