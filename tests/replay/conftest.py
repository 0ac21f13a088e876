"""Fixtures of the replay tests: an open gate, a service of recorded sessions, both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noukai_sdk.session.scope import current_scope
from tests.replay.live import Live, LiveAsync, LiveSync, write_flows
from tests.replay.service import AsyncSide, Service, Side, SyncSide
from tests.support.servers import Server, serve_backend


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


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real backend."""
    folder = tmp_path_factory.mktemp("backend")
    with serve_backend(folder, flows=write_flows(folder / "flows")) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def live(request: Any, backend: Server, redirect_dev: Callable[[str], None]) -> Iterator[Live]:
    """One of the two clients, in front of the real backend."""
    redirect_dev(backend.api)
    if request.param == "async":
        yield LiveAsync()
        return
    side = LiveSync()
    with side.client:
        yield side


@pytest.fixture
def live_sync(backend: Server, redirect_dev: Callable[[str], None]) -> Iterator[LiveSync]:
    """The sync client, in front of the real backend."""
    redirect_dev(backend.api)
    side = LiveSync()
    with side.client:
        yield side


@pytest.fixture
def live_async(backend: Server, redirect_dev: Callable[[str], None]) -> LiveAsync:
    """The async client, in front of the real backend."""
    redirect_dev(backend.api)
    return LiveAsync()
