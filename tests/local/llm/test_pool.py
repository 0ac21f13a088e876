from __future__ import annotations

import pytest

from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import LlmConfigError
from noukai_sdk.local.llm.pool import ModelPool
from tests.support.engine import FakeModel

pytestmark = pytest.mark.anyio


async def test_a_model_is_opened_once_until_the_pool_is_closed() -> None:
    opened: list[FakeModel] = []

    def open_model(spec: str) -> FakeModel:
        opened.append(FakeModel(name=spec))
        return opened[-1]

    pool = ModelPool(open_model)
    assert pool.get("a") is pool.get("a")
    assert pool.get("b").name == "b"
    await pool.aclose()
    await pool.aclose()
    assert [model.closed for model in opened] == [1, 1]
    assert pool.get("a") is opened[2]


async def test_configurations_open_models_too() -> None:
    pool = ModelPool()
    assert pool.get(LlmConfig.offline()).name == "offline"
    assert pool.get(LlmConfig.offline()) is pool.get(LlmConfig.offline())
    await pool.aclose()


async def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(LlmConfigError, match="nonesuch"):
        ModelPool().get("nonesuch")
