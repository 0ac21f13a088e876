"""Fixtures that several modules of these tests take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noukai_sdk.local.runtime.runtime import shutdown


@pytest.fixture(params=["openai", "openai_compatible", "ollama", "azure", "anthropic"])
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["openai_compatible", "anthropic"])
def protocol(request: pytest.FixtureRequest) -> str:
    """One provider of each protocol."""
    return str(request.param)


@pytest.fixture(params=["0", "1"], ids=["official", "fast"])
def with_and_without_aiohttp(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once through the official client alone, once with the short way."""
    monkeypatch.setenv("NOUKAI_FAST", str(request.param))


@pytest.fixture(scope="module")
def the_loop_thread_ends() -> Iterator[None]:
    """So that tests which count threads find none of ours."""
    yield
    shutdown()
