"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import ssl
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

from tests.support.servers import settings_of

# Sentry imports eventlet, whose own DNS imports whatever an installed HTTP/2 (hypercorn's) makes it find:
# trio among them, which cannot be imported while eventlet patches sockets.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")

FRESH = frozenset({"test_completion_order.py"})
LONG = {
    "faults", "dashboard", "test_docs.py", "example_apps", "integration", "cli", "pytest_plugin", "backend",
}  # fmt: skip

# No test depends on the speed of the machine. In CI (the variable CI) hypothesis repeats the same examples.
settings.register_profile(
    "noukai",
    parent=settings.default,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("noukai")


# What httpx uses where a test names no timeout: its 5 seconds are too short for a machine that is busy.
vars(DEFAULT_TIMEOUT_CONFIG).update(httpx.Timeout(60).as_dict())

# Loading the certificates takes 30 ms for each HTTP client, and the tests make thousands.
ssl.create_default_context = cache(ssl.create_default_context)


def pytest_configure(config: pytest.Config) -> None:
    """Do not rewrite the asserts of the package, which pytest does for packages with a plugin.

    It takes seconds, and two threads that import modules of it make Python before 3.11.8 fail ("AST
    constructor recursion depth mismatch").
    """
    rewritten: Any = config.pluginmanager.rewrite_hook
    rewritten._must_rewrite.discard("noukai_sdk")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files with long tests first, so that no worker of pytest-xdist begins one when the others end.

    Before them come tests that look at all threads of the process: hundreds that other tests leave behind
    make each look slow.
    """
    items.sort(key=lambda item: (item.path.name not in FRESH, LONG.isdisjoint(item.path.parts)))


@pytest.fixture(autouse=True, scope="module")
def collector_looks_at_new_objects_alone() -> None:
    """Hundreds of tests collect garbage, which takes 0.3 s if all modules are looked at each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see none of the NOUKAI_ variables of the shell they are started from."""
    for name in [name for name in os.environ if name.startswith("NOUKAI_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def threads_carry_no_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins as a new process does; the adapters that it makes patch threading again."""
    patches = sys.modules.get("noukai_sdk.session.carry_threads")
    if patches is not None:
        patches.carry_threads(False)
        monkeypatch.setattr(patches, "_turned_off", False)


@pytest.fixture(autouse=True)
def every_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock service of another test, at the same address, may have failed or taken no outcomes."""
    background = sys.modules.get("noukai_sdk.transport.background")
    if background is not None and background._current is not None:
        monkeypatch.setattr(background._current, "_not_taken", {})
        monkeypatch.setattr(background._current, "_outages", {})


@pytest.fixture
def use_service(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that points clients at a base URL, here and in processes that the test starts."""

    def use(url: str) -> None:
        for name, value in settings_of(url).items():
            monkeypatch.setenv(name, value)

    return use
