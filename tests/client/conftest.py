"""Every test here runs on the sync client, and on the async one by asyncio, by trio and with ``fast``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noukai_sdk.client import BASE_URLS
from tests.support.servers import serve_app, wait_until
from tests.support.service import Service
from tests.support.sides import ASYNC, SIDES, Side


class _Stage:
    """The app of the one server of all tests here; each test has a service of its own."""

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
    """The service's base URL, which ``env="dev"`` means as well."""
    base = f"{stage[1]}/api/v1"
    monkeypatch.setitem(BASE_URLS, "dev", base)
    return base


@pytest.fixture
def service(stage: tuple[_Stage, str], url: str) -> Iterator[Service]:
    service = stage[0].service = Service()
    yield service
    service.over = True
    wait_until(lambda: service.under_way == 0, what="the service to come to rest")


@pytest.fixture(params=SIDES, ids=lambda side: side.name)
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """A test that asks for it runs once for each kind of client."""
    side: Side = request.param
    monkeypatch.setenv("NOUKAI_FAST", "1" if side.fast else "0")
    return side


@pytest.fixture(params=ASYNC, ids=lambda side: side.name)
def async_side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """As ``side``, for what only the async client has."""
    side: Side = request.param
    monkeypatch.setenv("NOUKAI_FAST", "1" if side.fast else "0")
    return side


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop that the test's side needs."""
    for name in ("side", "async_side"):
        if name in request.fixturenames:
            side: Side = request.getfixturevalue(name)
            return side.backend
    return "asyncio"
