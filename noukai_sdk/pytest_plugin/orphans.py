"""List the cassettes that no test uses at the end of a test run."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .folders import CassetteFolders
from .marker import cassette_of, has_cassette

_folders: pytest.StashKey[CassetteFolders] = pytest.StashKey()
_of_workers: pytest.StashKey[list[list[str]]] = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note the cassettes of all collected tests, before any test is deselected."""
    folders = config.stash[_folders] = CassetteFolders()
    for item in items:
        folders.add_module(item.path)
        if has_cassette(item):
            folders.add_cassette(cassette_of(item))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the orphans to the reporting process: under pytest-xdist only workers collect tests."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["noukai_orphans"] = _orphans(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep the orphans that a worker of pytest-xdist sent, if it did not crash."""
    orphans = getattr(node, "workeroutput", {}).get("noukai_orphans")
    if orphans is not None:
        node.config.stash.setdefault(_of_workers, []).append(orphans)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List the cassette files that belong to no test."""
    lists = config.stash.get(_of_workers, None) or [_orphans(config)]
    orphans = sorted(set(lists[0]).intersection(*lists))
    if orphans:
        terminalreporter.section("Noukai cassettes that no test uses")
        for path in orphans:
            terminalreporter.line(path)


def _orphans(config: pytest.Config) -> list[str]:
    folders = config.stash.get(_folders, None)
    # A run of single tests does not know the other tests of their modules.
    if folders is None or config.getoption("lf", False) or any("::" in arg for arg in config.args):
        return []
    root = config.invocation_params.dir
    return [os.path.relpath(path, root) for path in folders.orphans()]
