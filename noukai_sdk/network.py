"""Whether requests may leave this process: a test suite can refuse those that nothing recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ReplayDisabledError
from .protocol.call import Service

_refusals: list[str] = []


@contextmanager
def live_calls_refused(reason: str) -> Iterator[None]:
    """Refuse every request in this process. Clients with an ``http_client`` of their own may go on.

    Args:
        reason: What the error says, and what to do about it.
    """
    _refusals.append(reason)
    try:
        yield
    finally:
        _refusals.remove(reason)


def check_allowed(service: Service, path: str) -> None:
    """Raise ReplayDisabledError where requests are refused."""
    if _refusals and not service.custom_http:
        raise ReplayDisabledError(f"a live request to {path} was refused: {_refusals[-1]}")
