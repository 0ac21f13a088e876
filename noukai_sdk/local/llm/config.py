"""The configuration of a model: one frozen value, with one constructor per provider."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from ..runtime.hidden_keys import SHORTEST_KEY, has_key_form, hide_keys, shown, type_name
from .errors import LlmConfigError, LlmConfigTypeError

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
_STRAY = re.compile(r"^\s|\s\Z|[\x00-\x1f\x7f]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
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
        LlmConfigError: A setting is out of range; the message says which. If its type is wrong, it is an
            LlmConfigTypeError, which is a TypeError too.

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
        if self.provider not in get_args(Provider):
            raise LlmConfigError(
                f"unknown provider {shown(self.provider)}: use one of {get_args(Provider)}"
            )
        _check_types(self)
        if not self.model:
            raise LlmConfigError(f"{self.provider}: name the model, as in model='...'")
        if not self.timeout > 0:
            raise LlmConfigError(f"timeout must be more than 0 seconds, not {self.timeout!r}")
        if self.max_retries < 0:
            raise LlmConfigError(f"max_retries must be 0 or more, not {self.max_retries!r}")
        # Names and addresses get into errors, logs and statistics.
        for name, text in (("model", self.model), ("api_version", self.api_version or "")):
            if has_key_form(text) or (len(text) >= SHORTEST_KEY and text == self.api_key):
                message = f"{name} holds an API key: pass the key as api_key="
                raise LlmConfigError(f"{self.provider}: {message}")
        if self.base_url is not None:
            _check_url(self.base_url)
        _check_headers(self.headers)
        try:
            check_request(self.top_p, self.seed, self.response_format, self.extra_body)
        except ValueError as error:
            raise LlmConfigError(str(error)) from None
        if self.provider == "anthropic" and (self.seed, self.response_format) != (None, None):
            raise LlmConfigError("anthropic has no seed and no response_format: leave them out")
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
        if name and provider in PRESETS:
            return cls(provider, name)  # type: ignore[arg-type]  # a preset is a provider
        raise LlmConfigError(f"unknown model {shown(spec)}: write {SPECS}")

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


def check_request(
    top_p: object = None,
    seed: object = None,
    response_format: object = None,
    extra_body: object = None,
) -> None:
    """Check the settings of a request; None is always right.

    Raises:
        ValueError: A setting is out of range or of the wrong type.
    """
    is_number = isinstance(top_p, int | float) and not isinstance(top_p, bool)
    if top_p is not None and not (is_number and 0 < top_p <= 1):  # type: ignore[operator]
        raise ValueError(f"top_p must be more than 0 and at most 1, not {shown(top_p)}")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise ValueError(f"seed must be a whole number, not {shown(seed)}")
    if response_format is not None and not (
        isinstance(response_format, Mapping) and isinstance(response_format.get("type"), str)
    ):
        message = "response_format must be a mapping in OpenAI's form, such as"
        raise ValueError(f"{message} {{'type': 'json_object'}}")
    if extra_body is not None and not isinstance(extra_body, Mapping):
        raise ValueError(f"extra_body must be a mapping, not {type(extra_body).__name__}")


def _check_headers(headers: object) -> None:
    if headers is None:
        return
    if not isinstance(headers, Mapping):
        raise LlmConfigTypeError(
            f"headers must be a mapping of names to texts, not {type(headers).__name__}"
        )
    # The HTTP library would report them when a request is sent. No value is printed: it may be a key.
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise LlmConfigError("headers: a name may have letters, digits and '-' only")
        if not isinstance(value, str) or not value.isascii() or _STRAY.search(value):
            raise LlmConfigError(f"headers: the value of {name!r} must be a text of ASCII letters")


def _ollama_url(host: str) -> str:
    """Return the address that ``OLLAMA_HOST`` stands for, by the rules of Ollama itself.

    Example:
        >>> _ollama_url("gpu"), _ollama_url("https://gpu/llm"), _ollama_url("0.0.0.0:80")
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
        raise LlmConfigError(f"OLLAMA_HOST is not an address: {error}") from error
    # A server listens on every interface under these names; a client cannot send to them everywhere.
    name = parts.hostname or "127.0.0.1"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104
    name = f"[{name}]" if ":" in name else name
    user = "user@" if parts.username else ""  # rejected with the message for any URL
    return f"{parts.scheme}://{user}{name}:{port}{parts.path.rstrip('/')}/v1"


def _check_types(config: LlmConfig) -> None:
    number, text = "a number of more than 0 seconds", "a str"
    kinds: tuple[tuple[str, Any, str], ...] = (
        ("model", str, "a str: name the model, as in model='...'"),
        ("api_key", str | None, text),
        ("base_url", str | None, "http://... or https://..., as a str"),
        ("timeout", int | float, number),
        ("max_retries", int, "an int of 0 or more"),
        ("api_version", str | None, text),
    )
    for name, kind, expected in kinds:
        value = getattr(config, name)
        if not isinstance(value, kind):
            raise LlmConfigTypeError(f"{name} must be {expected}, not {type_name(value)}")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and _is_host(parts.hostname)
        is_address = is_address and parts.port != 0 and not _STRAY.search(url)
    except ValueError:
        # The error quotes what follows the colon, which may be a password.
        raise LlmConfigError(
            "base_url must be http://... or https://... with a valid host and port"
        ) from None
    # Credentials would be printed with the URL. The messages must not print them either.
    if parts.username or parts.password:
        raise LlmConfigError("base_url must not carry a user or password: pass api_key= instead")
    if parts.query or parts.fragment:
        raise LlmConfigError("base_url must end with its path, without '?' or '#'")
    if has_key_form(url):
        raise LlmConfigError(
            "base_url must be http://... or https://... and holds an API key: pass it as api_key="
        )
    if not is_address:
        raise LlmConfigError(f"base_url must be http://... or https://..., not {shown(url)}")


def _is_host(host: str | None) -> bool:
    # The limits of DNS; the HTTP library reports them only when a request is sent.
    labels = (host or "").removesuffix(".").split(".")
    return all(0 < len(label) < 64 and " " not in label for label in labels)
