"""Fixtures for the tests of model clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noukai_sdk.local.runtime.runtime import shutdown


@pytest.fixture
def anyio_backend() -> str:
    """Use asyncio. ``test_loop_bound.py`` and a few other tests run on trio as well."""
    return "asyncio"


@pytest.fixture(params=["openai_compatible", "anthropic"])
def protocol(request: pytest.FixtureRequest) -> str:
    """One provider of each protocol."""
    return str(request.param)


@pytest.fixture(params=["answer", "stream"])
def call(request: pytest.FixtureRequest) -> str:
    """Each way to call a model."""
    return str(request.param)


@pytest.fixture(params=["0", "1"], ids=["httpx", "aiohttp"])
def http_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each HTTP library that an official client can use."""
    monkeypatch.setenv("NOUKAI_FAST", str(request.param))


@pytest.fixture(scope="module")
def loop_thread_stopped() -> Iterator[None]:
    """Stop the loop thread after the module, because other tests count threads."""
    yield
    shutdown()
