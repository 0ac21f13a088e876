"""The stand-in service, and clients of both kinds that talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from noukai_sdk import AsyncNoukai, Noukai
from tests.adapters.service import Service
from tests.support.servers import serve_app


@pytest.fixture(scope="session")
def running_service() -> Iterator[tuple[Service, str]]:
    service = Service()
    with serve_app(service.app, http="h11") as url:
        yield service, url


@pytest.fixture
def service(
    running_service: tuple[Service, str], redirect_dev: Callable[[str], None]
) -> Iterator[Service]:
    """The service that ``env="dev"`` means in this test; nobody has called it yet."""
    service, url = running_service
    redirect_dev(f"{url}/api/v1")
    service.calls.clear()
    service.fetched.clear()
    yield service
    service.refusals.clear()
    service.capture_mode = "full"


@pytest.fixture
def replay_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
def sync_noukai(service: Service) -> Iterator[Noukai]:
    with Noukai(org="acme", project="spelling", timeout=20) as client:
        yield client


@pytest.fixture
async def noukai(service: Service) -> AsyncNoukai:
    async with AsyncNoukai(org="acme", project="spelling", timeout=20) as client:
        yield client
