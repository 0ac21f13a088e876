"""Open each model once by its spec; one pool for each event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token
from anyio.to_thread import run_sync

from .chat import ChatModel
from .config import LlmConfig
from .prices import cost_usd

Spec = str | LlmConfig


class ModelPool:
    """Open the model of a spec or configuration when it is first used, and keep it until ``aclose``.

    Args:
        open_model: Opens the model of a spec string, on the event loop. The default,
            ``noukai_sdk.local.llm.providers.open_model``, runs in a worker thread, because importing an
            official client takes up to a second.
    """

    def __init__(self, open_model: Callable[[str], ChatModel] | None = None) -> None:
        self._open_model = open_model
        self._models: dict[Spec, ChatModel] = {}
        self._opening = anyio.Lock()

    async def get(self, spec: Spec) -> ChatModel:
        """Return the model of this spec.

        Raises:
            LlmConfigError: The spec is not a known model, or its key or library is missing.
        """
        model = self._models.get(spec)
        if model is None:
            async with self._opening:
                model = self._models.get(spec)
                if model is None and isinstance(spec, str) and self._open_model is not None:
                    model = self._open_model(spec)
                elif model is None:
                    model = await run_sync(_open, spec, abandon_on_cancel=True)
                self._models[spec] = model
        return model

    async def aclose(self) -> None:
        """Close every model. The pool opens them again when they are used again."""
        models, self._models = self._models, {}
        for model in models.values():
            await model.aclose()


def _open(spec: Spec) -> ChatModel:
    # Imported here, so that a pool without models does not load the providers.
    from .providers import open_config, open_model

    model = open_config(spec) if isinstance(spec, LlmConfig) else open_model(spec)
    # The first price of a model is slow too: it imports genai-prices.
    cost_usd(model.name, None)
    return model


class LoopPools:
    """One pool per event loop, because connections belong to the loop that opened them.

    When an asyncio loop ends, its pool is closed. Under trio, call :meth:`aclose`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: WeakKeyDictionary[object, tuple[ModelPool, AsyncGenerator[None, None] | None]]
        self._pools = WeakKeyDictionary()

    async def get(self) -> ModelPool:
        """Return the running loop's pool."""
        loop = current_token().native_token
        with self._lock:
            entry = self._pools.get(loop)
        if entry is None:
            pool = ModelPool()
            closer = _closer(pool) if isinstance(loop, asyncio.AbstractEventLoop) else None
            entry = pool, closer
            with self._lock:
                self._pools[loop] = entry
            if closer is not None:
                await anext(closer)
        return entry[0]

    async def aclose(self) -> None:
        """Close the running loop's pool."""
        with self._lock:
            entry = self._pools.pop(current_token().native_token, None)
        if entry is not None:
            pool, closer = entry
            await (pool.aclose() if closer is None else closer.aclose())


async def _closer(pool: ModelPool) -> AsyncGenerator[None, None]:
    # An asyncio loop that ends closes the async generators that it has started: its only hook.
    try:
        yield
    finally:
        await pool.aclose()
