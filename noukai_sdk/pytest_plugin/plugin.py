"""The pytest plugin: tests that run on cassettes.

Holds options, markers and fixtures; recording and serving are in ``replay`` and ``session``. Those are
imported when a test needs them, because pytest loads this module in every run.

A test's scope is current while its own function runs, and while its function-scoped fixtures do, each
in whatever task runs it. It is never current in between, where an event loop that outlives the test may
be started.
"""

from __future__ import annotations

import inspect
import types
import unittest
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from .marker import MARKER, OPTIONS, cassette_of, check_marker, has_cassette, options_of

if TYPE_CHECKING:
    from ..session.scope import Scope

MODES = ("none", "once", "new_episodes", "all", "rewrite")
NETWORK_MARKER = "noukai_network"

_REFUSED = (
    "nothing that this test does is recorded, and --noukai-record is none. Mark it with "
    "@pytest.mark.noukai_cassette, or with @pytest.mark.noukai_network if it may reach the service "
    "(for the whole suite: noukai_network = allow)"
)
_OUTSIDE = (
    "the cassette of this test holds what its function and its function-scoped fixtures do, and this "
    "is something else: a fixture of a wider scope, a setUp of unittest. Make the call in the test or "
    "in a function-scoped fixture; or mark the test with @pytest.mark.noukai_network, too, if it may "
    "reach the service"
)
_HOW_TO_RECORD = "run the test with --noukai-record=once, where the service can be reached"


class _Test:
    """A test that has a cassette and is under way."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.has_passed = False

    def end(self) -> None:
        """Write what was recorded; nothing where the test has failed."""
        if not self.has_passed:
            self.scope.discard()
        self.scope.end()


_test = pytest.StashKey[_Test]()


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
    from . import orphans as pytest_orphans

    config.addinivalue_line(
        "markers",
        f"{MARKER}(name=None, **options): serve the test's flow calls from a cassette file; "
        f"options: {', '.join(sorted(OPTIONS))}.",
    )
    config.addinivalue_line(
        "markers", f"{NETWORK_MARKER}: the test may reach the service outside of a cassette."
    )
    if config.getini("noukai_network") not in ("refuse", "allow"):
        raise pytest.UsageError("noukai_network must be refuse or allow")
    config.pluginmanager.register(pytest_orphans, "noukai_orphans")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse live calls while a test runs, its fixtures of any scope included."""
    if not _refuses(item):
        return (yield)
    from ..transport.live_calls import live_calls_refused

    with live_calls_refused(_OUTSIDE if has_cassette(item) else _REFUSED):
        return (yield)


@pytest.fixture(scope="session")
def noukai_cassette_options() -> dict[str, Any]:
    """Options for all cassettes, such as ``{"redact_paths": [...]}``. Define your own to set them."""
    return {}


@pytest.fixture(autouse=True)
def _noukai_scope(request: pytest.FixtureRequest) -> Iterator[Scope | None]:
    item = request.node
    if not has_cassette(item):
        yield None
        return
    with ExitStack() as stack:
        options = {**request.getfixturevalue("noukai_cassette_options"), **options_of(item)}
        stack.enter_context(_surroundings(options))
        test = item.stash[_test] = _Test(_opened(item, options))
        stack.callback(test.end)
        stack.callback(item.stash.__delitem__, _test)
        yield test.scope


@pytest.fixture
def noukai_cassette(_noukai_scope: Scope | None) -> Scope:
    """The scope that the test runs in: ``.mode``, ``.session_id``, ``.report``."""
    if _noukai_scope is None:
        raise _failure("name noukai_cassette as an argument, or mark the test with it")
    return _noukai_scope


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Run the fixtures of a test in its scope."""
    test = request.node.stash.get(_test, None) if fixturedef.scope == "function" else None
    if test is None:
        return (yield)
    from ..session.scope import active

    with _wrapped(fixturedef, "func", lambda: active(test.scope)):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test in its scope, and judge the replay where it ends."""
    test = item.stash.get(_test, None)
    if test is None:
        return (yield)
    with _wrapped(*_place_of_function(item), lambda: _Body(test)):
        return (yield)


def _place_of_function(item: Any) -> tuple[Any, str]:
    """The object, and the name on it, that the test's function is taken from."""
    case = getattr(item, "instance", None)
    # pytest leaves it to unittest to look for the coroutine functions of a test case.
    if isinstance(case, unittest.TestCase) and inspect.iscoroutinefunction(item.obj):
        return case, item.name
    return item, "obj"


class _Body:
    """Around a test's function, as ``with`` or ``async with``.

    Where it ends the cassette ends, recorded or played: what is written is what will be played.
    """

    def __init__(self, test: _Test) -> None:
        from ..session.scope import active

        self._test = test
        self._active = active(test.scope)

    def __enter__(self) -> None:
        self._active.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._active.__exit__()
        if kind is None:
            _settle(self._test)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)


def _settle(test: _Test) -> None:
    from ..errors import ReplayError

    try:
        test.scope.verify()
        test.has_passed = True
        test.end()
    except ReplayError as error:
        # Its traceback would show nothing but this plugin.
        raise _failure(f"{type(error).__name__}: {error}") from None


@contextmanager
def _wrapped(holder: Any, name: str, block: Any) -> Iterator[None]:
    """Run the function that ``holder`` holds inside ``block``, of whatever kind it is."""
    from ..session.wrapping import ScopeFactory, wrap

    function = getattr(holder, name)
    owner = getattr(function, "__self__", None)
    # A fixture's method is bound to another object than the one that it will be called on.
    wrapped = wrap(getattr(function, "__func__", function), ScopeFactory(block, block))
    setattr(holder, name, wrapped if owner is None else types.MethodType(wrapped, owner))
    try:
        yield
    finally:
        setattr(holder, name, function)


def _refuses(item: pytest.Item) -> bool:
    return (
        (item.config.getoption("--noukai-record") or "none") == "none"
        and item.config.getini("noukai_network") == "refuse"
        and item.get_closest_marker(NETWORK_MARKER) is None
    )


@contextmanager
def _surroundings(options: dict[str, Any]) -> Iterator[None]:
    """An open gate; and live calls, where the test is there to record them."""
    from ..session.options import GATE
    from ..transport.live_calls import live_calls_allowed

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GATE, "true")
        if options.get("record_mode", "none") == "none":
            yield
            return
        with live_calls_allowed():
            yield


def _opened(item: pytest.Item, options: dict[str, Any]) -> Scope:
    from ..errors import CassetteError
    from ..session.opening import cassette_scope
    from ..session.options import check_options

    path = cassette_of(item)
    try:
        check_marker(item, options)
        options = {**options, "cassette": path, "strict": True}
        check_options(options)
        return cassette_scope(options)
    except CassetteError as error:
        hint = "" if path.exists() else f": {_HOW_TO_RECORD}"
        raise _failure(f"{error}{hint}") from None
    except (TypeError, ValueError) as error:
        raise _failure(str(error)) from None


def _failure(said: str) -> BaseException:
    return pytest.fail.Exception(said, pytrace=False)
