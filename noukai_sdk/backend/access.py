"""Who may call, and on what."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request

from .errors import RequestError
from .settings import Keys

_SESSION_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}\Z")


@dataclass(frozen=True)
class Access:
    """What a key opens: one organisation, or all of them where ``org`` is None."""

    org: str | None

    def allows(self, org: str) -> bool:
        """Whether the key may use this organisation."""
        return self.org is None or self.org == org

    def require(self, org: str) -> None:
        """Refuse another organisation's resources."""
        if not self.allows(org):
            raise RequestError(
                403, "FORBIDDEN", f"this API key may not use the organisation {org!r}"
            )


def authenticate(request: Request, keys: Keys) -> Access:
    """What the request's key opens. Refuses a missing or unknown one with 401."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or key.strip() not in keys:
        raise RequestError(
            401,
            "UNAUTHENTICATED",
            "unknown or missing API key: send 'Authorization: Bearer nk_dev', or name yours in "
            "NOUKAI_DEV_KEYS",
            headers={"WWW-Authenticate": 'Bearer realm="noukai"'},
        )
    return Access(keys[key.strip()])


def session_id_from(text: str) -> str:
    """A session id, once it is sure that it is one."""
    if not _SESSION_ID.match(text):
        raise RequestError(
            400,
            "SESSION_ID_INVALID",
            "a session id is 1 to 128 letters, digits, '-', '_' and '.', and not only dots",
        )
    return text
