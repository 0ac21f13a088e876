"""Masks secrets in what is stored under the capture mode ``redacted``.

Two rules: any text under a name that says secret (``api_key``, ``password``, ``token``, ...) goes,
and within other texts everything that looks like one (``Bearer ...``, ``nk_...``, ``password: ...``).
Numbers stay: token counts are no secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

MASK = "***"

_WORDS = (
    r"(?:api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|secret|token|password|passwd|passphrase"
    r"|authorization|credential|cookie)s?"
)
_SECRET_NAME = re.compile(_WORDS, re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"""
      \bBearer\s+(?P<bearer>[^\s"'\\,;]+)
    | \b(?P<key>(?:nk|sk|pk|rk|ghp|gho|ghs|github_pat|xox[abprs])[-_][A-Za-z0-9_-]{6,})
    | \b(?P<aws>AKIA[0-9A-Z]{16})\b
    | (?<![\w-])(?P<jwt>eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)
    | ://[^\s/:@]+:(?P<url>[^\s/@]+)@
    | """
    + _WORDS
    + r"""[\w-]{0,32}\\{0,8}["']?\s{0,8}[:=]\s{0,8}\\{0,8}["']?
      (?:(?:Basic|Bearer)\s+)?(?P<named>[^\s"'\\,;}&]+)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def masked(value: Any) -> Any:
    """``value`` with every secret replaced by ``***``; the value itself is not changed.

    Example:
        >>> masked({"token": "abc", "note": "password: hunter2", "max_tokens": 5})
        {'token': '***', 'note': 'password: ***', 'max_tokens': 5}
    """
    if isinstance(value, str):
        return masked_chunks([value])[0]
    if isinstance(value, dict):
        return {
            name: _blank(item) if _SECRET_NAME.search(name) else masked(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


def _blank(value: Any) -> Any:
    if isinstance(value, str):
        return MASK
    if isinstance(value, dict):
        return {name: _blank(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_blank(item) for item in value]
    return value


def masked_chunks(chunks: Sequence[str]) -> list[str]:
    """The pieces of one text, masked as a whole: a secret may be cut anywhere.

    Example:
        >>> masked_chunks(["Bearer a", "bc, then"])
        ['Bearer ***', ', then']
    """
    spans = list(_secret_spans("".join(chunks)))
    if not spans:
        return list(chunks)
    start = 0
    out = []
    for chunk in chunks:
        out.append(_masked_chunk(chunk, start, spans))
        start += len(chunk)
    return out


def _secret_spans(text: str) -> Iterator[tuple[int, int]]:
    for match in _SECRET_TEXT.finditer(text):
        yield match.span(str(match.lastgroup))


def _masked_chunk(chunk: str, start: int, spans: Sequence[tuple[int, int]]) -> str:
    """``chunk``, which begins at ``start`` of the text. The mask stands where its secret begins."""
    out = ""
    place = start
    end = start + len(chunk)
    for first, last in spans:
        if last <= place or first >= end:
            continue
        out += chunk[place - start : max(first - start, 0)]
        out += MASK if first >= start else ""
        place = min(last, end)
    return out + chunk[place - start :]
