"""The configuration of a model: one frozen value, with one constructor per provider."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, get_args
from urllib.parse import urlsplit

from .errors import LlmConfigError

Provider = Literal[
    "offline", "smollm2", "openai", "azure", "ollama", "openai_compatible", "anthropic"
]

OLLAMA_URL = "http://localhost:11434/v1"
_STRAY = re.compile(r"^\s|\s\Z|[\x00-\x1f\x7f]")
SPECS = "'offline', 'smollm2', 'openai:NAME', 'anthropic:NAME' or 'ollama:NAME'"


@dataclass(frozen=True)
class LlmConfig:
    """A model and how to reach it. Use the constructors: ``LlmConfig.openai(...)`` and so on.

    Attributes:
        provider: The service or program that runs the model.
        model: The provider's name for the model (Azure: the deployment's name).
        api_key: Not in the repr. None to read the provider's environment variable.
        base_url: The root of the API; None for the provider's own address.
        timeout: Seconds that one attempt may take to respond or, in a stream, to send the next part.
        max_retries: Most retries of one request; requests that cannot succeed are not retried.
        api_version: Azure's API version; None for other providers.

    Raises:
        LlmConfigError: A setting is out of range; the message says which.

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

    def __post_init__(self) -> None:
        if self.provider not in get_args(Provider):
            raise LlmConfigError(
                f"unknown provider {self.provider!r}: use one of {get_args(Provider)}"
            )
        if not self.model or not isinstance(self.model, str):
            raise LlmConfigError(f"{self.provider}: name the model, as in model='...'")
        if not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise LlmConfigError(f"timeout must be more than 0 seconds, not {self.timeout!r}")
        if not isinstance(self.max_retries, int) or self.max_retries < 0:
            raise LlmConfigError(f"max_retries must be 0 or more, not {self.max_retries!r}")
        if self.base_url is not None:
            _check_url(self.base_url)

    @property
    def name(self) -> str:
        """The model's name in flow files, such as ``openai:gpt-4o-mini`` or ``offline``."""
        return self.model if self.model == self.provider else f"{self.provider}:{self.model}"

    @classmethod
    def from_spec(cls, spec: str) -> LlmConfig:
        """Create the configuration for the ``model:`` of a flow file; keys come from the environment.

        Args:
            spec: ``offline``, ``smollm2``, ``openai:NAME``, ``anthropic:NAME`` or ``ollama:NAME``.

        Raises:
            LlmConfigError: The spec is not a known model.

        Example:
            >>> LlmConfig.from_spec("ollama:llama3.2").base_url
            'http://localhost:11434/v1'
        """
        provider, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
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
        raise LlmConfigError(f"unknown model {spec!r}: write {SPECS}")

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
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> LlmConfig:
        """Configure OpenAI. The key is ``api_key`` or the environment's ``OPENAI_API_KEY``."""
        return cls("openai", model, api_key, base_url, timeout, max_retries)

    @classmethod
    def anthropic(
        cls,
        api_key: str | None = None,
        model: str = "claude-haiku-4-5",
        *,
        base_url: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> LlmConfig:
        """Configure Anthropic. The key is ``api_key`` or the environment's ``ANTHROPIC_API_KEY``."""
        return cls("anthropic", model, api_key, base_url, timeout, max_retries)

    @classmethod
    def ollama(
        cls,
        model: str = "llama3.2",
        *,
        base_url: str = OLLAMA_URL,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> LlmConfig:
        """Configure a local Ollama, over its OpenAI-compatible API. No key."""
        return cls("ollama", model, None, base_url, timeout, max_retries)

    @classmethod
    def azure(
        cls,
        api_key: str | None,
        deployment: str,
        endpoint: str,
        *,
        api_version: str = "2024-10-21",
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> LlmConfig:
        """Configure Azure OpenAI. The key is ``api_key`` or the environment's ``AZURE_OPENAI_API_KEY``.

        Args:
            api_key: The resource's key.
            deployment: The deployment's name, which Azure uses instead of the model's.
            endpoint: ``https://<resource>.openai.azure.com``.
            api_version: Azure's dated API version.
            timeout: As for the class, in seconds.
            max_retries: As for the class.
        """
        return cls("azure", deployment, api_key, endpoint, timeout, max_retries, api_version)

    @classmethod
    def openai_compatible(
        cls,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> LlmConfig:
        """Configure any server with OpenAI's chat API: vLLM, llama.cpp, Groq, OpenRouter, ...

        Args:
            base_url: The root of the API, usually ending in ``/v1``.
            model: The server's name for the model.
            api_key: None for servers that need none; no environment variable is read.
            timeout: As for the class, in seconds.
            max_retries: As for the class.
        """
        return cls("openai_compatible", model, api_key, base_url, timeout, max_retries)

    def with_model(self, model: str) -> LlmConfig:
        """Return the same settings for another model of the same provider."""
        return replace(self, model=model)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and _is_host(parts.hostname)
        is_address = is_address and parts.port != 0 and not _STRAY.search(url)
    except (AttributeError, TypeError, ValueError) as error:
        raise LlmConfigError(f"base_url must be http://... or https://...: {error}") from error
    # Credentials would be printed with the URL. The messages must not print them either.
    if parts.username or parts.password:
        raise LlmConfigError("base_url must not carry a user or password: pass api_key= instead")
    if parts.query or parts.fragment:
        raise LlmConfigError("base_url must end with its path, without '?' or '#'")
    if not is_address:
        raise LlmConfigError(f"base_url must be http://... or https://..., not {url!r}")


def _is_host(host: str | None) -> bool:
    # The limits of DNS; the HTTP library reports them only when a request is sent.
    labels = (host or "").removesuffix(".").split(".")
    return all(0 < len(label) < 64 and " " not in label for label in labels)
