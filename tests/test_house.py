"""The rules of the house: what imports what, what loads what, what is public."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import noukai_sdk
from tests.support.servers import ROOT

PUBLIC = """
APIConnectionError APITimeoutError AsyncFlow AsyncJob AsyncNoukai AsyncRun AuthenticationError
CassetteError ClientClosedError ContextThreadPoolExecutor ExecuteResult Flow FlowCompleted
FlowExecutionError FlowNotFoundError FlowRun InsufficientCreditsError Job JobStatus
LateCallWarning LostScopeWarning Noukai NoukaiError PausedResult PermissionDeniedError RateLimitError
ReplayConcurrencyWarning ReplayDisabledError ReplayError
ReplayForbiddenError ReplayInvalidSessionError ReplayLeftoverError ReplayMissError
ReplayNoSnapshotsError ReplayReport ReplaySessionExpiredError ReplaySessionNotFoundError Run
RunStarted RunTrace Scope StepAttempts StepCompleted StepFailed StepInput StepOutput StepPaused
StepStarted StepTrace StreamEvent Tokens ToolCallLimitError ToolCallsRequired
ToolHandlerRequiredError __version__ copy_scope current_session_id trace trace_scope
trace_scope_sync
"""

OPTIONAL = {
    *("aiohttp", "alembic", "anthropic", "click", "fastapi", "flask", "httpx2", "jinja2", "openai"),
    *(
        "pytest",
        "rich",
        "sqlalchemy",
        "starlette",
        "trio",
        "uvicorn",
        "werkzeug",
        "xllamacpp",
        "yaml",
    ),
}
CODE = sorted(
    path
    for folder in ("noukai_sdk", "example_apps", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def loaded_by(statement: str) -> set[str]:
    """The modules that a new interpreter holds after ``statement``."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_imports_point_down() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_the_public_names_are_these() -> None:
    assert sorted(noukai_sdk.__all__) == sorted(PUBLIC.split())
    assert dir(noukai_sdk) == sorted(PUBLIC.split())


@pytest.mark.parametrize("name", PUBLIC.split())
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(noukai_sdk, name)
    assert name in ("__version__", "StreamEvent") or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Noukia'"):
        noukai_sdk.Noukia  # noqa: B018  # looking it up is the test


def test_the_version_is_stated_once() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert stated[1] == noukai_sdk.__version__ == version("noukai-sdk")


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = loaded_by("import noukai_sdk")
    assert {name for name in loaded if name.startswith("noukai_sdk")} == {
        "noukai_sdk",
        "noukai_sdk._version",
    }
    assert not packages(loaded) & (OPTIONAL | {"httpx", "pydantic"})


@pytest.mark.parametrize(
    "statement",
    [
        "from noukai_sdk import Noukai, AsyncNoukai; Noukai(api_key='nk_x')",
        "from noukai_sdk import trace, trace_scope, trace_scope_sync, current_session_id",
        "from noukai_sdk import *",
        "import noukai_sdk.adapters.asgi",
        "import noukai_sdk.adapters.wsgi",
    ],
)
def test_the_client_and_the_pure_adapters_load_nothing_optional(statement: str) -> None:
    loaded = loaded_by(statement)
    # httpx loads click and rich for a command line of its own, httpcore loads trio.
    below = packages(loaded_by("import httpx, httpcore, pydantic"))
    assert not packages(loaded) & (OPTIONAL - below)
    assert not {
        name for name in loaded if name.startswith(("noukai_sdk.backend", "noukai_sdk.local"))
    }


@pytest.mark.parametrize(
    ("adapter", "framework"),
    [
        ("fastapi", {"fastapi", "starlette"}),
        ("starlette", {"starlette"}),
        ("flask", {"flask", "werkzeug", "click"}),
    ],
)
def test_an_adapter_loads_its_own_framework_alone(adapter: str, framework: set[str]) -> None:
    loaded = packages(loaded_by(f"import noukai_sdk.adapters.{adapter}"))
    assert not loaded & (OPTIONAL - framework - allowed_by(framework))


def allowed_by(framework: set[str]) -> set[str]:
    """What importing the framework loads by itself."""
    return packages(loaded_by(f"import httpx, {', '.join(sorted(framework))}"))


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_short_and_named_by_what_it_holds(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "manager", "misc", "common"}
    assert len(path.read_text().splitlines()) <= 400


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\0")[:-1] or [str(path.relative_to(ROOT)) for path in CODE]
    # Put together here, so that this file passes.
    hosts = [
        "pypi." + "org",
        "python" + "hosted",
        "npmjs." + "org",
        "docker." + "io",
        "ghcr." + "io",
    ]
    banned = re.compile("|".join([*map(re.escape, hosts), r"(?<![\w.~])/(?:work|root)/"]))
    found = [name for name in names if banned.search(text_of(ROOT / name))]
    assert not found


def text_of(path: Path) -> str:
    return path.read_text(errors="ignore") if path.is_file() else ""
