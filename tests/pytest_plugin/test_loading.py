"""The plugin is loaded once, under any of its names."""

from __future__ import annotations

import pytest

from tests.pytest_plugin.conftest import QUICK

pytest_plugins = ["pytester"]

TEST = """
def test_loaded(pytestconfig):
    plugins = pytestconfig.pluginmanager
    assert plugins.has_plugin("noukai")
    assert plugins.has_plugin("noukai_orphans")
    assert pytestconfig.getoption("--noukai-record") is None
"""


@pytest.mark.parametrize("autoload", [True, False])
@pytest.mark.parametrize("way", ["-p", "conftest", "entry point"])
def test_plugin_is_loaded_once_by_any_name(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, way: str, autoload: bool
) -> None:
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    if way == "conftest":
        pytester.makeconftest('pytest_plugins = ["noukai_sdk.pytest_plugin"]')
    pytester.makepyfile(TEST)
    args = ["-p", "noukai_sdk.pytest_plugin"] if way == "-p" else []
    if way == "entry point" and not autoload:
        args = ["-p", "noukai"]
    result = pytester.runpytest_subprocess(*QUICK, *args)
    result.assert_outcomes(passed=1)


def test_plugin_package_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        check="""
import sys
import pytest
before = set(sys.modules)
import noukai_sdk.pytest_plugin.plugin
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not loaded & {"pydantic", "httpx", "anyio", "asyncio"}, loaded
"""
    )
    assert pytester.runpython("check.py").ret == 0
