from __future__ import annotations

import pytest

from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import LlmConfigError
from noukai_sdk.local.llm.pool import ModelPool
from tests.support.engine import FakeModel

pytestmark = pytest.mark.anyio


async def test_pool_opens_each_model_once_until_closed() -> None:
    models: list[FakeModel] = []

    def open_model(spec: str) -> FakeModel:
        models.append(FakeModel(name=spec))
        return models[-1]

    pool = ModelPool(open_model)
    assert pool.get("a") is pool.get("a")
    assert pool.get("b").name == "b"
    await pool.aclose()
    await pool.aclose()
    assert [model.closed for model in models] == [1, 1]
    assert pool.get("a") is models[2]


async def test_pool_opens_configurations_and_rejects_unknown_specs() -> None:
    pool = ModelPool()
    assert pool.get(LlmConfig.offline()) is pool.get(LlmConfig.offline())
    assert pool.get("offline").name == "offline"
    with pytest.raises(LlmConfigError, match="nonesuch"):
        pool.get("nonesuch")
    await pool.aclose()
