"""Costs as decimal strings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.llm import prices
from noukai_sdk.local.llm.prices import cost_usd, decimal_text
from noukai_sdk.models.events import TokenBreakdown

TOKENS = TokenBreakdown(prompt=1_000_000, completion=2_000_000)


@pytest.fixture
def empty_cache() -> Iterator[None]:
    prices._price.cache_clear()
    yield
    prices._price.cache_clear()


@pytest.mark.parametrize(
    ("model", "tokens", "cost"),
    [
        ("openai:gpt-4o-mini", TOKENS, "1.35"),
        ("openai:gpt-4o-mini-2024-07-18", TOKENS, "1.35"),
        ("anthropic:claude-haiku-4-5-20251001", TOKENS, "11"),
        ("anthropic:claude-haiku-4-5-latest", TOKENS, "11"),
        ("openai:text-embedding-3-small", TOKENS, "0.02"),
        ("offline", TOKENS, "0"),
        ("smollm2", TOKENS, "0"),
        ("ollama:llama3.2", TOKENS, "0"),
        ("openai:gpt-99", TOKENS, None),
        ("openai_compatible:gpt-4o-mini", TOKENS, None),
        ("azure:gpt-4o-mini", TOKENS, None),
        ("", TOKENS, None),
        ("openai:gpt-4o", None, None),
        ("offline", None, "0"),
        ("openai:gpt-4o", TokenBreakdown(), "0"),
        ("openai:gpt-4o", TokenBreakdown(prompt=1), "0.0000025"),
    ],
)
def test_cost_of_model_and_tokens(
    model: str, tokens: TokenBreakdown | None, cost: str | None
) -> None:
    assert cost_usd(model, tokens) == cost


@pytest.mark.usefixtures("empty_cache")
def test_cost_of_long_prompt_follows_the_price_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    from genai_prices import data_snapshot
    from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider, Tier, TieredPrices

    price = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(start=1000, price=Decimal(3))]),
        output_mtok=Decimal(10),
    )
    model = ModelInfo(id="long", match=ClauseEquals(equals="long"), prices=price)
    provider = Provider(id="openai", name="OpenAI", api_pattern="x", models=[model])
    snapshot = data_snapshot.DataSnapshot([provider], from_auto_update=False)
    monkeypatch.setattr(data_snapshot, "_custom_snapshot", snapshot)
    costs = [
        cost_usd("openai:long", TokenBreakdown(prompt=n, completion=100)) for n in (1000, 2000)
    ]
    assert costs == ["0.002", "0.007"]


@pytest.mark.usefixtures("empty_cache")
def test_cost_without_genai_prices_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert cost_usd("openai:gpt-4o-mini", TOKENS) is None
    assert cost_usd("offline", TOKENS) == "0"


@given(st.decimals(min_value=0, max_value=10**9, places=12))
def test_decimal_text_of_any_amount_is_plain(amount: Decimal) -> None:
    text = decimal_text(amount)
    assert Decimal(text) == amount
    assert "E" not in text
    assert not text.endswith(".")
    assert "." not in text or not text.endswith("0")
