"""The rules of the house: imports, public names, files, and the paths that texts name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

import noukai_sdk
from tests.support.servers import ROOT

PUBLIC = """
APIConnectionError APITimeoutError AsyncFlow AsyncJob AsyncNoukai AsyncRun AsyncStream
AuthenticationError CapturedRequestError CassetteError ClientClosedError ContextThreadPoolExecutor
ExecuteResult Flow FlowCompleted FlowExecutionError FlowNotFoundError InsufficientCreditsError Job
JobAccepted JobCancelledError JobStatus LateCallWarning LiveCall LostScopeWarning Measure NotFoundError
NotSupportedError Noukai NoukaiError OutputError PausedResult PermissionDeniedError RateLimitError
RecordedFunctionError RecordedValueError
ReplayConcurrencyWarning ReplayDisabledError ReplayError ReplayForbiddenError ReplayInvalidSessionError
ReplayLeftoverError ReplayMissError ReplayNoSnapshotsError ReplayReport ReplaySessionExpiredError
ReplaySessionNotFoundError Run RunNotFoundError RunStarted RunStep RunSummary Scope SessionFilter
SessionNotFoundError StepAttempts StepCompleted StepFailed StepInput StepOutput StepPaused StepStarted
StepTrace Stream StreamEvent TokenBreakdown Tool ToolCall ToolCallLimitError ToolCallsRequired
ToolHandlerRequiredError Trace __version__ carry_threads copy_scope current_session_id detached
log_context tool trace trace_scope trace_scope_sync WhatIf
now random recorded uuid4
"""

THIRD_PARTY = """
aiohttp alembic anthropic click fastapi filelock flask httpx2 jinja2 openai opentelemetry pytest rich
sqlalchemy starlette time_machine trio uvicorn werkzeug xllamacpp yaml
"""
OPTIONAL = set(THIRD_PARTY.split())

# Module names that stand more than once in the package: the same idea at two levels.
REPEATED = {
    "app": "the backend; the dashboard beside it",
    "client": "of the service; of a model",
    "errors": "of the SDK; of the backend's responses; of the model providers",
    "failures": "of calls in the engine; of recorded functions as JSON",
    "flows": "the CLI's commands; the backend's routes; the pages",
    "jobs": "in the protocol; in a replay; the pages",
    "options": "of a call; of a scope; of the dashboard",
    "requests": "their models; the HTTP requests that the protocol builds",
    "responses": "of the adapters; of the backend's routes",
    "run": "of the client; of the backend",
    "runs": "the backend's engine; its routes; the page of one",
    "sessions": "their models; the backend's routes; the page",
    "stats": "of an executor's runs; of a model client's calls",
    "values": "masks those of JSON; those of recorded functions as JSON",
}

PACKAGE = ROOT / "noukai_sdk"
CODE = sorted(
    path
    for folder in ("noukai_sdk", "example_apps", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after ``statement``."""
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


def test_public_names_are_listed_and_documented() -> None:
    assert sorted(noukai_sdk.__all__) == sorted(PUBLIC.split())
    assert dir(noukai_sdk) == sorted(PUBLIC.split())
    undocumented = [name for name in PUBLIC.split() if not getattr(noukai_sdk, name).__doc__]
    assert set(undocumented) <= {"StreamEvent"}
    with pytest.raises(AttributeError, match="no attribute 'Noukia'"):
        noukai_sdk.Noukia  # noqa: B018  # the lookup is the test
    for old, new in (
        ("RunTrace", "Trace"),
        ("FlowRun", "RunSummary"),
        ("Tokens", "TokenBreakdown"),
    ):
        with pytest.warns(DeprecationWarning, match=f"noukai_sdk.{old} is now {new}"):
            assert getattr(noukai_sdk, old) is getattr(noukai_sdk, new)


def test_version_equals_project_version() -> None:
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert stated[1] == noukai_sdk.__version__ == version("noukai-sdk")


def test_async_client_loads_models_of_execute_before_event_loop_runs() -> None:
    statement = "from noukai_sdk import {0}; {0}(api_key='nk_x')"
    models = "noukai_sdk.models.results"
    assert models in loaded_by(statement.format("AsyncNoukai"))
    assert models not in loaded_by(statement.format("Noukai"))


def test_call_without_tracer_provider_loads_nothing_of_opentelemetry() -> None:
    statement = """
import httpx, sys
{before}
from noukai_sdk import Noukai, trace_scope_sync
reply = lambda request: httpx.Response(200, json={{"status": "completed"}})
http = httpx.Client(transport=httpx.MockTransport(reply))
with trace_scope_sync(), Noukai("nk_x", http_client=http) as client:
    client.flow("a/b/c").execute("hi")
"""
    assert "opentelemetry" not in packages(loaded_by(statement.format(before="")))
    loaded = loaded_by(statement.format(before="import opentelemetry.trace"))
    assert not loaded & {"noukai_sdk.telemetry", "noukai_sdk.session.call_spans"}


