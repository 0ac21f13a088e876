"""Models behind OpenAI's chat and embeddings APIs: OpenAI, Azure, Ollama and compatible servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..chat import ChatDelta, ChatRequest, schema_format, with_schema_turn
from ..config import PRESETS, LlmConfig
from ..errors import LlmResponseError
from ..rate_limit import RateLimit
from .openai_responses import OpenAiStreamReader, read_completion, read_embeddings
from .sdk_errors import raise_translated, seconds_to_wait
from .sdk_model import (
    SdkModel,
    StreamReader,
    api_key,
    client_settings,
    import_sdk,
    merged,
    secret_headers,
)

_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}
# OpenAI itself rejects the older name for its reasoning models; other servers know only that one.
_MAX_TOKENS = {"openai": "max_completion_tokens", "azure": "max_completion_tokens"}
# These take {"type": "json_object"} only, or schemas for some of their models.
_WITHOUT_SCHEMAS = frozenset({"deepseek", "groq"})
# The API takes at most 2,048 texts at once; some compatible servers take fewer.
_TEXTS_PER_REQUEST = 256


class OpenAiModel(SdkModel):
    """A chat model over the official ``openai`` client.

    Raises:
        MissingExtraError: The client is not installed.
        LlmConfigError: The key or another setting is missing or invalid.
    """

    _path = "/chat/completions"
    _models_path = "/models"

    def __init__(self, config: LlmConfig) -> None:
        super().__init__(config, *_open_client(config))

    def _body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        config = self._config
        max_tokens = _MAX_TOKENS.get(config.provider, "max_tokens")
        messages, response_format = request.messages, _response_format(request, config)
        has_schema = (response_format or {}).get("type") == "json_schema"
        if request.json_schema is not None and not has_schema:
            messages = with_schema_turn(messages, request.json_schema)
        body = {
            "model": config.model,
            "messages": messages,
            "temperature": request.temperature,
            max_tokens: request.max_tokens,
            "tools": request.tools or None,
            "tool_choice": request.tool_choice if request.tools else None,
            "top_p": config.top_p if request.top_p is None else request.top_p,
            "seed": config.seed if request.seed is None else request.seed,
            "response_format": response_format,
            "stream": True if stream else None,
            "stream_options": {"include_usage": True} if stream else None,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return merged(body, config.extra_body, request.extra_body)

    def _read(self, body: Any) -> ChatDelta:
        return read_completion(body)

    def _reader(self) -> StreamReader:
        return OpenAiStreamReader()


class OpenAiEmbedder:
    """Create embeddings with the official ``openai`` client; raises as :class:`OpenAiModel` does."""

    def __init__(self, config: LlmConfig, dimensions: int | None = None) -> None:
        self._config = config
        self._dimensions = dimensions
        self._sdk, self._client, key = _open_client(config)
        self._keys = [key, *secret_headers(config)]
        self._limit = RateLimit(seconds_to_wait, config.max_retries)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, in order."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _TEXTS_PER_REQUEST):
            batch = list(texts[start : start + _TEXTS_PER_REQUEST])
            body: dict[str, Any] = {
                "model": self._config.model,
                "input": batch,
                "encoding_format": "float",
            }
            if self._dimensions is not None:
                body["dimensions"] = self._dimensions
            body = merged(body, self._config.extra_body)
            try:
                response = await self._limit.send(partial(self._post, body))
            except Exception as error:
                raise_translated(self._sdk, self._config.name, self._keys, error)
                raise
            batch_vectors = read_embeddings(response)
            if len(batch_vectors) != len(batch):
                raise LlmResponseError(
                    f"{self._config.name}: the response has {len(batch_vectors)} vectors for "
                    f"{len(batch)} texts"
                )
            vectors += batch_vectors
        return vectors

    async def _post(self, body: dict[str, Any]) -> Any:
        return await self._client.post("/embeddings", body=body, cast_to=object)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _response_format(request: ChatRequest, config: LlmConfig) -> Mapping[str, Any] | None:
    if isinstance(request.response_format, Mapping):
        return request.response_format
    if request.json_schema is not None:
        takes_schemas = config.provider not in _WITHOUT_SCHEMAS
        return schema_format(request.json_schema) if takes_schemas else None
    if config.response_format is not None:
        return config.response_format
    return {"type": "json_object"} if request.response_format == "json" else None


def _open_client(config: LlmConfig) -> tuple[Any, Any, str]:
    """Return the module ``openai``, an async client for the configuration, and its key."""
    preset = PRESETS.get(config.provider)
    variable = preset.key_variable if preset else _KEY_VARIABLES.get(config.provider)
    sdk, key = import_sdk("openai"), api_key(config, variable)
    with client_settings(config, sdk) as settings:
        if config.provider == "azure":
            client = sdk.AsyncAzureOpenAI(
                api_key=key,
                azure_endpoint=config.base_url,
                api_version=config.api_version,
                **settings,
            )
        else:
            base_url = config.base_url or (preset.base_url if preset else None)
            client = sdk.AsyncOpenAI(api_key=key, base_url=base_url, **settings)
    return sdk, client, key
