"""Mask the secrets in texts, in the chunks of a stream and in JSON values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .forms import Span, form_spans
from .named import named_spans
from .names import is_secret_name
from .personal import personal_spans

REDACTED = "[redacted]"

# Short words, as most values of a JSON document are, hold no secret; to see that takes a tenth of the time.
_WORDS = re.compile(r"(?:[A-Za-z0-9]{1,15}(?:,? |\Z))*\Z")
_SCHEME = re.compile(r"basic|bearer", re.IGNORECASE)
_MOST_NAMES = 10_000


class Masker:
    """Masks secrets in copies of values. A second masking changes nothing.

    Args:
        pii: Mask personal data as well: e-mail addresses, phone numbers, payment cards and IBANs.
        secrets: Texts to mask wherever they occur, the longest first.
    """

    def __init__(self, pii: bool = False, secrets: Sequence[str] = ()) -> None:
        self.pii = pii
        self._secrets = secrets
        self._names: dict[str, str] = {}

    def value(self, value: Any) -> Any:
        """Return a copy of a JSON value without its secrets.

        Example:
            >>> Masker().value({"token": "abc", "note": "password=hunter2", "max_tokens": 5})
            {'token': '[redacted]', 'note': 'password=[redacted]', 'max_tokens': 5}
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {
                self._name(name) if isinstance(name, str) else name: self._field(name, item)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def text(self, text: str) -> str:
        """Return ``text`` without its secrets. JSON, such as the arguments of a tool, is a value."""
        return self._plain(self._json(text))

    def chunks(self, chunks: Sequence[str]) -> list[str]:
        """Mask the chunks of one text as a whole: a secret may be split anywhere.

        Each mask stands in the chunk in which its secret starts. JSON whose fields change goes into
        the first chunk.

        Example:
            >>> Masker().chunks(["Bearer a1b2c3", "d4, then"])
            ['[redacted]', ', then']
        """
        whole = "".join(chunks)
        spans = self._spans(whole)
        masked = self.text(whole)
        if masked != _replaced(whole, spans):
            return [masked, *[""] * (len(chunks) - 1)]
        if not spans:
            return list(chunks)
        out = []
        start = 0
        for chunk in chunks:
            end = start + len(chunk)
            text = ""
            position = start
            for first, last in spans:
                if last <= position or first >= end:
                    continue
                text += whole[position : max(first, position)]
                text += REDACTED if first >= start else ""
                position = min(last, end)
            out.append(text + whole[position:end])
            start = end
        return out

    def _name(self, name: str) -> str:
        """Mask the name of a field. The same few come again and again."""
        masked = self._names.get(name)
        if masked is None:
            masked = self._plain(name)
            if len(self._names) < _MOST_NAMES and len(name) < 200:
                self._names[name] = masked
        return masked

    def _field(self, name: Any, value: Any) -> Any:
        # Booleans and None are not secrets, and often say whether there is one.
        if isinstance(value, bool) or value is None or not is_secret_name(name):
            return self.value(value)
        return REDACTED

    def _json(self, text: str) -> str:
        if text.lstrip()[:1] not in ("{", "[", '"'):
            return text
        try:
            value = json.loads(text)
            clean = self.value(value)
        except (ValueError, RecursionError):
            return text
        return text if clean == value else json.dumps(clean, ensure_ascii=False)

    def _plain(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        # A mask can join texts that stood apart. More than one pass is rare.
        for _ in range(5):
            masked = _replaced(text, self._spans(text))
            if masked == text:
                break
            text = masked
        return text

    def _spans(self, text: str) -> list[Span]:
        """Return the places of the secrets in order; those that touch become one."""
        if len(text) < 4:
            return []
        if not self.pii and _WORDS.match(text) and not _SCHEME.search(text):
            return []
        found = [*form_spans(text), *named_spans(text)]
        if self.pii:
            found += personal_spans(text)
        if len(found) < 2:
            return found
        merged: list[Span] = []
        for first, last in sorted(found):
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return merged


def _replaced(text: str, spans: Sequence[Span]) -> str:
    if not spans:
        return text
    parts = []
    position = 0
    for first, last in spans:
        parts += [text[position:first], REDACTED]
        position = last
    return "".join([*parts, text[position:]])
