"""Texts of recordings, so that a reader sees what they hold."""

from __future__ import annotations

import re

# Characters that cannot be seen, that change the order of others, or that no UTF-8 text can hold.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff"
    "\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""Return a text with visible marks for characters that cannot be seen.

    Example:
        >>> visible("a\x1b[31mb\u202ec")
        'a␛[31mb⟨U+202E⟩c'
    """
    return _UNSEEN.sub(_mark, text.replace("\r\n", "\n"))


def _mark(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def count(number: int, noun: str) -> str:
    """Return the number with its noun.

    Example:
        >>> count(1, "call"), count(4000, "call")
        ('1 call', '4,000 calls')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
