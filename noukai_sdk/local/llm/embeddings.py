"""A client for embeddings, from sync and async code alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from .config import LlmConfig
from .errors import LlmConfigError
from .loop_bound import LoopBound, LoopBoundClient

Vector = list[float]


class Embedder(Protocol):
    """Creates vectors."""

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector per text, in order."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


class EmbeddingClient(LoopBoundClient[Embedder]):
    """Create vectors from texts. Every method may be called from any thread and any event loop.

    Args:
        config: ``LlmConfig.openai(key, "text-embedding-3-small")``, or Azure, Ollama or any
            compatible server with its embedding model. None or ``LlmConfig.offline()`` for hashed
            words: deterministic, no key, nothing to download.
        dimensions: Length of the hashed vectors; the other providers determine their own.

    Raises:
        LlmConfigError: The provider has no embeddings, or a setting is missing or invalid.
        MissingExtraError: The provider's library is not installed; the message has the pip line.

    Example:
        >>> with EmbeddingClient() as client:
        ...     cat, cats, stone = client.embed_many(["a cat", "two cats", "stone"])
        >>> client.similarity(cat, cats) > client.similarity(cat, stone)
        True
    """

    def __init__(self, config: LlmConfig | None = None, *, dimensions: int = 256) -> None:
        if not isinstance(dimensions, int) or dimensions < 1:
            raise LlmConfigError(f"dimensions must be at least 1, not {dimensions!r}")
        self.config = config or LlmConfig.offline()
        super().__init__(LoopBound(lambda: _open_embedder(self.config, dimensions)))

    def embed(self, text: str) -> Vector:
        """Return the vector of one text.

        Raises:
            LlmError: See ``errors.py`` for the kinds.
        """
        return self.embed_many([text])[0]

    def embed_many(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector per text, in order; raises as :meth:`embed`."""
        checked = _texts(texts)
        return self._bound.run(lambda embedder: embedder.embed(checked))

    async def embed_async(self, text: str) -> Vector:
        """Return the vector of one text without blocking. Cancelling the task cancels the request."""
        return (await self.embed_many_async([text]))[0]

    async def embed_many_async(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector per text without blocking; otherwise as :meth:`embed_many`."""
        checked = _texts(texts)
        return await self._bound.run_async(lambda embedder: embedder.embed(checked))

    @staticmethod
    def similarity(first: Sequence[float], second: Sequence[float]) -> float:
        """Return the cosine of two vectors: 1 for the same direction, 0 for nothing in common.

        Returns:
            -1 to 1; 0 if one of them is all zeros.

        Raises:
            ValueError: The vectors differ in length.

        Example:
            >>> EmbeddingClient.similarity([1.0, 0.0], [2.0, 0.0])
            1.0
        """
        if len(first) != len(second):
            raise ValueError(f"vectors of {len(first)} and {len(second)} dimensions do not compare")
        length, other = math.hypot(*first), math.hypot(*second)
        if not length or not other:
            return 0.0
        cosine = sum((a / length) * (b / other) for a, b in zip(first, second, strict=True))
        # This order of min and max keeps NaN.
        return min(max(cosine, -1.0), 1.0)


def _open_embedder(config: LlmConfig, dimensions: int) -> Embedder:
    if config.provider == "offline":
        from .providers.hashing_embedder import HashingEmbedder

        return HashingEmbedder(dimensions)
    if config.provider in ("smollm2", "anthropic"):
        raise LlmConfigError(
            f"{config.provider} has no embeddings: use LlmConfig.openai, azure, ollama, "
            "openai_compatible, or none for hashed words"
        )
    from .providers.openai import OpenAiEmbedder

    return OpenAiEmbedder(config)


def _texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("embed_many takes a list of str, embed a single str")
    return list(texts)
