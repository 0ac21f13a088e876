"""Search for a text in columns, in any case, with SQLite and with Postgres."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import ColumnElement, and_, func

from ..encoding import encode

_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(:?)')
# For Postgres, whose patterns do not go from string to string: a value that starts with a colon loses it.
_KEY = r'"(?:[^"\\]|\\.)*":'


def contains(text: str | None, needle: str, is_json: bool) -> bool:
    """Return whether ``text`` contains ``needle``, in any case. SQLite calls it as a function.

    Args:
        text: A text, or JSON without spaces between its tokens.
        needle: A text in lower case by ``str.casefold``; for JSON, escaped as in JSON.
        is_json: Do not look at the names of fields.
    """
    if text is None or needle not in text.casefold():
        return False
    if not is_json:
        return True
    if text.startswith("@"):  # a reference to an object (blobs.py)
        return False
    values = _STRING.sub(lambda token: "" if token[2] else token[1], text)
    return needle in values.casefold()


class Search:
    """Conditions that a column contains ``text``, in any case."""

    def __init__(self, text: str, dialect: str) -> None:
        self._is_sqlite = dialect == "sqlite"
        self._text = text.casefold()
        self._json = encode(self._text).decode()[1:-1]

    def in_text(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition for a column of text."""
        if self._is_sqlite:
            return func.noukai_contains(column, self._text, False)
        return column.icontains(self._text, autoescape=True)

    def in_json(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition for the values in a column of JSON, not for the names of its fields."""
        if self._is_sqlite:
            return func.noukai_contains(column, self._json, True)
        values = func.regexp_replace(column, _KEY, "", "g")
        return and_(
            column.not_like("@%"),  # not a reference to an object (blobs.py)
            column.icontains(self._json, autoescape=True),
            values.icontains(self._json, autoescape=True),
        )
