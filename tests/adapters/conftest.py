"""A service that records sessions, and clients of both kinds that are connected to it."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from noukai_sdk import AsyncNoukai, Noukai
from noukai_sdk.adapters import asgi, wsgi
from noukai_sdk.session.scope import current_scope
from noukai_sdk.transport import background
from tests.support.servers import serve_app
from tests.support.service import Service
from tests.support.sessions import RecordedSessions


@pytest.fixture
def anyio_backend() -> str:
    # Nothing in the adapters depends on the event loop; one test runs on trio to prove it.
    return "asyncio"


@pytest.fixture(autouse=True)
def short_waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let replays with leftovers end soon, but for the tests of late calls; drop reports in an outage."""
    monkeypatch.setattr(background, "LONGEST_OUTAGE", 0.0)
    if not request.module.__name__.endswith("test_lost_calls"):
        monkeypatch.setattr(asgi, "LATE_CALLS", 0.01)
        monkeypatch.setattr(wsgi, "LATE_CALLS", 0.01)


@pytest.fixture(scope="session")
def service() -> Iterator[tuple[Service, str]]:
    """A running service, and its URL."""
    service = Service()
    with serve_app(service, http="h11", lifespan="off") as url:
        yield service, url


@pytest.fixture
def sessions(
    service: tuple[Service, str], use_service: Callable[[str], None]
) -> Iterator[RecordedSessions]:
    """The sessions of the service that clients connect to in this test."""
    running, url = service
    use_service(f"{url}/api/v1")
    sessions = RecordedSessions()
    running.replies = [sessions]
    running.requests.clear()
    yield sessions
    background.flush(10)  # the next test has other sessions


@pytest.fixture
def replay_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
def sync_noukai(sessions: RecordedSessions) -> Iterator[Noukai]:
    with Noukai(org="acme", project="spelling", timeout=20) as client:
        yield client


@pytest.fixture
async def noukai(sessions: RecordedSessions) -> AsyncIterator[AsyncNoukai]:
    async with AsyncNoukai(org="acme", project="spelling", timeout=20) as client:
        yield client


@pytest.fixture
def no_scope_leaks() -> Iterator[None]:
    """Fail if the test leaves a scope behind in its thread."""
    yield
    gc.collect()
    assert current_scope() is None