def test_import_loads_only_what_it_needs() -> None:
    assert not packages(loaded_by("import noukai_sdk")) & (OPTIONAL | {"httpx", "pydantic"})

    # httpx loads click and rich for its command line, httpcore loads trio.
    base = "httpx, httpcore, pydantic"
    for statement, frameworks in [
        ("from noukai_sdk import Noukai, AsyncNoukai; Noukai(api_key='nk_x')", ""),
        ("from noukai_sdk import *", ""),
        ("import noukai_sdk.adapters.asgi, noukai_sdk.adapters.wsgi", ""),
        ("import noukai_sdk.adapters.starlette", ", starlette"),
        ("import noukai_sdk.adapters.fastapi", ", fastapi, starlette"),
        ("import noukai_sdk.adapters.flask", ", flask, werkzeug, click"),
        ("import noukai_sdk.dashboard.export", ", jinja2"),
    ]:
        loaded = loaded_by(statement)
        allowed = packages(loaded_by(f"import {base}{frameworks}"))
        assert not packages(loaded) & (OPTIONAL - allowed), statement
        assert not [name for name in loaded if name.startswith("noukai_sdk.backend")], statement
        assert not [name for name in loaded if name.startswith("noukai_sdk.local")], statement


def test_files_are_short_and_named_by_content() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "misc", "common"}
    assert [path for path in CODE if path.stem in vague] == []
    assert [path for path in CODE if len(path.read_text().splitlines()) > 500] == []


def test_module_names_stand_once_but_for_the_listed() -> None:
    stems = [path.stem for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    assert {name for name, count in Counter(stems).items() if count > 1} == set(REPEATED)


def test_map_of_the_house_names_every_folder_and_only_what_exists() -> None:
    map_of_the_house = (ROOT / "CONTRIBUTING.md").read_text().split("```text\n")[1].split("```")[0]
    listed: set[Path] = set()
    parents: list[Path] = [ROOT]
    for line in map_of_the_house.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split(" ")
        paths = [parents[depth] / name for name in names]
        assert [path for path in paths if not path.exists()] == [], line
        listed.update(paths)
        parents[depth + 1 :] = [paths[0]]
    folders = {path.parent for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts}
    assert folders - listed == set()


def test_paths_links_and_sections_in_texts_exist() -> None:
    def sections(page: Path) -> set[str]:
        return set(re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE))

    missing = []
    for page in PAGES:
        for name in re.findall(r"`([\w.]+(?:/[\w.]+)*(?:/|\.py|\.md|\.toml))`", page.read_text()):
            places = (ROOT, PACKAGE, page.parent)
            # A name without a folder may be a file of the reader.
            if "/" in name and not any((place / name).exists() for place in places):
                missing.append(f"{page.name}: {name}")
        for target, anchor in re.findall(
            r"\]\((?!https?:)([\w./]+)(?:#([\w-]+))?\)", page.read_text()
        ):
            path = page.parent / target
            anchors = {
                re.sub(r"[^\w -]", "", name).lower().replace(" ", "-")
                for name in (sections(path) if anchor else ())
            }
            if not path.exists() or (anchor and anchor not in anchors):
                missing.append(f"{page.name}: {target}#{anchor}")
    for path in [*CODE, *sorted((ROOT / "tests").rglob("*.py"))]:
        for name, section in re.findall(r'\b(docs/\w+\.md)(?:,\s+"([\w ]+)")?', path.read_text()):
            page = ROOT / name
            titles = (
                {title.partition(" (")[0] for title in sections(page)} if page.exists() else set()
            )
            if not page.exists() or (section and section not in titles):
                missing.append(f"{path.relative_to(ROOT)}: {name}, {section}")
    assert missing == []


def test_no_message_tells_to_install_our_name_from_the_registry() -> None:
    # A package of another owner has this name there.
    for path in CODE:
        assert not re.search(r"noukai[-_]sdk\[|pip install noukai", path.read_text()), path


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\0")[:-1] or [str(path.relative_to(ROOT)) for path in CODE]
    # Joined here, so that this file passes.
    hosts = [
        "pypi." + "org",
        "python" + "hosted",
        "npmjs." + "org",
        "docker." + "io",
        "ghcr." + "io",
    ]
    banned = re.compile("|".join([*map(re.escape, hosts), r"(?<![\w.~])/(?:work|root)/"]))
    files = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert [path for path in files if banned.search(path.read_text(errors="ignore"))] == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if f" {page}\n" not in settings] == []


def test_reference_has_every_public_name() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    entries = set(re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE))
    for package in ("noukai_sdk", "noukai_sdk.local"):
        stub = (ROOT / package.replace(".", "/") / "__init__.pyi").read_text()
        for module, name in re.findall(
            r"^from (\.[\w.]+) import \w+ as (\w+)$", stub, re.MULTILINE
        ):
            is_shown = {package + module, f"{package}{module}.{name}"} & entries
            assert is_shown or name == "__version__", f"docs/reference has no {package}.{name}"
