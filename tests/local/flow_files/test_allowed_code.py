"""Test that flow files name the user's own code alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from noukai_sdk.local.flow_files.catalog import FlowCatalog

MODULE = """
import functools, os, subprocess, urllib.request
from os import system
from pathlib import Path
import own_helper

def clean(text): return text.strip()
cached = functools.lru_cache(clean)
strict = functools.partial(clean)
shell = functools.partial(os.system, "true")

@functools.wraps(system)
def wrapped(text): return text

class Mail:
    def send(self, text): return text
    def __call__(self, text): return text
mail = Mail()
opener = urllib.request.build_opener()
"""
OWN = ["clean", "cached", "strict", "wrapped", "Mail", "mail", "mail.send", "own_helper.help_"]
FOREIGN = [
    "os.system", "system", "subprocess.run", "Path", "Path.home", "shell", "opener.open",
    "own_helper.os.system", "clean.__class__", "clean.__globals__.get", "clean.__call__",
    "clean.__builtins__.get", "mail.__class__", "functools.reduce",
]  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with modules, a virtual environment and a flow folder; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    files = {
        "own_module.py": MODULE,
        "own_helper.py": "import os\ndef help_(text): return text",
        "own_package/inner.py": "def f(text): return text",
        ".venv/lib/python3.12/site-packages/installed.py": "raise RuntimeError('imported')",
        ".venv/lib/python3.12/own_os.py": "raise RuntimeError('imported')",
        "flows/acme/mine/_tools.py": MODULE,
        "flows/_shared.py": "def f(text): return text",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def problem_of(project: Path, function: str) -> str:
    """Return the problem of a flow whose step has this function; an empty text if there is none."""
    file = project / "flows/acme/mine/flow.yaml"
    file.write_text(f"steps: [{{id: a, function: '{function}'}}]")
    return "; ".join(p.message for p in FlowCatalog(project / "flows", bundled=False).problems())


def test_function_of_own_module_or_file_is_allowed(project: Path) -> None:
    for name in OWN:
        assert problem_of(project, f"own_module:{name}") == ""
        assert problem_of(project, f"_tools.py:{name}") == ""
    for function in ("own_package.inner:f", "../../_shared.py:f", "../../../own_helper.py:help_"):
        assert problem_of(project, function) == ""


def test_function_of_other_module_through_own_one_is_refused(project: Path) -> None:
    for name in FOREIGN:
        for module in ("own_module", "_tools.py"):
            assert problem_of(project, f"{module}:{name}") != "", name


def test_module_of_python_or_package_is_refused_without_import(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "elsewhere.py").write_text("raise RuntimeError('imported')")
    (outside / "parent").mkdir()
    (outside / "parent/__init__.py").write_text("raise RuntimeError('imported')")
    (outside / "parent/child.py").write_text("")
    (project / "flows/acme/mine/_link.py").symlink_to(outside / "elsewhere.py")
    monkeypatch.syspath_prepend(outside)
    for folder in (".venv/lib/python3.12/site-packages", ".venv/lib/python3.12"):
        monkeypatch.syspath_prepend(project / folder)
    names = ["os:system", "sys:exit", "builtins:eval", "subprocess:run", "json:loads", "time:sleep"]
    names += ["antigravity:webbrowser.open", "click:echo", "noukai_sdk.cli:main", "elsewhere:f"]
    names += ["parent.child:f", "installed:f", "own_os:f", "os.path:join", "__main__:main"]
    names += [
        f"{outside}/elsewhere.py:f",
        "_link.py:f",
        f"../../../../{outside.name}/elsewhere.py:f",
    ]
    names += ["../../../.venv/lib/python3.12/site-packages/installed.py:f", ":f", "a..b:f", "x\0:f"]
    for name in names:
        message = problem_of(project, name)
        assert message != "", name
        assert "imported'" not in message
        assert "RuntimeError" not in message, name
    assert "antigravity" not in sys.modules
    message = problem_of(project, "os:system")
    assert "os is not a module of this project: a step can call functions of modules" in message
