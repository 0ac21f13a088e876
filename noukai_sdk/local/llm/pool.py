"""Open models by their spec, each opened once; one pool for each event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from weakref import WeakKeyDictionary

from anyio.lowlevel import current_token

from .chat import ChatModel
from .config import LlmConfig

Spec = str | LlmConfig


class ModelPool:
    """Gives the model of a spec or configuration, opened at first use and kept until ``aclose``.

    Args:
        open_model: Opens the model of a spec string; by default
            ``noukai_sdk.local.llm.providers.open_model``.

    Example:
        >>> ModelPool().get("offline").name
        'offline'
    """

    def __init__(self, open_model: Callable[[str], ChatModel] | None = None) -> None:
        self._open_model = open_model
        self._models: dict[Spec, ChatModel] = {}

    def get(self, spec: Spec) -> ChatModel:
        """The model of this spec.

        Raises:
            LlmConfigError: The spec names no model, or its key or library is missing.
        """
        model = self._models.get(spec)
        if model is None:
            model = self._models[spec] = self._open(spec)
        return model

    async def aclose(self) -> None:
        """Close every model. The pool opens them again where it is used again."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.aclose()

    def _open(self, spec: Spec) -> ChatModel:
        # Imported at first use: a provider's own library is not loaded before its model is.
        from .providers import open_config, open_model

        if isinstance(spec, LlmConfig):
            return open_config(spec)
        return (self._open_model or open_model)(spec)


class LoopPools:
    """A pool for each event loop that asks: connections belong to one.

    A loop of asyncio's closes its pool at its end; under trio, close it by hand.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: WeakKeyDictionary[object, tuple[ModelPool, AsyncGenerator[None, None] | None]]
        self._kept = WeakKeyDictionary()

    async def get(self) -> ModelPool:
        """The running loop's pool."""
        loop = current_token().native_token
        with self._lock:
            kept = self._kept.get(loop)
        if kept is None:
            pool = ModelPool()
            closing = _closing(pool) if isinstance(loop, asyncio.AbstractEventLoop) else None
            kept = pool, closing
            with self._lock:
                self._kept[loop] = kept
            if closing is not None:
                await anext(closing)
        return kept[0]

    async def aclose(self) -> None:
        """Close the running loop's pool."""
        with self._lock:
            kept = self._kept.pop(current_token().native_token, None)
        if kept is not None:
            pool, closing = kept
            await (pool.aclose() if closing is None else closing.aclose())


async def _closing(pool: ModelPool) -> AsyncGenerator[None, None]:
    # A loop closes the generators that it has seen when it ends: the one hook there is for that.
    try:
        yield
    finally:
        await pool.aclose()
