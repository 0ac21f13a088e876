"""Estimate the cost of a response from list prices.

The prices are those that the package genai-prices bundles: it is kept by others, comes with the extras
``openai`` and ``anthropic``, and is never asked to download newer prices. Tokens that a provider has read
from its cache cost what they cost there; discounts for batches are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache

from ...models.events import TokenBreakdown
from .config import PRESETS

_LOCAL = ("offline", "smollm2", "ollama")
# By the names of genai-prices.
_PRICED = {name: name for name in ("openai", "anthropic", *PRESETS)}
_PRICED |= {"gemini": "google", "xai": "x-ai"}

Price = Callable[[int, int, int], Decimal]


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
    prompt = tokens.prompt or 0
    cached = min(tokens.cached or 0, prompt)
    return decimal_text(price(prompt, tokens.completion or 0, cached))


def decimal_text(amount: Decimal) -> str:
    """Write an amount without an exponent and trailing zeros, such as ``"0.00021"``."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@lru_cache(maxsize=256)
def _price(model: str) -> Price | None:
    """Return the price of prompt, completion and cached tokens; None if it is unknown.

    A lookup takes 0.1 ms, as long as everything else that we add to a call, so that it is kept.
    """
    provider, _, name = model.partition(":")
    provider_id = _PRICED.get(provider)
    if provider_id is None:
        return None
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None

    def calculate(prompt: int, completion: int, cached: int) -> Decimal:
        usage = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
        return calc_price(usage, name, provider_id=provider_id).total_price

    try:
        prices = calc_price(Usage(), name, provider_id=provider_id).model_price
    except LookupError:
        return None
    prompt_price, completion_price = prices.input_mtok, prices.output_mtok or Decimal(0)
    if not isinstance(prompt_price, Decimal) or not isinstance(completion_price, Decimal):
        # This model costs more per token for long prompts.
        return calculate
    cached_price = prices.cache_read_mtok or prompt_price
    if not isinstance(cached_price, Decimal):
        return calculate
    return lambda prompt, completion, cached: (
        ((prompt - cached) * prompt_price + completion * completion_price + cached * cached_price)
        / Decimal(1_000_000)
    )
