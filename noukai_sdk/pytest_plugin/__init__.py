"""The pytest plugin. The entry point loads ``plugin`` under the name ``noukai``.

``-p noukai_sdk.pytest_plugin`` and ``pytest_plugins = ["noukai_sdk.pytest_plugin"]`` load it under the
same name, and do nothing if it is there already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin: this is the first hook that pytest calls."""
    from . import plugin

    if not pluginmanager.has_plugin("noukai"):
        pluginmanager.register(plugin, "noukai")
