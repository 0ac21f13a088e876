"""What an answer costs, estimated from list prices."""

from __future__ import annotations

import re
from decimal import Decimal

from ...models.events import Tokens

# US dollars for a million tokens, prompt and completion. Source: openai.com/api/pricing and
# claude.com/pricing as collected in github.com/simonw/llm-prices, read on 2026-11-20. Surcharges for
# long prompts and discounts for cached prompts and batches are not counted.
_PRICES: dict[str, tuple[str, str]] = {
    "openai:gpt-4.1": ("2", "8"),
    "openai:gpt-4.1-mini": ("0.4", "1.6"),
    "openai:gpt-4.1-nano": ("0.1", "0.4"),
    "openai:gpt-4o": ("2.5", "10"),
    "openai:gpt-4o-mini": ("0.15", "0.6"),
    "openai:gpt-5": ("1.25", "10"),
    "openai:gpt-5-mini": ("0.25", "2"),
    "openai:gpt-5-nano": ("0.05", "0.4"),
    "openai:gpt-5-pro": ("15", "120"),
    "openai:gpt-5.1": ("1.25", "10"),
    "openai:gpt-5.2": ("1.75", "14"),
    "openai:gpt-5.4": ("2.5", "15"),
    "openai:gpt-5.4-mini": ("0.75", "4.5"),
    "openai:gpt-5.4-nano": ("0.2", "1.25"),
    "openai:gpt-5.5": ("5", "30"),
    "openai:o3-mini": ("1.1", "4.4"),
    "openai:o4-mini": ("1.1", "4.4"),
    "openai:text-embedding-3-large": ("0.13", "0"),
    "openai:text-embedding-3-small": ("0.02", "0"),
    "anthropic:claude-haiku-4-5": ("1", "5"),
    "anthropic:claude-opus-4-1": ("15", "75"),
    "anthropic:claude-opus-4-5": ("5", "25"),
    "anthropic:claude-opus-4-6": ("5", "25"),
    "anthropic:claude-opus-4-7": ("5", "25"),
    "anthropic:claude-opus-4-8": ("5", "25"),
    "anthropic:claude-opus-5": ("5", "25"),
    "anthropic:claude-opus-5-5": ("4", "20"),
    "anthropic:claude-sonnet-4-5": ("3", "15"),
    "anthropic:claude-sonnet-5": ("2", "10"),
    "anthropic:claude-sonnet-5-5": ("2", "10"),
}
_FREE = ("offline", "smollm2", "ollama")
_DATED = re.compile(r"-(?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$")
_MILLION = Decimal(1_000_000)


def cost_usd(model: str, tokens: Tokens | None) -> str | None:
    """What these tokens cost with this model.

    Args:
        model: As ``open_model`` takes it; a date at the end of the name does not matter.
        tokens: What the provider counted.

    Returns:
        US dollars as a decimal string, ``"0"`` for models that run on this machine, None where the
        model's price or the count is unknown.

    Example:
        >>> cost_usd("openai:gpt-4o-mini-2024-07-18", Tokens(prompt=1000, completion=100))
        '0.00021'
    """
    if model.partition(":")[0] in _FREE:
        return "0"
    price = _PRICES.get(_DATED.sub("", model))
    if price is None or tokens is None:
        return None
    prompt, completion = (Decimal(part) for part in price)
    cost = (tokens.prompt or 0) * prompt + (tokens.completion or 0) * completion
    return decimal_text(cost / _MILLION)


def decimal_text(amount: Decimal) -> str:
    """An amount without exponent and without zeros at its end, such as ``"0.00021"``."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
