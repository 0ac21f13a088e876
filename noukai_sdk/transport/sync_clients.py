"""The HTTP client behind one Noukai, and behind its copies with other options."""

from __future__ import annotations

import weakref
from typing import Any

from .after_fork import renew_in_children
from .library import sync_client


class SyncClients:
    """Holds an HTTP client.

    Args:
        own: The user's client, which is never closed.

    Attributes:
        client: The client to send with.
        closed: Calls are refused.
    """

    def __init__(self, own: Any = None) -> None:
        self.client: Any = own
        self._owned = own is None
        self.closed = False
        if self._owned:
            self._open()
            renew_in_children(self)

    def _open(self) -> None:
        self.client = sync_client()
        # For clients that are never closed: Python warns of sockets that are dropped open.
        self._end = weakref.finalize(self, self.client.close)

    def start_afresh(self) -> Any:
        """Open a new client in a forked process. Returns the one of the parent process."""
        inherited = self.client
        self._end.detach()
        self._open()
        return inherited

    def close(self) -> None:
        """Release the connections. May be called any number of times."""
        self.closed = True
        if self._owned:
            self.client.close()
