"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.servers import settings_of


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the NOUKAI_ variables of the shell they are started from."""
    for name in [name for name in os.environ if name.startswith("NOUKAI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def use_service(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that points clients at a base URL, here and in processes that the test starts."""

    def use(url: str) -> None:
        for name, value in settings_of(url).items():
            monkeypatch.setenv(name, value)

    return use
