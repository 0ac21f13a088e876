"""Decide whether requests may leave this process. A test suite can refuse requests without a recording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import AuthenticationError, ReplayDisabledError
from ..protocol.call import Service

NO_KEY = "no API key: set NOUKAI_API_KEY, or pass api_key='nk_...'"

# The last rule counts; None allows. The object makes each entry unique, for its removal.
_rules: list[tuple[object, str | None]] = []


@contextmanager
def live_calls_refused(reason: str) -> Iterator[None]:
    """Refuse every request in this process, except those of clients that were made with ``http_client=``.

    Args:
        reason: Goes into the error: why, and what to do about it.
    """
    with _rule(reason):
        yield


@contextmanager
def live_calls_allowed() -> Iterator[None]:
    """Allow requests again, inside a block that refuses them."""
    with _rule(None):
        yield


@contextmanager
def _rule(reason: str | None) -> Iterator[None]:
    rule = (object(), reason)
    _rules.append(rule)
    try:
        yield
    finally:
        _rules.remove(rule)


def are_refused(service: Service) -> bool:
    """Return whether requests of these clients are refused now."""
    return bool(_rules) and _rules[-1][1] is not None and not service.custom_http


def check_allowed(service: Service, path: str) -> None:
    """Raise ReplayDisabledError if requests are refused, AuthenticationError without an API key."""
    if not service.has_key:
        raise AuthenticationError(NO_KEY)
    if are_refused(service):
        raise ReplayDisabledError(f"a live request to {path} was refused: {_rules[-1][1]}")
