"""Count how often runs call models: this shows that a replay calls none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from ..local.llm.chat import ChatDelta, ChatModel, ChatRequest
from ..local.llm.pool import ModelPool


@dataclass
class Stats:
    """Counters since the backend was started.

    Attributes:
        model_calls: Turns requested from models.
        executions: Runs begun.
    """

    model_calls: int = 0
    executions: int = 0


class CountedModels:
    """A pool of models whose calls are counted."""

    def __init__(self, pool: ModelPool, stats: Stats) -> None:
        self._pool = pool
        self._stats = stats

    async def get(self, spec: str) -> ChatModel:
        """Return the model of this spec. Raises as the pool does."""
        return _CountedModel(await self._pool.get(spec), self._stats)

    async def aclose(self) -> None:
        """Close every model."""
        await self._pool.aclose()


class _CountedModel:
    """A model whose turns are counted."""

    def __init__(self, model: ChatModel, stats: Stats) -> None:
        self.name = model.name
        self._model = model
        self._stats = stats

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        self._stats.model_calls += 1
        return self._model.stream(request)

    async def answer(self, request: ChatRequest) -> ChatDelta:
        self._stats.model_calls += 1
        return await self._model.answer(request)

    async def warmup(self) -> None:
        await self._model.warmup()

    async def aclose(self) -> None:
        await self._model.aclose()
