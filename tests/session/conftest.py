"""Fixtures of the session tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from noukai_sdk.session.scope import current_scope
from tests.support.replays import AsyncSide, SessionService, SyncSide


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_scope_left() -> Iterator[None]:
    yield
    gc.collect()
    assert current_scope() is None


@pytest.fixture
def replay_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
def service() -> SessionService:
    return SessionService()


@pytest.fixture(params=[SyncSide, AsyncSide], ids=["sync", "async"])
def side(request: Any, service: SessionService) -> SyncSide:
    """Each of the two clients; ``scope()`` captures."""
    made: SyncSide = request.param(service)
    return made
