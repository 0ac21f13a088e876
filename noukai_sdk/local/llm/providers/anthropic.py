"""Models behind Anthropic's messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..chat import ChatDelta, ChatRequest
from ..config import LlmConfig
from ..errors import LlmRequestError
from .anthropic_requests import message_body
from .anthropic_responses import AnthropicStreamReader, read_message
from .sdk_model import SdkModel, StreamReader, api_key, client_settings, import_sdk, merged


class AnthropicModel(SdkModel):
    """A chat model over the official ``anthropic`` client.

    Raises:
        MissingExtraError: The client is not installed.
        LlmConfigError: The key or another setting is missing or invalid.
    """

    _path = "/v1/messages"
    _models_path = "/v1/models"

    def __init__(self, config: LlmConfig) -> None:
        sdk, key = import_sdk("anthropic"), api_key(config, "ANTHROPIC_API_KEY")
        with client_settings(config, sdk) as settings:
            client = sdk.AsyncAnthropic(api_key=key, base_url=config.base_url, **settings)
        super().__init__(config, sdk, client, key)

    def _body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        if request.seed is not None or isinstance(request.response_format, Mapping):
            raise LlmRequestError(f"{self.name}: anthropic has no seed and no response_format")
        config = self._config
        body = {"model": config.model, **message_body(request)}
        if config.top_p is not None:
            body = {"top_p": config.top_p, **body}
        body = merged(body, config.extra_body, request.extra_body)
        return {**body, "stream": True} if stream else body

    def _read(self, body: Any) -> ChatDelta:
        return read_message(body)

    def _reader(self) -> StreamReader:
        return AnthropicStreamReader()
