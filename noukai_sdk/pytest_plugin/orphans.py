"""Lists, at the end of a test run, the cassettes that no test uses. Part of the pytest plugin."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .folders import CassetteFolders
from .marker import cassette_of, has_cassette

_folders: pytest.StashKey[CassetteFolders] = pytest.StashKey()
_told: pytest.StashKey[list[list[str]]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which cassettes there are tests for, before any test is deselected."""
    folders = config.stash[_folders] = CassetteFolders()
    for item in items:
        folders.note_module(item.path)
        if has_cassette(item):
            folders.note_cassette(cassette_of(item))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist only the workers know the tests: they tell the one that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["noukai_orphans"] = _orphans(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended, well or not."""
    told = getattr(node, "workeroutput", {}).get("noukai_orphans")
    if told is not None:
        node.config.stash.setdefault(_told, []).append(told)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List cassette files that belong to no test."""
    told = config.stash.get(_told, None) or [_orphans(config)]
    orphans = sorted(set(told[0]).intersection(*told))
    if orphans:
        terminalreporter.section("cassettes of no test")
        for path in orphans:
            terminalreporter.line(path)


def _orphans(config: pytest.Config) -> list[str]:
    folders = config.stash.get(_folders, None)
    # A run of single tests does not know the others of their modules.
    if folders is None or config.getoption("lf", False) or any("::" in arg for arg in config.args):
        return []
    root = config.invocation_params.dir
    return [os.path.relpath(path, root) for path in folders.orphans()]
