"""API keys: where they come from, and whether one can be sent at all."""

from __future__ import annotations

import os

from ..config import LlmConfig
from ..errors import LlmConfigError


def required_key(config: LlmConfig, variable: str) -> str:
    """The configuration's key, or the environment's.

    Raises:
        LlmConfigError: There is none, or it cannot be one.
    """
    key = config.api_key or os.environ.get(variable)
    if not key:
        raise LlmConfigError(f"{config.name} needs a key: pass api_key= or set {variable}")
    return usable_key(config, key)


def usable_key(config: LlmConfig, key: str) -> str:
    """The key, if it can stand in a header.

    Raises:
        LlmConfigError: It cannot; the HTTP library's own error would print it.
    """
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LlmConfigError(
            f"{config.name}: the API key has a space, a line break or a letter that no key has"
        )
    return key
