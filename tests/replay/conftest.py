"""Fixtures of the replay tests: replay enabled, a service of recorded sessions, both clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.session.scope import current_scope
from tests.support.replays import AsyncSide, SessionService, SyncSide
from tests.support.servers import Server, serve_backend

FLOWS = {
    "acme/tests/broken.yaml": "steps: [{id: good}, {id: bad, function: '_steps.py:fail'}]",
    "acme/tests/echo.yaml": "steps: [{id: echo, function: '_steps.py:echo'}]",
    "acme/tests/_steps.py": (
        "def echo(text):\n"
        "    return {'text': text}\n"
        "def fail():\n"
        "    raise ValueError('no luck today')\n"
    ),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def replay_enabled(monkeypatch: pytest.MonkeyPatch, no_settings_from_outside: None) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture(autouse=True)
def no_scope_left() -> Iterator[None]:
    yield
    assert current_scope() is None


@pytest.fixture
def service() -> Iterator[SessionService]:
    """A service of recorded sessions, which only the fetch of a session may reach."""
    service = SessionService()
    yield service
    assert service.calls == []


@pytest.fixture(params=[SyncSide, AsyncSide], ids=["sync", "async"])
def side(request: Any, service: SessionService) -> SyncSide:
    """Each of the two clients; ``scope()`` replays session ``s-1``."""
    made: SyncSide = request.param(service, "s-1")
    return made


@pytest.fixture
def async_side(service: SessionService) -> AsyncSide:
    return AsyncSide(service, "s-1")


@pytest.fixture
def sync_side(service: SessionService) -> SyncSide:
    return SyncSide(service, "s-1")


@pytest.fixture
def echo() -> SessionService:
    """A service that echoes live calls."""
    return SessionService()


@pytest.fixture(params=[SyncSide, AsyncSide], ids=["sync", "async"])
def echoed(request: Any, echo: SessionService) -> SyncSide:
    """Each of the two clients, in front of ``echo``; ``scope()`` captures."""
    made: SyncSide = request.param(echo)
    return made


@pytest.fixture
async def path(echoed: SyncSide, echo: SessionService, tmp_path: Path) -> Path:
    """A cassette of the calls a, b and c with the results "a 1", "b 2" and "c 3"."""
    async with echoed.scope(record=tmp_path / "c.jsonl"):
        assert await echoed.ask("a", "b", "c") == ["a 1", "b 2", "c 3"]
    echo.calls.clear()
    return tmp_path / "c.jsonl"


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real backend, with the flows of these tests."""
    folder = tmp_path_factory.mktemp("backend")
    for name, text in FLOWS.items():
        (folder / "flows" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "flows" / name).write_text(text)
    with serve_backend(folder, flows=folder / "flows") as server:
        yield server


@pytest.fixture(params=[SyncSide, AsyncSide], ids=["sync", "async"])
async def live(request: Any, backend: Server, use_service: Callable[[str], None]) -> Any:
    """Each of the two clients, in front of the real backend."""
    use_service(backend.api)
    side: SyncSide = request.param()
    yield side
    if side.is_async:
        await side.client.aclose()
    else:
        side.client.close()
