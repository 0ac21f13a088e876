"""What a secret looks like: by the name of its field, and by its own text."""

from __future__ import annotations

import re
from functools import lru_cache

REDACTED = "[redacted]"

# A name ends in one of these words, as secret_key, dbPassword and X-Api-Key do. Of tokens only those
# that open doors: the text of a model comes in tokens too.
_WORDS = (
    r"authorization|cookies?|pass(?:word|wd|phrase)|secrets?|credentials?|"
    r"(?:api|private|secret|access)[-_]?key|(?:access|refresh|id|auth|bearer|session|api|bot)[-_]?token"
)
_SECRET_NAME = re.compile(rf"(?:(?:.*[-_.\s])?(?:{_WORDS})|token)", re.IGNORECASE | re.DOTALL)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# Keys of Noukai, OpenAI and Anthropic, Google, GitHub, Slack and AWS; JSON web tokens; bearer tokens,
# which unlike bearers of other things hold a digit or are very long.
_SECRET_TEXT = re.compile(
    r"\bnk_[A-Za-z0-9_-]{8,}|\bsk-[A-Za-z0-9_-]{16,}|\bAIza[\w-]{30,}|"
    r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bxox[abeprs]-[\w-]{10,}|\bA[KS]IA[A-Z0-9]{16}\b|"
    r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|"
    r"\bBearer\s+(?:(?=[A-Za-z._~+/=-]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{20,})"
)

# A secret in text that is no JSON as a whole: "password": "...", api_key=...
_NAMED_IN_TEXT = re.compile(
    rf"""(\\?["'])((?:[\w.-]*[-_.])?(?:{_WORDS}|token))\1(\s*[:=]\s*)(\\?["'])(?:(?!\4).)+\4""",
    re.IGNORECASE,
)
_NAMED_IN_URL = re.compile(
    rf"""([?&;](?:[\w.-]*[-_.])?(?:{_WORDS}|token|signature)=)[^&\s"'#]+""", re.IGNORECASE
)

_IN_TEXT = (
    (_SECRET_TEXT, REDACTED),
    (_NAMED_IN_TEXT, rf"\1\2\1\3\4{REDACTED}\4"),
    (_NAMED_IN_URL, rf"\1{REDACTED}"),
)


@lru_cache(maxsize=4096)
def is_secret_name(name: object) -> bool:
    """Whether the value of a field of this name is a secret.

    Example:
        >>> is_secret_name("OPENAI_API_KEY"), is_secret_name("clientSecret"), is_secret_name("tokens")
        (True, True, False)
    """
    return isinstance(name, str) and _SECRET_NAME.fullmatch(_HUMP.sub("_", name)) is not None


def without_secrets(text: str) -> str:
    """``text`` without what looks like a secret.

    Example:
        >>> without_secrets("curl -H 'Authorization: Bearer abc123def456'")
        "curl -H 'Authorization: [redacted]'"
    """
    for pattern, replacement in _IN_TEXT:
        # Nearly no text holds any, and looking costs less than replacing nothing.
        if pattern.search(text) is not None:
            text = pattern.sub(replacement, text)
    return text
