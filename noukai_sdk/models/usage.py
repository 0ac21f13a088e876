"""What a run and its steps took: tokens, cost and time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from .base import DecimalText, WireModel


class TokenBreakdown(WireModel):
    """Token counts of a step or a run.

    Attributes:
        cached: The part of ``prompt`` that the provider has read from its cache; None if it does not say.
    """

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int | None = None


class RunStep(WireModel):
    """A finished step of a run, without its input and output.

    Attributes:
        duration_ms: How long the step took, in milliseconds.
        tokens: None if the step called no model.
        cost_usd: Estimated cost in US dollars, a decimal string such as ``"0.001234"``.
    """

    step_id: str
    name: str | None = None
    duration_ms: int | float | None = None
    tokens: TokenBreakdown | None = None
    cost_usd: DecimalText | None = None


def sum_of_tokens(steps: Sequence[RunStep]) -> TokenBreakdown | None:
    """Return the tokens of all steps, None if none has any."""
    counted = [step.tokens for step in steps if step.tokens is not None]
    if not counted:
        return None
    sums = {}
    for name in TokenBreakdown.model_fields:
        counts = [value for tokens in counted if (value := getattr(tokens, name)) is not None]
        sums[name] = sum(counts) if counts else None
    return TokenBreakdown(**sums)


def sum_of_costs(steps: Sequence[RunStep]) -> str | None:
    """Return the cost of all steps, None if none is known."""
    costs = [Decimal(step.cost_usd) for step in steps if step.cost_usd is not None]
    return f"{sum(costs):f}" if costs else None
