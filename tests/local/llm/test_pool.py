from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import LlmConfigError
from noukai_sdk.local.llm.pool import LoopPools, ModelPool
from tests.support.engine import FakeModel

pytestmark = pytest.mark.anyio


async def test_pool_opens_each_model_once_until_closed() -> None:
    models: list[FakeModel] = []

    def open_model(spec: str) -> FakeModel:
        models.append(FakeModel(name=spec))
        return models[-1]

    pool = ModelPool(open_model)
    assert await pool.get("a") is await pool.get("a")
    assert (await pool.get("b")).name == "b"
    await pool.aclose()
    await pool.aclose()
    assert [model.closed for model in models] == [1, 1]
    assert await pool.get("a") is models[2]


async def test_pool_opens_configurations_and_rejects_unknown_specs() -> None:
    pool = ModelPool()
    assert await pool.get(LlmConfig.offline()) is await pool.get(LlmConfig.offline())
    assert (await pool.get("offline")).name == "offline"
    with pytest.raises(LlmConfigError, match="nonesuch"):
        await pool.get("nonesuch")
    await pool.aclose()


async def test_pool_asked_by_many_tasks_opens_a_model_once_in_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []

    def open_model(spec: str) -> FakeModel:
        threads.append(threading.get_ident())
        return FakeModel(name=spec)

    monkeypatch.setattr("noukai_sdk.local.llm.providers.open_model", open_model)
    pool = ModelPool()
    models: list[object] = []

    async def use() -> None:
        models.append(await pool.get("fake"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(use)
    assert len(set(map(id, models))) == len(threads) == 1
    assert threads != [threading.get_ident()]


async def test_each_loop_has_its_own_pool_until_it_ends() -> None:
    pools = LoopPools()
    here = await pools.get()
    assert await pools.get() is here
    model = FakeModel()
    opened: list[ModelPool] = []

    async def use_elsewhere() -> None:
        pool = await pools.get()
        pool._models["fake"] = model
        opened.append(pool)

    await anyio.to_thread.run_sync(lambda: asyncio.run(use_elsewhere()))
    assert opened[0] is not here
    assert model.closed == 1
    await pools.aclose()
    await pools.aclose()
    assert await pools.get() is not here
    await pools.aclose()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_pool_on_trio_is_closed_by_hand() -> None:
    pools = LoopPools()
    model = FakeModel()
    (await pools.get())._models["fake"] = model
    await pools.aclose()
    assert model.closed == 1
