"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.redirect import dev_environment


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the NOUKAI_ variables of the shell they are started from."""
    for name in [name for name in os.environ if name.startswith("NOUKAI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def redirect_dev(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give it a backend's base URL, and ``env="dev"`` means that one, with its key.

    In this process and in those that it starts.
    """

    def redirect(url: str) -> None:
        from noukai_sdk.client import BASE_URLS

        monkeypatch.setitem(BASE_URLS, "dev", url)
        for name, value in dev_environment(url).items():
            monkeypatch.setenv(name, value)

    return redirect
