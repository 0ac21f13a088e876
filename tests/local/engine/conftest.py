"""Fixtures of the tests of the engine."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio alone; tests of streams and threads ask for trio as well."""
    return "asyncio"
