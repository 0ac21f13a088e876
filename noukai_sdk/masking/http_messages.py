"""Mask the secrets in the parts of an HTTP message: headers, query strings and bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote_plus, unquote_plus

from .names import is_secret_name
from .values import REDACTED, Masker

_SEPARATOR = re.compile("([&;])")
_REDACTED_FIELD = quote_plus(REDACTED)


def mask_headers(headers: Iterable[tuple[str, str]], masker: Masker) -> list[tuple[str, str]]:
    """Return the headers with the values of secret ones replaced.

    Example:
        >>> mask_headers([("cookie", "a=1"), ("accept", "*/*")], Masker())
        [('cookie', '[redacted]'), ('accept', '*/*')]
    """
    return [
        (name, REDACTED if is_secret_name(name) else masker.text(value)) for name, value in headers
    ]


def mask_query(query: str, masker: Masker) -> str:
    """Return a query string, or a form in this encoding, without its secrets.

    Example:
        >>> mask_query("q=two+words&api_key=abc", Masker())
        'q=two+words&api_key=%5Bredacted%5D'
    """
    parts = _SEPARATOR.split(query)
    # The separators have the odd indexes.
    parts[::2] = [_mask_field(part, masker) for part in parts[::2]]
    return "".join(parts)


def _mask_field(field: str, masker: Masker) -> str:
    name, equals, value = field.partition("=")
    plain = unquote_plus(value)
    if value and is_secret_name(unquote_plus(name)):
        return name + equals + _REDACTED_FIELD
    masked = masker.text(plain)
    name_masked = masker.text(unquote_plus(name))
    if name_masked != unquote_plus(name):
        name = quote_plus(name_masked)
    return name + equals + (value if masked == plain else quote_plus(masked))


def mask_body(text: str, content_type: str, masker: Masker) -> str:
    """Return the text of a body without its secrets. A form is masked field by field."""
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        return mask_query(text, masker)
    return masker.text(text)
