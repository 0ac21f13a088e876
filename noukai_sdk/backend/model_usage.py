"""Count how often runs call models: this shows that a replay calls none."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from ..local.llm.chat import ChatDelta, ChatModel, ChatRequest
from ..local.llm.pool import ModelPool
from ..local.llm.sent_requests import body_of
from .encoding import from_column
from .store.writer import Changes

_REMEMBERED = 4096


@dataclass
class Stats:
    """Counters since the backend was started.

    Attributes:
        model_calls: Turns requested from models.
        executions: Runs begun.
        runs: Runs that ended here, by status.
        steps: Steps that ended here, by status.
        tokens: Tokens of these steps, by kind: ``prompt`` and ``completion``.
    """

    model_calls: int = 0
    executions: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    _ended: dict[str, None] = field(default_factory=dict)

    def count(self, changes: Changes) -> Changes:
        """Count what ended in these changes, and return them."""
        for run in changes.executions:
            # A run can be written again after its end, soon.
            if run["completed_at"] is not None and run["id"] not in self._ended:
                self.runs[run["status"]] += 1
                self._ended[run["id"]] = None
                if len(self._ended) > _REMEMBERED:
                    del self._ended[next(iter(self._ended))]
        for step in changes.steps:
            if step["loop_index"] is None:
                self.steps[step["status"]] += 1
                tokens = from_column(step["tokens"]) or {}
                self.tokens["prompt"] += tokens.get("prompt") or 0
                self.tokens["completion"] += tokens.get("completion") or 0
        return changes


class CountedModels:
    """A pool of models whose calls are counted.

    Args:
        pool: The models.
        stats: The counters.
        check: Called with the organisation of a run that wants a model; raises if it must not have one.
    """

    def __init__(
        self,
        pool: ModelPool,
        stats: Stats,
        check: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._pool = pool
        self._stats = stats
        self._check = check
        self._org: str | None = None

    def of(self, org: str) -> CountedModels:
        """Return the same models for the runs of an organisation."""
        models = copy(self)
        models._org = org
        return models

    async def get(self, spec: str) -> ChatModel:
        """Return the model of this spec. Raises as the pool does."""
        if self._check is not None and self._org is not None:
            await self._check(self._org)
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

    def body(self, request: ChatRequest) -> dict[str, Any] | None:
        """Return the body of the request, for the trace; None if the model sends none."""
        return body_of(self._model, request)

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
