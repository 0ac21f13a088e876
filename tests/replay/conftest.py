"""Fixtures of the replay tests: an open gate, a service of recorded sessions, both clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from noukai_sdk.session.context import current_scope
from tests.replay.service import AsyncSide, Service, Side, SyncSide


@pytest.fixture(autouse=True)
def open_gate(monkeypatch: pytest.MonkeyPatch, no_settings_from_outside: None) -> None:
    """Replay is allowed."""
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No scope outlives a test."""
    yield
    assert current_scope() is None


@pytest.fixture
def service() -> Iterator[Service]:
    """A service of recorded sessions, which nothing may reach but the fetch of a session."""
    service = Service()
    yield service
    assert service.live == []


@pytest.fixture(params=["sync", "async"])
def side(request: Any, service: Service) -> Side:
    """One of the two clients."""
    return SyncSide(service) if request.param == "sync" else AsyncSide(service)


@pytest.fixture
def async_side(service: Service) -> AsyncSide:
    """The async client."""
    return AsyncSide(service)


@pytest.fixture
def sync_side(service: Service) -> SyncSide:
    """The sync client."""
    return SyncSide(service)
