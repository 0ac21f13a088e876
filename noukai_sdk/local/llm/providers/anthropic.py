"""Models behind Anthropic's messages API."""

from __future__ import annotations

from typing import Any

from ..chat import ChatDelta, ChatRequest
from ..config import LlmConfig
from ..errors import MissingExtraError
from .anthropic_answers import StreamReader, read_message
from .anthropic_requests import body_of
from .keys import required_key
from .sdk_errors import opening
from .sdk_model import SdkModel


class AnthropicModel(SdkModel):
    """A chat model over the official ``anthropic`` client.

    Raises:
        MissingExtraError: The client is not installed.
        LlmConfigError: The key is missing or cannot be one.
    """

    _path = "/v1/messages"

    def __init__(self, config: LlmConfig) -> None:
        sdk, key = _import_anthropic(), required_key(config, "ANTHROPIC_API_KEY")
        with opening(config.name):
            http = sdk.DefaultAsyncHttpxClient()
            client = sdk.AsyncAnthropic(
                api_key=key,
                base_url=config.base_url,
                timeout=config.timeout,
                max_retries=config.max_retries,
                http_client=http,
            )
        super().__init__(config, sdk, client, http, key)

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        return {"model": self._config.model, **body_of(request)}

    def _stream_options(self) -> dict[str, Any]:
        return {"stream": True}

    def _read(self, body: Any) -> ChatDelta:
        return read_message(body)

    def _reader(self) -> StreamReader:
        return StreamReader()

    @property
    def _models_path(self) -> str:
        return "/v1/models"


def _import_anthropic() -> Any:
    try:
        import anthropic
    except ImportError as error:
        raise MissingExtraError(
            "this model needs the anthropic client: pip install 'noukai-sdk[anthropic]'"
        ) from error
    return anthropic
