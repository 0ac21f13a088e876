"""The pytest plugin: cassettes for tests.

Holds options, marker and fixtures; recording and serving are in ``replay`` and ``session``. Those are
imported when a test needs them, because pytest loads this module in every run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .session.scope import Scope

MODES = ("none", "once", "new_episodes", "all", "rewrite")
MARKER = "noukai_cassette"
FIXTURE = "noukai_cassette"
NETWORK_MARKER = "noukai_network"

_REFUSED = (
    "this test is outside of a cassette, and --noukai-record is none. Mark it with "
    "@pytest.mark.noukai_cassette, or with @pytest.mark.noukai_network if it may reach the service "
    "(for the whole suite: noukai_network = allow)"
)
_failed = pytest.StashKey[bool]()
_cassettes = pytest.StashKey["Cassettes"]()


class Cassettes:
    """The cassette files that tests of this run have, and the folders that they are in."""

    def __init__(self) -> None:
        self.expected: set[Path] = set()
        self.folders: set[Path] = set()

    def note(self, item: pytest.Item) -> None:
        """A test was found; it may have a cassette."""
        folder = item.path.parent / "cassettes" / item.path.stem
        self.folders.add(folder)
        if _uses_cassette(item):
            self.expected.add(cassette_path(item))

    def orphans(self) -> list[str]:
        """Files that belong to no test."""
        found = (path for folder in self.folders for path in folder.glob("*.jsonl"))
        return sorted(str(path) for path in found if path not in self.expected)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--noukai-record`` and ``noukai_network``."""
    group = parser.getgroup("noukai", "cassettes for Noukai flows")
    group.addoption(
        "--noukai-record",
        choices=MODES,
        default=None,
        metavar="MODE",
        help="How tests use their cassettes: none (default), once, new_episodes, all, rewrite.",
    )
    parser.addini(
        "noukai_network",
        "Calls of the SDK outside of a cassette, in mode none: refuse (default) or allow.",
        default="refuse",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(name=None, **options): serve the test's flow calls from a cassette file; the "
        "options are those of noukai_sdk.trace_scope.",
    )
    config.addinivalue_line(
        "markers", f"{NETWORK_MARKER}: the test may reach the service outside of a cassette."
    )
    if config.getini("noukai_network") not in ("refuse", "allow"):
        raise pytest.UsageError("noukai_network must be refuse or allow")
    config.stash[_cassettes] = Cassettes()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note the test's cassette before any test is deselected."""
    item.config.stash[_cassettes].note(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test failed, for the end of its cassette."""
    report = yield
    if not report.passed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def _noukai_scope(request: pytest.FixtureRequest) -> Iterator[Scope | None]:
    """Every test: inside its cassette, or with live calls refused."""
    if _uses_cassette(request.node):
        with _playing(request.node) as scope:
            yield scope
    elif _refuses(request.node):
        from .network import live_calls_refused

        with live_calls_refused(_REFUSED):
            yield None
    else:
        yield None


@pytest.fixture
def noukai_cassette(_noukai_scope: Scope) -> Scope:
    """The scope that the test runs in: ``.mode``, ``.session_id``, ``.report``."""
    return _noukai_scope


def cassette_path(item: pytest.Item) -> Path:
    """Where a test's cassette is: ``cassettes/<module>/<test>.jsonl`` beside the module."""
    marker = item.get_closest_marker(MARKER)
    given = marker.args[0] if marker and marker.args else None
    _, _, parameters = item.name.partition("[")
    name = f"{given}[{parameters}" if given and parameters else given or _qualified(item)
    return item.path.parent / "cassettes" / item.path.stem / f"{_safe(name)}.jsonl"


def _qualified(item: pytest.Item) -> str:
    owner = getattr(item, "cls", None)
    return item.name if owner is None else f"{owner.__name__}.{item.name}"


def _safe(name: str) -> str:
    """``name`` as every file system takes it; a changed one carries a digest, so none collide."""
    safe = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:100]
    if safe == name:
        return safe
    return f"{safe}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"


def _uses_cassette(item: pytest.Item) -> bool:
    marked = item.get_closest_marker(MARKER) is not None
    return marked or FIXTURE in getattr(item, "fixturenames", ())


def _refuses(item: pytest.Item) -> bool:
    return (
        (item.config.getoption("--noukai-record") or "none") == "none"
        and item.config.getini("noukai_network") == "refuse"
        and item.get_closest_marker(NETWORK_MARKER) is None
    )


@contextmanager
def _playing(item: Any) -> Iterator[Scope]:
    """The test's scope, for its fixtures and, wrapped around its function, for the test itself."""
    from .session.context import active
    from .session.wrapping import Opening, wrap

    with ExitStack() as stack:
        stack.enter_context(_gate_open())
        scope = _opened(item)
        stack.callback(scope.end)
        stack.enter_context(active(scope))
        # In the test's own task too, which may have been made before this fixture ran.
        opening = Opening(lambda: _Body(scope), lambda: _Body(scope))
        item.obj = wrap(item.obj, opening)
        yield scope
        if item.stash.get(_failed, False):
            scope.discard()


def _opened(item: pytest.Item) -> Scope:
    from .session.cassettes import cassette_scope
    from .session.opening import check_options

    marker = item.get_closest_marker(MARKER)
    options: dict[str, Any] = {
        "record_mode": item.config.getoption("--noukai-record") or "none",
        **(marker.kwargs if marker else {}),
        "cassette": cassette_path(item),
        "strict": True,
    }
    asked = item.config.getoption("--noukai-record")
    if asked is not None:
        options["record_mode"] = asked
    check_options(options)
    return cassette_scope(options)


@contextmanager
def _gate_open() -> Iterator[None]:
    from .session.gate import GATE

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GATE, "true")
        yield


class _Body:
    """Around the test's function: makes the scope current, and judges the replay at its end."""

    def __init__(self, scope: Scope) -> None:
        from .session.context import active

        self._scope = scope
        self._active = active(scope)

    def __enter__(self) -> None:
        self._active.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._active.__exit__()
        if kind is None:
            self._scope.settle()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist only the workers know the tests: they tell the one that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["noukai_orphans"] = _orphans(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended."""
    told = getattr(node, "workeroutput", {}).get("noukai_orphans", ())
    node.config.stash.setdefault(_orphans_of_workers, set()).update(told)


_orphans_of_workers = pytest.StashKey[set[str]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List cassette files that belong to no test."""
    orphans = {*_orphans(config), *config.stash.get(_orphans_of_workers, set())}
    if not orphans:
        return
    terminalreporter.section("cassettes of no test")
    for path in sorted(orphans):
        terminalreporter.line(str(path))


def _orphans(config: pytest.Config) -> list[str]:
    # A run of single tests does not know the others of their modules.
    if any("::" in str(arg) for arg in config.args):
        return []
    return config.stash[_cassettes].orphans()
