"""A client for embeddings, from sync and async code alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..runtime import checks
from .config import LlmConfig
from .config_checks import config_errors
from .loop_bound import LoopBound, LoopBoundClient

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .config import ModelSettings, PresetSettings

Vector = list[float]


class Embedder(Protocol):
    """Creates vectors."""

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector per text, in order."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


@dataclass(frozen=True)
class EmbeddingConfig:
    """A model for embeddings. Use the constructors: ``EmbeddingConfig.openai(...)`` and so on.

    They take the settings of :class:`LlmConfig`, such as ``base_url``, ``timeout`` and ``headers``.

    Attributes:
        llm: The model and how to reach it.
        dimensions: Length of the vectors, for models that can shorten theirs and for hashed words; None for
            the model's own.

    Raises:
        LlmConfigError: A setting is out of range, or the provider has no embeddings.

    Example:
        >>> config = EmbeddingConfig.openai("sk-secret", dimensions=512)
        >>> config.llm.model, config.dimensions
        ('text-embedding-3-small', 512)
    """

    llm: LlmConfig
    dimensions: int | None = None

    def __post_init__(self) -> None:
        with config_errors():
            checks.of_type("llm", self.llm, LlmConfig, "an LlmConfig, as in LlmConfig.openai()")
            if self.dimensions is not None:
                checks.whole("dimensions", self.dimensions, least=1)
            if self.llm.provider in ("smollm2", "anthropic"):
                raise ValueError(
                    f"{self.llm.provider} has no embeddings: use openai, azure, ollama, "
                    "openai_compatible, or none for hashed words"
                )

    @classmethod
    def offline(cls, *, dimensions: int = 256) -> EmbeddingConfig:
        """Configure hashed words: deterministic, no key, nothing to download."""
        return cls(LlmConfig.offline(), dimensions)

    @classmethod
    def openai(
        cls,
        api_key: str | None = None,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        **settings: Unpack[PresetSettings],
    ) -> EmbeddingConfig:
        """Configure OpenAI. The key is ``api_key`` or the environment's ``OPENAI_API_KEY``."""
        return cls(LlmConfig.openai(api_key, model, **settings), dimensions)

    @classmethod
    def mistral(
        cls,
        api_key: str | None = None,
        model: str = "mistral-embed",
        **settings: Unpack[PresetSettings],
    ) -> EmbeddingConfig:
        """Configure Mistral. The key is ``api_key`` or the environment's ``MISTRAL_API_KEY``."""
        return cls(LlmConfig.mistral(api_key, model, **settings))

    @classmethod
    def gemini(
        cls,
        api_key: str | None = None,
        model: str = "gemini-embedding-001",
        *,
        dimensions: int | None = None,
        **settings: Unpack[PresetSettings],
    ) -> EmbeddingConfig:
        """Configure Gemini. The key is ``api_key`` or the environment's ``GEMINI_API_KEY``."""
        return cls(LlmConfig.gemini(api_key, model, **settings), dimensions)

    @classmethod
    def ollama(
        cls, model: str = "nomic-embed-text", **settings: Unpack[PresetSettings]
    ) -> EmbeddingConfig:
        """Configure Ollama, as :meth:`LlmConfig.ollama` does."""
        return cls(LlmConfig.ollama(model, **settings))

    @classmethod
    def azure(
        cls,
        api_key: str | None,
        deployment: str,
        endpoint: str,
        *,
        dimensions: int | None = None,
        **settings: Unpack[ModelSettings],
    ) -> EmbeddingConfig:
        """Configure a deployment of Azure OpenAI, as :meth:`LlmConfig.azure` does."""
        return cls(LlmConfig.azure(api_key, deployment, endpoint, **settings), dimensions)

    @classmethod
    def openai_compatible(
        cls,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        dimensions: int | None = None,
        **settings: Unpack[ModelSettings],
    ) -> EmbeddingConfig:
        """Configure any server with OpenAI's embeddings API."""
        llm = LlmConfig.openai_compatible(base_url, model, api_key=api_key, **settings)
        return cls(llm, dimensions)


class EmbeddingClient(LoopBoundClient[Embedder]):
    """Create vectors from texts. Every method may be called from any thread and any event loop.

    Args:
        config: ``EmbeddingConfig.openai(key)`` or another of its constructors, or the ``LlmConfig`` of an
            embedding model. None for hashed words: deterministic, no key, nothing to download.
        dimensions: Length of the hashed vectors, if ``config`` does not say it.

    Raises:
        LlmConfigError: The provider has no embeddings, or a setting is missing or invalid.
        MissingExtraError: The provider's library is not installed; the message has the pip line.

    Example:
        >>> with EmbeddingClient() as client:
        ...     cat, cats, stone = client.embed_many(["a cat", "two cats", "stone"])
        >>> client.similarity(cat, cats) > client.similarity(cat, stone)
        True
    """

    def __init__(
        self, config: EmbeddingConfig | LlmConfig | None = None, *, dimensions: int = 256
    ) -> None:
        with config_errors():
            checks.whole("dimensions", dimensions, least=1)
        self.config = config or LlmConfig.offline()
        if isinstance(self.config, EmbeddingConfig):
            embedding = self.config
        elif isinstance(self.config, LlmConfig):
            embedding = EmbeddingConfig(self.config)
        else:
            # The message names the type only: some people pass the key here.
            raise TypeError(
                f"config must be an EmbeddingConfig or an LlmConfig, not a {type(config).__name__}"
            )
        super().__init__(LoopBound(lambda: _open_embedder(embedding, dimensions)))

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


def _open_embedder(config: EmbeddingConfig, dimensions: int) -> Embedder:
    if config.llm.provider == "offline":
        from .providers.hashing_embedder import HashingEmbedder

        return HashingEmbedder(config.dimensions or dimensions)
    from .providers.openai import OpenAiEmbedder

    return OpenAiEmbedder(config.llm, config.dimensions)


def _texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("embed_many takes a list of str, embed a single str")
    return list(texts)
