"""A process that was forked starts with connections of its own.

A socket that two processes read from gives each of them the other's answers.
"""

from __future__ import annotations

import os
from typing import Any, Protocol
from weakref import WeakSet


class Owner(Protocol):
    """Has connections."""

    def start_afresh(self) -> Any:
        """Make new ones; gives what held the old ones."""


_owners: WeakSet[Owner] = WeakSet()
# What belongs to the parent is not closed here, nor collected, which would close it: a lock of it may be
# held by a thread that this process does not have.
_inherited: list[Any] = []


def renew_in_children(owner: Owner) -> None:
    """Have ``owner`` start afresh in each process that is forked from this one."""
    _owners.add(owner)


def _after_fork() -> None:
    _inherited.extend([owner.start_afresh() for owner in list(_owners)])


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork)
