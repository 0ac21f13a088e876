"""The configuration of a model: one frozen value, with one constructor per provider."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from ..runtime import checks
from ..runtime.hidden_keys import hide_keys, shown
from .config_checks import check_config, config_errors
from .errors import LlmConfigError, LlmConfigValueError

if TYPE_CHECKING:
    from typing_extensions import TypedDict, Unpack

    class RequestSettings(TypedDict, total=False):
        """The settings of single requests; :class:`LlmConfig` explains them."""

        top_p: float | None
        seed: int | None
        response_format: Mapping[str, Any] | None
        extra_body: Mapping[str, Any] | None

    class ModelSettings(RequestSettings, total=False):
        """The settings that every constructor for a provider takes."""

        timeout: float
        max_retries: int
        headers: Mapping[str, str] | None

    class PresetSettings(ModelSettings, total=False):
        """The settings of a preset."""

        base_url: str | None


Provider = Literal[
    "offline",
    "smollm2",
    "openai",
    "azure",
    "ollama",
    "openai_compatible",
    "anthropic",
    "openrouter",
    "mistral",
    "deepseek",
    "xai",
    "together",
    "fireworks",
    "groq",
    "gemini",
]


class Preset(NamedTuple):
    """A service with OpenAI's chat API: its address, and the environment variable with its key."""

    base_url: str
    key_variable: str


