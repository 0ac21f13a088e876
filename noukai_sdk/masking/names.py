"""Tell by a field's name whether its value is a secret."""

from __future__ import annotations

import re
from functools import lru_cache

# A name is secret if its last word is one of these: dbPassword, X-Auth, user_pin. Words must match
# as a whole, so that "pinned" and "author" are not secret.
_LAST = frozenset(
    {
        "authorization", "auth", "cookie", "cookies", "password", "passwords", "passwd", "pwd",
        "passphrase", "passcode", "pin", "otp", "secret", "secrets", "credential",
        "credentials", "apikey"
    }
)  # fmt: skip
# Compounds, also in one word: dbpassword.
_ENDINGS = ("password", "passwd", "passphrase", "passcode", "apikey", "secretkey", "secret")
_KEYS = frozenset(
    {
        "api", "private", "secret", "access", "account", "signing", "encryption", "master",
        "shared", "ssh", "subscription", "storage", "role", "stripe", "openai"
    }
)  # fmt: skip
# Only tokens that grant access count: the text of a model comes in tokens too.
_TOKENS = frozenset(
    {
        "access", "refresh", "id", "auth", "bearer", "session", "api", "bot", "csrf", "xsrf",
        "csrfmiddleware", "user", "client", "secret", "security", "service", "deploy", "jwt",
        "oauth", "github", "gitlab", "gh", "hf", "hub", "huggingface", "npm",
        "slack", "personal", "sas", "vault"
    }
)  # fmt: skip
_WHOLE = frozenset({"token", "pass"})
# What may follow the word: password_confirmation, secret_value, pin_code.
_QUALIFIERS = frozenset(
    {
        "value", "text", "string", "plain", "raw", "old", "new", "confirm", "confirmation",
        "code"
    }
)  # fmt: skip

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BETWEEN = re.compile(r"[-_.\s]+")


@lru_cache(maxsize=4096)
def is_secret_name(name: object) -> bool:
    """Return whether the value of a field of this name is a secret.

    Example:
        >>> is_secret_name("OPENAI_API_KEY"), is_secret_name("userPin"), is_secret_name("pinned")
        (True, True, False)
    """
    words = name_words(name) if isinstance(name, str) else ()
    if not words:
        return False
    last = words[-1]
    if last in _LAST or last.endswith(_ENDINGS):
        return True
    if last in _joined("key", _KEYS) or last in _joined("token", _TOKENS):  # X-CSRFToken
        return True
    if len(words) == 1:
        return last in _WHOLE
    before = words[-2]
    return (
        before + last in _LAST
        or (last == "key" and before in _KEYS)
        or (last == "token" and before in _TOKENS)
    )


def name_words(name: str) -> tuple[str, ...]:
    """Return the words of a camelCase, snake_case or kebab-case name, without what qualifies it.

    Example:
        >>> name_words("dbPassword2"), name_words("X-API-Key"), name_words("secret_value")
        (('db', 'password'), ('x', 'api', 'key'), ('secret',))
    """
    if len(name) > 200:  # a text, not a name
        return ()
    split = _BETWEEN.split(_HUMP.sub("_", name).lower())
    words = [word for word in split if word]
    while len(words) > 1 and (words[-1].isdecimal() or words[-1] in _QUALIFIERS):
        words.pop()
    if words and not words[-1].isdecimal():
        words[-1] = words[-1].rstrip("0123456789")
    return tuple(words)


@lru_cache(maxsize=4)
def _joined(last: str, words: frozenset[str]) -> frozenset[str]:
    return frozenset(word + last for word in words)
