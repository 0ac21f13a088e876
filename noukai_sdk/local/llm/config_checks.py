"""Check the settings of models: addresses, headers and the fields of requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..runtime import checks
from ..runtime.hidden_keys import SHORTEST_KEY, has_key_form, shown
from .errors import LlmConfigError, LlmConfigTypeError, LlmConfigValueError

if TYPE_CHECKING:
    from .config import LlmConfig

_STRAY = re.compile(r"^\s|\s\Z|[\x00-\x1f\x7f]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn a TypeError or a ValueError of this block into the LlmConfigError of its kind."""
    try:
        yield
    except LlmConfigError:
        raise
    except TypeError as error:
        raise LlmConfigTypeError(str(error)) from None
    except ValueError as error:
        raise LlmConfigValueError(str(error)) from None


def check_config(config: LlmConfig) -> None:
    """Check all settings of a configuration but its provider.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range.
    """
    checks.of_type("model", config.model, str, "a str: name the model, as in model='...'")
    checks.of_type("api_key", config.api_key, str | None, "a str")
    checks.of_type("base_url", config.base_url, str | None, "http://... or https://..., as a str")
    checks.of_type("api_version", config.api_version, str | None, "a str")
    checks.seconds("timeout", config.timeout)
    checks.whole("max_retries", config.max_retries, least=0)
    if not config.model:
        raise ValueError(f"{config.provider}: name the model, as in model='...'")
    # Names and addresses get into errors, logs and statistics.
    for name, text in (("model", config.model), ("api_version", config.api_version or "")):
        if has_key_form(text) or (len(text) >= SHORTEST_KEY and text == config.api_key):
            message = f"{name} holds an API key: pass the key as api_key="
            raise ValueError(f"{config.provider}: {message}")
    if config.base_url is not None:
        _check_url(config.base_url)
    if config.headers is not None:
        _check_headers(config.headers)
    check_request(config.top_p, config.seed, config.response_format, config.extra_body)
    if config.provider == "anthropic" and (config.seed, config.response_format) != (None, None):
        raise ValueError("anthropic has no seed and no response_format: leave them out")


def check_request(
    top_p: object = None,
    seed: object = None,
    response_format: object = None,
    extra_body: object = None,
) -> None:
    """Check the settings of a request; None is always right.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range.
    """
    if top_p is not None:
        checks.top_p("top_p", top_p)
    if seed is not None:
        checks.whole("seed", seed)
    if response_format is not None:
        expected = "a mapping in OpenAI's form, such as {'type': 'json_object'}"
        checks.of_type("response_format", response_format, Mapping, expected)
        if not isinstance(response_format.get("type"), str):  # type: ignore[attr-defined]  # a mapping
            raise ValueError(f"response_format must be {expected}")
    if extra_body is not None:
        checks.mapping("extra_body", extra_body)


def _check_headers(headers: Mapping[str, str]) -> None:
    checks.of_type("headers", headers, Mapping, "a mapping of names to texts")
    # The HTTP library would report them when a request is sent. No value is printed: it may be a key.
    for name, value in headers.items():
        checks.text("the name of a header", name)
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("headers: a name may have letters, digits and '-' only")
        checks.text(f"the header {shown(name)}", value)
        if not value.isascii() or _STRAY.search(value):
            raise ValueError(f"headers: the value of {shown(name)} must be a text of ASCII letters")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and _is_host(parts.hostname)
        is_address = is_address and parts.port != 0 and not _STRAY.search(url)
    except ValueError:
        # The error quotes what follows the colon, which may be a password.
        raise ValueError(
            "base_url must be http://... or https://... with a valid host and port"
        ) from None
    # Credentials would be printed with the URL. The messages must not print them either.
    if parts.username or parts.password:
        raise ValueError("base_url must not carry a user or password: pass api_key= instead")
    if parts.query or parts.fragment:
        raise ValueError("base_url must end with its path, without '?' or '#'")
    if has_key_form(url):
        raise ValueError(
            "base_url must be http://... or https://... and holds an API key: pass it as api_key="
        )
    if not is_address:
        raise ValueError(f"base_url must be http://... or https://..., not {shown(url)}")


def _is_host(host: str | None) -> bool:
    # The limits of DNS; the HTTP library reports them only when a request is sent.
    labels = (host or "").removesuffix(".").split(".")
    return all(0 < len(label) < 64 and " " not in label for label in labels)