PRESETS: dict[str, Preset] = {
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "mistral": Preset("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "deepseek": Preset("https://api.deepseek.com", "DEEPSEEK_API_KEY"),
    "xai": Preset("https://api.x.ai/v1", "XAI_API_KEY"),
    "together": Preset("https://api.together.ai/v1", "TOGETHER_API_KEY"),
    "fireworks": Preset("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "gemini": Preset("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
}
"""As each service documents them for the ``openai`` client."""

OLLAMA_URL = "http://localhost:11434/v1"
_OLLAMA_PORTS = {"http": 80, "https": 443}
SPECS = (
    "'offline', 'smollm2', 'openai:NAME', 'anthropic:NAME', 'ollama:NAME' or, in the same way, "
    f"{', '.join(PRESETS)}"
)


@dataclass(frozen=True)
class LlmConfig:
    """A model and how to reach it. Use the constructors: ``LlmConfig.openai(...)`` and so on.

    Attributes:
        provider: The service or program that runs the model.
        model: The provider's name for the model (Azure: the deployment's name).
        api_key: Not in the repr. None to read the provider's environment variable.
        base_url: The root of the API; None for the provider's own address.
        timeout: Seconds that one attempt may take to respond or, in a stream, to send the next part.
        max_retries: Most retries of one request; requests that cannot succeed are not retried. A rate
            limit (429) counts only while the provider accepts no other request; 0 never waits for it.
        api_version: Azure's API version; None for other providers.
        headers: Sent with every request. Not in the repr, because they may hold secrets.
        top_p: More than 0, at most 1; None for the model's default. Nodes may set their own.
        seed: For servers that can repeat a response; None for none. Nodes may set their own.
        response_format: In OpenAI's form, such as ``{"type": "json_schema", ...}``, for every response.
        extra_body: Fields to add to the body of every request, for settings that only one provider has.

    Raises:
        LlmConfigError: A setting is wrong; the message says which. It is a TypeError too if the type is
            wrong, otherwise a ValueError.

    Example:
        >>> config = LlmConfig.openai("sk-secret", timeout=10)
        >>> config.model, "sk-secret" in repr(config)
        ('gpt-4o-mini', False)
    """

    provider: Provider
    model: str
    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    timeout: float = 60.0
    max_retries: int = 2
    api_version: str | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    top_p: float | None = None
    seed: int | None = None
    response_format: Mapping[str, Any] | None = field(default=None, hash=False)
    extra_body: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    def __post_init__(self) -> None:
        with config_errors():
            checks.text("provider", self.provider)
            if self.provider not in get_args(Provider):
                known = get_args(Provider)
                raise ValueError(f"unknown provider {shown(self.provider)}: use one of {known}")
            check_config(self)
        for name in ("headers", "response_format", "extra_body"):
            value = getattr(self, name)
            if value is not None:  # a copy, because the caller may change theirs
                object.__setattr__(self, name, copy.deepcopy(dict(value)))

    def __repr__(self) -> str:
        values = (f"{part.name}={getattr(self, part.name)!r}" for part in fields(self) if part.repr)
        return hide_keys(f"LlmConfig({', '.join(values)})")

    @property
    def name(self) -> str:
        """The model's name in flow files, such as ``openai:gpt-4o-mini`` or ``offline``."""
        return self.model if self.model == self.provider else f"{self.provider}:{self.model}"

    @classmethod
    def from_spec(cls, spec: str) -> LlmConfig:
        """Create the configuration for the ``model:`` of a flow file; keys come from the environment.

        Args:
            spec: ``offline``, ``smollm2``, ``openai:NAME``, ``anthropic:NAME``, ``ollama:NAME``, or the
                name of a preset and a model, such as ``groq:NAME``.

        Raises:
            LlmConfigError: The spec is not a known model.

        Example:
            >>> LlmConfig.from_spec("ollama:llama3.2").base_url
            'http://localhost:11434/v1'
        """
        with config_errors():
            checks.of_type("a model", spec, str, f"a str: write {SPECS}")
        provider, colon, name = spec.partition(":")
        if not colon and provider == "offline":
            return cls.offline()
        if not colon and provider == "smollm2":
            return cls.smollm2()
        if name and provider == "openai":
            return cls.openai(model=name)
        if name and provider == "anthropic":
            return cls.anthropic(model=name)
        if name and provider == "ollama":
            return cls.ollama(name)
        if name and provider in PRESETS:
            return cls(provider, name)  # type: ignore[arg-type]  # a preset is a provider
        raise LlmConfigValueError(f"unknown model {shown(spec)}: write {SPECS}")

    @classmethod
    def offline(cls) -> LlmConfig:
        """Configure the deterministic model with no dependency: see ``providers/offline.py``."""
        return cls("offline", "offline")

    @classmethod
    def smollm2(cls, *, timeout: float = 60.0) -> LlmConfig:
        """Configure SmolLM2-135M in this process: no key, no network. Needs the extra ``model``."""
        return cls("smollm2", "smollm2", timeout=timeout)

    @classmethod
    def openai(
        cls,
        api_key: str | None = None,
        model: str = "gpt-4o-mini",
        *,
        base_url: str | None = None,
        **settings: Unpack[ModelSettings],
    ) -> LlmConfig:
        """Configure OpenAI. The key is ``api_key`` or the environment's ``OPENAI_API_KEY``."""
        return cls("openai", model, api_key, base_url, **settings)

    @classmethod
    def anthropic(
        cls,
        api_key: str | None = None,
        model: str = "claude-haiku-4-5",
        *,
        base_url: str | None = None,
        **settings: Unpack[ModelSettings],
    ) -> LlmConfig:
        """Configure Anthropic. The key is ``api_key`` or the environment's ``ANTHROPIC_API_KEY``."""
        return cls("anthropic", model, api_key, base_url, **settings)

    @classmethod
    def ollama(
        cls,
        model: str = "llama3.2",
        *,
        base_url: str | None = None,
        **settings: Unpack[ModelSettings],
    ) -> LlmConfig:
        """Configure Ollama, over its OpenAI-compatible API. No key.

        Args:
            model: A model that was pulled.
            base_url: Such as ``http://host:11434``, with ``/v1`` or without; by default the environment's
                ``OLLAMA_HOST``, or else this machine.
            settings: Those of the class.

        Example:
            >>> LlmConfig.ollama(base_url="http://gpu:11434").base_url
            'http://gpu:11434/v1'
        """
        if base_url is None:
            base_url = _ollama_url(os.environ.get("OLLAMA_HOST", ""))
        elif isinstance(base_url, str) and re.fullmatch(r"\w+://[^/?#]+/?", base_url):
            base_url = base_url.rstrip("/") + "/v1"
        return cls("ollama", model, None, base_url, **settings)

    @classmethod
    def azure(
        cls,
        api_key: str | None,
        deployment: str,
        endpoint: str,
        *,
        api_version: str = "2024-10-21",
        **settings: Unpack[ModelSettings],
    ) -> LlmConfig:
        """Configure Azure OpenAI. The key is ``api_key`` or the environment's ``AZURE_OPENAI_API_KEY``.

        Args:
            api_key: The resource's key.
            deployment: The deployment's name, which Azure uses instead of the model's.
            endpoint: ``https://<resource>.openai.azure.com``.
            api_version: Azure's dated API version.
            settings: Those of the class.
        """
        return cls("azure", deployment, api_key, endpoint, api_version=api_version, **settings)

    @classmethod
    def openai_compatible(
        cls,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        **settings: Unpack[ModelSettings],
    ) -> LlmConfig:
        """Configure any server with OpenAI's chat API, such as vLLM and llama.cpp.

        Args:
            base_url: The root of the API, usually ending in ``/v1``.
            model: The server's name for the model.
            api_key: None for servers that need none; no environment variable is read.
            settings: Those of the class.
        """
        return cls("openai_compatible", model, api_key, base_url, **settings)

    @classmethod
    def openrouter(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure OpenRouter. The key is ``api_key`` or the environment's ``OPENROUTER_API_KEY``."""
        return cls("openrouter", model, api_key, **settings)

    @classmethod
    def mistral(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure Mistral. The key is ``api_key`` or the environment's ``MISTRAL_API_KEY``."""
        return cls("mistral", model, api_key, **settings)

    @classmethod
    def deepseek(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure DeepSeek. The key is ``api_key`` or the environment's ``DEEPSEEK_API_KEY``."""
        return cls("deepseek", model, api_key, **settings)

    @classmethod
    def xai(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure xAI. The key is ``api_key`` or the environment's ``XAI_API_KEY``."""
        return cls("xai", model, api_key, **settings)

    @classmethod
    def together(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure Together AI. The key is ``api_key`` or the environment's ``TOGETHER_API_KEY``."""
        return cls("together", model, api_key, **settings)

    @classmethod
    def fireworks(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure Fireworks AI. The key is ``api_key`` or the environment's ``FIREWORKS_API_KEY``."""
        return cls("fireworks", model, api_key, **settings)

    @classmethod
    def groq(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure Groq. The key is ``api_key`` or the environment's ``GROQ_API_KEY``."""
        return cls("groq", model, api_key, **settings)

    @classmethod
    def gemini(
        cls, api_key: str | None = None, model: str = "", **settings: Unpack[PresetSettings]
    ) -> LlmConfig:
        """Configure Gemini. The key is ``api_key`` or the environment's ``GEMINI_API_KEY``."""
        return cls("gemini", model, api_key, **settings)

    def with_model(self, model: str) -> LlmConfig:
        """Return the same settings for another model of the same provider."""
        return replace(self, model=model)


def _ollama_url(host: str) -> str:
    """Return the address that ``OLLAMA_HOST`` stands for, by the rules of Ollama itself.

    Example:
        >>> _ollama_url("gpu"), _ollama_url("https://gpu/llm"), _ollama_url("0.0.0.0:80/v1")
        ('http://gpu:11434/v1', 'https://gpu:443/llm/v1', 'http://127.0.0.1:80/v1')
    """
    host = host.strip()
    if not host:
        return OLLAMA_URL
    scheme, has_scheme, rest = host.rpartition("://")
    url = f"{scheme or 'http'}://{rest}"
    try:
        parts = urlsplit(url)
        port = parts.port or (_OLLAMA_PORTS.get(scheme, 11434) if has_scheme else 11434)
    except ValueError as error:
        raise LlmConfigError(f"OLLAMA_HOST is not an address: {error}") from None
    # A server listens on every interface under these names; a client cannot send to them everywhere.
    name = parts.hostname or "127.0.0.1"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104
    name = f"[{name}]" if ":" in name else name
    user = "user@" if parts.username else ""  # rejected with the message for any URL
    return f"{parts.scheme}://{user}{name}:{port}{parts.path.rstrip('/').removesuffix('/v1')}/v1"
