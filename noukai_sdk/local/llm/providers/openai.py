"""Models behind OpenAI's chat API: OpenAI, Azure, Ollama and every compatible server."""

from __future__ import annotations

from typing import Any

from ..chat import ChatDelta, ChatRequest
from ..config import LlmConfig
from ..errors import MissingExtraError
from .keys import required_key, usable_key
from .openai_answers import StreamReader, read_completion
from .sdk_errors import opening
from .sdk_model import SdkModel

_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "azure": "AZURE_OPENAI_API_KEY"}
# OpenAI itself refuses the older name for its reasoning models; others know only that one.
_MAX_TOKENS = {"openai": "max_completion_tokens", "azure": "max_completion_tokens"}


class OpenAiModel(SdkModel):
    """A chat model over the official ``openai`` client.

    Raises:
        MissingExtraError: The client is not installed.
        LlmConfigError: The key is missing or cannot be one.
    """

    _path = "/chat/completions"

    def __init__(self, config: LlmConfig) -> None:
        sdk, key = import_openai(), api_key(config)
        with opening(config.name):
            http = sdk.DefaultAsyncHttpxClient()
            client = make_client(sdk, config, key, http)
        super().__init__(config, sdk, client, http, key)

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        max_tokens = _MAX_TOKENS.get(self._config.provider, "max_tokens")
        as_json = {"type": "json_object"} if request.response_format == "json" else None
        body = {
            "model": self._config.model,
            "messages": request.messages,
            "temperature": request.temperature,
            max_tokens: request.max_tokens,
            "tools": request.tools or None,
            "tool_choice": request.tool_choice if request.tools else None,
            "response_format": as_json,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _stream_options(self) -> dict[str, Any]:
        return {"stream": True, "stream_options": {"include_usage": True}}

    def _read(self, body: Any) -> ChatDelta:
        return read_completion(body)

    def _reader(self) -> StreamReader:
        return StreamReader()


def import_openai() -> Any:
    """The ``openai`` module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            "this model needs the openai client: pip install 'noukai-sdk[openai]'"
        ) from error
    return openai


def api_key(config: LlmConfig) -> str:
    """The configuration's key, the environment's, or a stand-in where none is needed."""
    variable = _KEY_VARIABLES.get(config.provider)
    if variable is None:
        return usable_key(config, config.api_key or "none")
    return required_key(config, variable)


def make_client(sdk: Any, config: LlmConfig, key: str, http: Any) -> Any:
    """The official async client for a configuration, over an HTTP client of its library's."""
    settings = {
        "api_key": key,
        "timeout": config.timeout,
        "max_retries": config.max_retries,
        "http_client": http,
    }
    if config.provider == "azure":
        return sdk.AsyncAzureOpenAI(
            azure_endpoint=config.base_url, api_version=config.api_version, **settings
        )
    return sdk.AsyncOpenAI(base_url=config.base_url, **settings)
