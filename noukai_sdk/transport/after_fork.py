"""Give each forked process connections of its own.

Two processes that read from one socket would get each other's responses.
"""

from __future__ import annotations

import os
from typing import Any, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Holds connections."""

    def start_afresh(self) -> Any:
        """Open new connections. Returns the object that holds the old ones."""


_owners: WeakSet[Owner] = WeakSet()
# The parent's connections are kept, because collecting them would close them, and closing may wait for a
# lock that is held by a thread which this process does not have.
_inherited: list[Any] = []


def renew_in_children(owner: Owner) -> None:
    """Call ``owner.start_afresh`` in each process that is forked from this one."""
    _owners.add(owner)


def _after_fork() -> None:
    _inherited.extend([owner.start_afresh() for owner in list(_owners)])


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork)
