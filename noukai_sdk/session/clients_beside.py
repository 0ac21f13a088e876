"""Which clients take part in the same sessions: a session that several made has a part for each key."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol.call import Service

Key = tuple[str, str | None]
"""The base URL and the Authorization header of a client."""

MOST_CLIENTS = 20

# The clients that were used in the scopes of another client, by the keys of both, and those that were given
# together. The first are bounded: a program may make a client for each of its users.
_clients: dict[Key, dict[Key, None]] = {}
_given: dict[Key, dict[Key, None]] = {}


def note_client(of: Service, other: Service, *, given: bool = False) -> None:
    """Note that two clients take part in the same sessions; ``given`` if the user says so."""
    if other.key == of.key:
        return
    if given:
        _given.setdefault(of.key, {})[other.key] = None
        return
    known = _clients.setdefault(of.key, {})
    known[other.key] = None
    # Another thread may change them meanwhile.
    with suppress(RuntimeError, StopIteration):
        for latest in (known, _clients):
            while len(latest) > MOST_CLIENTS:
                del latest[next(iter(latest))]


def keys_beside(service: Service, *, given: bool = False) -> set[Key]:
    """Return the keys of clients that were given with this one; else also those used in its sessions."""
    key = service.key
    used = () if given else list(_clients.get(key, ()))
    return {*list(_given.get(key, ())), *used}
