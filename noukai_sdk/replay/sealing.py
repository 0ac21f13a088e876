"""Lines that show damage: each ends in a digest of itself and all lines before it."""

from __future__ import annotations

import hashlib

_FIELD = b', "seal": "'
_DIGITS = 16
_END = b'"}'
_LENGTH = len(_FIELD) + _DIGITS + len(_END)


class Seal:
    """Seals the lines of one file, or checks their seals, from the first on."""

    def __init__(self) -> None:
        # Eight bytes tell damage of any kind. They are no signature: who means to forge a line can.
        self._digest = hashlib.blake2b(digest_size=_DIGITS // 2)

    def put(self, line: bytes) -> bytes:
        """``line``, a JSON object, with its seal as the last field."""
        body = line[:-1]
        self._digest.update(body)
        return body + _FIELD + self._digest.hexdigest().encode() + _END

    def fits(self, line: bytes) -> bool:
        """Whether ``line`` has the seal that belongs to it here."""
        self._digest.update(line[:-_LENGTH])
        return line[-_LENGTH:] == _FIELD + self._digest.hexdigest().encode() + _END
