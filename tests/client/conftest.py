"""One server for all tests here, and the clients that they run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import serve_app, wait_until
from tests.support.service import Service
from tests.support.sides import ASYNC, BOTH, EVERY, Side


class _Stage:
    """The app of the server. Each test sets its own service."""

    service = Service()

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        await self.service(scope, receive, send)  # type: ignore[arg-type]  # plain ASGI callables


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[_Stage, str]]:
    stage = _Stage()
    with serve_app(stage, log_level="critical", lifespan="off", access_log=False) as url:
        yield stage, url


@pytest.fixture
def url(stage: tuple[_Stage, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the base URL of the service, which clients use."""
    base = f"{stage[1]}/api/v1"
    monkeypatch.setenv("NOUKAI_BASE_URL", base)
    return base


@pytest.fixture
def service(stage: tuple[_Stage, str], url: str) -> Iterator[Service]:
    service = stage[0].service = Service()
    yield service
    service.over = True
    wait_until(lambda: service.under_way == 0, what="the service to come to rest")


def _use(side: Side, monkeypatch: pytest.MonkeyPatch) -> Side:
    monkeypatch.setenv("NOUKAI_FAST", "1" if side.fast else "0")
    return side


@pytest.fixture(params=BOTH, ids=lambda side: side.name)
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """Run the test on the sync client, and on the async one under asyncio."""
    return _use(request.param, monkeypatch)


@pytest.fixture(params=EVERY, ids=lambda side: side.name)
def every_side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """Run the test also on trio, and with the extra ``fast``: for tests of the drivers."""
    return _use(request.param, monkeypatch)


@pytest.fixture
def async_side(monkeypatch: pytest.MonkeyPatch) -> Side:
    """Run the test on the async client under asyncio."""
    return _use(ASYNC[0], monkeypatch)


@pytest.fixture(params=ASYNC, ids=lambda side: side.name)
def every_async_side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """Run the test on the async client under asyncio, with the extra ``fast``, and under trio."""
    return _use(request.param, monkeypatch)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Return the event loop that the test's side needs."""
    for name in ("side", "every_side", "every_async_side"):
        if name in request.fixturenames:
            side: Side = request.getfixturevalue(name)
            return side.backend
    return "asyncio"
