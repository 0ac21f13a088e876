"""Estimate the cost of a response from list prices.

The prices are those that the package genai-prices bundles: it is kept by others, comes with the extras
``openai`` and ``anthropic``, and is never asked to download newer prices. Discounts for cached prompts
and for batches are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache

from ...models.events import TokenBreakdown

_LOCAL = ("offline", "smollm2", "ollama")
_PRICED = ("openai", "anthropic")

Price = Callable[[int, int], Decimal]


def cost_usd(model: str, tokens: TokenBreakdown | None) -> str | None:
    """Estimate the cost of these tokens.

    Args:
        model: The model's name as in ``open_model``; a date at its end does not matter.
        tokens: The provider's count.

    Returns:
        US dollars as a decimal string, ``"0"`` for models that run on this machine, None if the
        model's price or the count is unknown, or genai-prices is not installed.

    Example:
        >>> cost_usd("openai:gpt-4o-mini-2024-07-18", TokenBreakdown(prompt=1000, completion=100))
        '0.00021'
    """
    if model.partition(":")[0] in _LOCAL:
        return "0"
    price = _price(model)
    if price is None or tokens is None:
        return None
    return decimal_text(price(tokens.prompt or 0, tokens.completion or 0))


def decimal_text(amount: Decimal) -> str:
    """Write an amount without an exponent and trailing zeros, such as ``"0.00021"``."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@lru_cache(maxsize=256)
def _price(model: str) -> Price | None:
    """Return the price of prompt and completion tokens; None if it is unknown.

    A lookup takes 0.1 ms, as long as everything else that we add to a call, so that it is kept.
    """
    provider, _, name = model.partition(":")
    if provider not in _PRICED:
        return None
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None

    def calculate(prompt: int, completion: int) -> Decimal:
        usage = Usage(input_tokens=prompt, output_tokens=completion)
        return calc_price(usage, name, provider_id=provider).total_price

    try:
        prices = calc_price(Usage(), name, provider_id=provider).model_price
    except LookupError:
        return None
    prompt_price, completion_price = prices.input_mtok, prices.output_mtok or Decimal(0)
    if not isinstance(prompt_price, Decimal) or not isinstance(completion_price, Decimal):
        # This model costs more per token for long prompts.
        return calculate
    return lambda prompt, completion: (
        (prompt * prompt_price + completion * completion_price) / Decimal(1_000_000)
    )
