"""What a node has used of its model, through all attempts, tool rounds and items of a loop."""

from __future__ import annotations

from decimal import Decimal

from ...models.events import Tokens
from ..llm.prices import cost_usd, decimal_text


class Usage:
    """Adds up tokens.

    Args:
        tokens: What was used before, as :attr:`as_dict` gave it.
    """

    def __init__(self, tokens: dict[str, int] | None = None) -> None:
        self.model: str | None = None
        self.tokens: Tokens | None = Tokens(**tokens) if tokens else None

    def add(self, model: str, tokens: Tokens | None) -> None:
        """One more answer of ``model``."""
        self.model = model
        if tokens is not None:
            self.tokens = plus(self.tokens, tokens)

    @property
    def cost_usd(self) -> str | None:
        """US dollars as a decimal string; None without a model, or where its price is unknown."""
        return None if self.model is None else cost_usd(self.model, self.tokens)

    @property
    def as_dict(self) -> dict[str, int] | None:
        """The tokens as JSON values."""
        return self.tokens.model_dump(exclude_none=True) if self.tokens else None


def plus(one: Tokens | None, other: Tokens | None) -> Tokens | None:
    """The sum of two counts; what neither of them counts stays None."""
    if one is None or other is None:
        return one or other
    return Tokens(
        prompt=_sum(one.prompt, other.prompt),
        completion=_sum(one.completion, other.completion),
        total=_sum(one.total, other.total),
    )


def total_cost(costs: list[str]) -> str | None:
    """The sum of decimal strings, None for none."""
    return decimal_text(sum(map(Decimal, costs), Decimal(0))) if costs else None


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
