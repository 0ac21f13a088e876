"""Vectors from OpenAI's embeddings API: OpenAI, Azure, Ollama and every compatible server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import LlmConfig
from ..errors import LlmResponseError
from .json_post import JsonPost
from .openai import api_key, import_openai, make_client
from .sdk_errors import opening, translated

# The API takes 2,048 texts at once at most; some compatible servers take fewer.
_TEXTS_A_REQUEST = 256


class OpenAiEmbedder:
    """Raises as :class:`~noukai_sdk.local.llm.providers.openai.OpenAiModel` does."""

    def __init__(self, config: LlmConfig) -> None:
        self._sdk, self._key = import_openai(), api_key(config)
        self.name = config.name
        self._model = config.model
        with opening(config.name):
            http = self._sdk.DefaultAsyncHttpxClient()
            self._client = make_client(self._sdk, config, self._key, http)
        self._post = JsonPost(self._sdk, self._client, http, "/embeddings")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text, in their order."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _TEXTS_A_REQUEST):
            vectors += await self._request(list(texts[start : start + _TEXTS_A_REQUEST]))
        return vectors

    async def aclose(self) -> None:
        """Close the connections."""
        await self._post.aclose()
        await self._client.close()

    async def _request(self, texts: list[str]) -> list[list[float]]:
        body = {"model": self._model, "input": texts, "encoding_format": "float"}
        with translated(self._sdk, self.name, self._key):
            answer = await self._post.send(body)
        vectors = _vectors(answer)
        if len(vectors) != len(texts):
            found = f"{len(vectors)} vectors for {len(texts)} texts"
            raise LlmResponseError(f"{self.name}: the answer has {found}")
        return vectors


def _vectors(answer: Any) -> list[list[float]]:
    try:
        items = sorted(answer["data"], key=lambda item: item["index"])
        return [[float(value) for value in item["embedding"]] for item in items]
    except (TypeError, KeyError, ValueError) as error:
        raise LlmResponseError(f"the answer has no embeddings: {repr(answer)[:200]}") from error
