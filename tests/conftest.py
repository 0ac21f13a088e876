"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.servers import ROOT

Redirect = Callable[[str], None]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the NOUKAI_ variables of the shell they are started from."""
    for name in [name for name in os.environ if name.startswith("NOUKAI_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def redirect_dev(monkeypatch: pytest.MonkeyPatch) -> Redirect:
    """Give it a backend's base URL, and ``env="dev"`` means that one, with its key.

    In this process and in those that it starts. The real address has a fixed port, which somebody
    may hold; and no public setting changes it.
    """
    from noukai_sdk.client import BASE_URLS

    def redirect(url: str) -> None:
        monkeypatch.setitem(BASE_URLS, "dev", url)
        monkeypatch.setenv("NOUKAI_TEST_DEV_URL", url)
        monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests' / 'redirect'}{os.pathsep}{ROOT}")
        monkeypatch.setenv("NOUKAI_ENV", "dev")
        monkeypatch.setenv("NOUKAI_API_KEY", "nk_dev")

    return redirect
