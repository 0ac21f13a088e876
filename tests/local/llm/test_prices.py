"""Costs as decimal strings."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.llm.prices import cost_usd, decimal_text
from noukai_sdk.models.events import Tokens

TOKENS = Tokens(prompt=1_000_000, completion=2_000_000)


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("openai:gpt-4o-mini", "1.35"),
        ("openai:gpt-4o-mini-2024-07-18", "1.35"),
        ("anthropic:claude-haiku-4-5-20251001", "11"),
        ("anthropic:claude-haiku-4-5-latest", "11"),
        ("openai:text-embedding-3-small", "0.02"),
        ("offline", "0"),
        ("smollm2", "0"),
        ("ollama:llama3.2", "0"),
        ("openai:gpt-99", None),
        ("openai_compatible:gpt-4o-mini", None),
        ("azure:gpt-4o-mini", None),
        ("", None),
    ],
)
def test_the_price_of_a_model(model: str, cost: str | None) -> None:
    assert cost_usd(model, TOKENS) == cost


def test_without_a_count() -> None:
    assert cost_usd("openai:gpt-4o", None) is None
    assert cost_usd("offline", None) == "0"
    assert cost_usd("openai:gpt-4o", Tokens()) == "0"
    assert cost_usd("openai:gpt-4o", Tokens(prompt=1)) == "0.0000025"


@given(st.decimals(min_value=0, max_value=10**9, places=12))
def test_amounts_are_plain_decimals(amount: Decimal) -> None:
    text = decimal_text(amount)
    assert Decimal(text) == amount
    assert "E" not in text
    assert not text.endswith(".")
    assert "." not in text or not text.endswith("0")
