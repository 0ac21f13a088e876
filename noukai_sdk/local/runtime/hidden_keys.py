"""Keep API keys out of errors, wherever somebody has passed one by mistake."""

from __future__ import annotations

import re
from typing import Any

# Shorter than the forms of noukai_sdk.masking: a setting is never prose, so a prefix is enough. Providers
# that quote a key write most of it as stars, and that is no key.
_KEY = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk)[-_]|gsk_|csk-|xai-|pplx-|nk_|hf_|fw_|r8_|gh[pousr]_|AIza|eyJ)"
    r"(?![\w.-]*\*)[\w.-]{4,}|\bBearer\s+\S{8,}"
)
# Letters and digits without a word in them, as in the keys of Azure and Mistral.
_RANDOM = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{24,}")
_HIDDEN = "..."
_MOST = 100
# Shorter keys are placeholders, and occur in any text.
SHORTEST_KEY = 8


def hide_keys(text: str, *keys: str) -> str:
    """Return ``text`` with ``...`` for each of ``keys``, and for all that has the form of a key.

    Example:
        >>> hide_keys("unknown model sk-secret")
        'unknown model ...'
    """
    from ...masking.forms import form_spans  # 60 patterns, for errors alone

    for key in keys:
        if len(key) >= SHORTEST_KEY:
            text = text.replace(key, _HIDDEN)
    text = _KEY.sub(_HIDDEN, text)
    for start, end in sorted(form_spans(text), reverse=True):
        text = text[:start] + _HIDDEN + text[end:]
    return text


def has_key_form(text: str) -> bool:
    """Return whether a setting, such as the name of a model, holds what can only be a key."""
    return _KEY.search(text) is not None


def shown(value: Any) -> str:
    """Return the repr of a setting for an error, short and without keys.

    Example:
        >>> shown("gpt-5"), shown("0123456789abcdef0123456789abcdef")
        ("'gpt-5'", "'...'")
    """
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    text = _RANDOM.sub(_HIDDEN, hide_keys(text))
    return text if len(text) <= _MOST else f"{text[:_MOST]}...{text[:1]}"


def type_name(value: Any) -> str:
    """Return how to name the type of a wrong setting. Its value may be a key."""
    return "None" if value is None else type(value).__name__
