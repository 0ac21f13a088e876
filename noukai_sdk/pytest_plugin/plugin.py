"""Run tests on cassettes: the options, markers and fixtures of the pytest plugin.

Recording and serving are in ``replay`` and ``session``. They are imported when a test needs them,
because pytest loads this module in every run.

A test's scope is current while the test's function runs and while each of its function-scoped fixtures
runs, in whatever task that is. It is never current in between, when an event loop that outlives the
test may be started.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from .drift_summary import MODES as DRIFT_MODES
from .drift_summary import drift_failure, drift_mode, keep_drift
from .marker import MARKER, OPTIONS, cassette_of, check_marker, freezes, has_cassette, options_of

if TYPE_CHECKING:
    from ..session.scope import Scope

MODES = ("none", "once", "new_episodes", "all", "rewrite")
NETWORK_MARKER = "noukai_network"

_BLOCK = ("block", "refuse")  # "refuse" is the word of 0.2.0
_BLOCKED = (
    "this test has no cassette, and the configuration says noukai_network = block. Mark the test with "
    "@pytest.mark.noukai_cassette, or with @pytest.mark.noukai_network if it may reach the service"
)
_OUTSIDE = (
    "the cassette of this test holds the calls of its function and of its function-scoped fixtures, "
    "but this call comes from elsewhere: a fixture of a wider scope, a setUp of unittest. Make the "
    "call in the test or in a function-scoped fixture; or mark the test with "
    "@pytest.mark.noukai_network, too, if it may reach the service"
)
_HOW_TO_RECORD = "run the test with --noukai-record=once while the service can be reached"


class _Test:
    """A running test that has a cassette.

    Attributes:
        drift: What drift means for it.
        freeze: Whether its replay holds clock, uuids and random numbers.
    """

    def __init__(self, item: pytest.Item, scope: Scope, drift: str, freeze: bool) -> None:
        self.scope = scope
        self.drift = drift
        self.freeze = freeze
        self.has_passed = False
        self._item = item

    def held(self) -> AbstractContextManager[None]:
        """Return the block that holds the clock for the test's function."""
        if not self.freeze or self.scope.mode != "replay":
            return nullcontext()
        from ..replay.cassette_file import read_cassette
        from ..testing.freezing import frozen_replay

        return frozen_replay(self.scope, read_cassette(cassette_of(self._item)))

    def end(self) -> None:
        """Write the recordings; write nothing if the test has failed."""
        if not self.has_passed:
            self.scope.discard()
        self.scope.end()
        keep_drift(self._item, self.scope.report, self.drift)


_test = pytest.StashKey[_Test]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, and the settings ``noukai_drift``, ``noukai_freeze`` and ``noukai_network``."""
    group = parser.getgroup("noukai", "cassettes for Noukai flows")
    group.addoption(
        "--noukai-record",
        choices=MODES,
        default=None,
        metavar="MODE",
        help="How tests use their cassettes: none (default), once, new_episodes, all, rewrite.",
    )
    group.addoption(
        "--noukai-drift",
        choices=DRIFT_MODES,
        default=None,
        metavar="MODE",
        help="What calls that differ from their recording mean: error fails the test, warn (default) "
        "lists them at the end, ignore does nothing.",
    )
    group.addoption(
        "--noukai-doctor",
        action="store_true",
        help="Run each test that has a cassette many times, and list at the end the lines that make its "
        "replays differ: times, uuids, random numbers, orders, the environment.",
    )
    group.addoption(
        "--noukai-doctor-fail",
        action="store_true",
        help="As --noukai-doctor, and fail the tests for which it lists something.",
    )
    parser.addini("noukai_drift", "The default of --noukai-drift.", default="warn")
    parser.addini(
        "noukai_network",
        "Live calls of tests without a cassette: allow (default), or block unless they are recorded.",
        default="allow",
    )
    group.addoption(
        "--noukai-freeze",
        action="store_true",
        help="Hold clock, uuids and random numbers in replays: the clock at the time of the recording.",
    )
    parser.addini("noukai_freeze", "The default of freeze= in markers.", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the parts of the plugin that report at the end."""
    from . import drift_summary, orphans

    config.addinivalue_line(
        "markers",
        f"{MARKER}(name=None, **options): serve the test's flow calls from a cassette file; "
        f"options: {', '.join(sorted(OPTIONS))}.",
    )
    config.addinivalue_line(
        "markers", f"{NETWORK_MARKER}: the test may reach the service outside of a cassette."
    )
    if config.getini("noukai_network") not in ("allow", *_BLOCK):
        raise pytest.UsageError("noukai_network must be allow or block")
    if config.getini("noukai_drift") not in DRIFT_MODES:
        raise pytest.UsageError(f"noukai_drift must be one of {', '.join(DRIFT_MODES)}")
    config.pluginmanager.register(drift_summary, "noukai_drift")
    config.pluginmanager.register(orphans, "noukai_orphans")
    if config.getoption("--noukai-doctor") or config.getoption("--noukai-doctor-fail"):
        from . import examined_tests

        config.pluginmanager.register(examined_tests, "noukai_doctor")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse live calls while a test with a cassette runs, its fixtures of any scope included.

    With ``noukai_network = block`` refuse them in all tests.
    """
    is_recorded = (item.config.getoption("--noukai-record") or "none") != "none"
    reason = None
    if has_cassette(item):
        reason = _OUTSIDE
    elif item.config.getini("noukai_network") in _BLOCK:
        reason = _BLOCKED
    if reason is None or is_recorded or item.get_closest_marker(NETWORK_MARKER) is not None:
        return (yield)
    from ..transport.live_calls import live_calls_refused

    with live_calls_refused(reason):
        return (yield)


@pytest.fixture(scope="session")
def noukai_cassette_options() -> dict[str, Any]:
    """Return options for all cassettes, such as ``{"redact_paths": [...]}``. Override it to set them."""
    return {}


@pytest.fixture(autouse=True)
def _noukai_scope(request: pytest.FixtureRequest) -> Iterator[Scope | None]:
    item = request.node
    if not has_cassette(item):
        yield None
        return
    with ExitStack() as stack:
        options = {**request.getfixturevalue("noukai_cassette_options"), **options_of(item)}
        stack.enter_context(_environment(options))
        test = item.stash[_test] = _open_test(item, options)
        stack.callback(test.end)
        stack.callback(item.stash.__delitem__, _test)
        yield test.scope


@pytest.fixture
def noukai_cassette(_noukai_scope: Scope | None) -> Scope:
    """Return the scope that the test runs in: ``.mode``, ``.session_id``, ``.report``."""
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
    """Run a test in its scope, and verify the replay when the test's function ends."""
    test = item.stash.get(_test, None)
    if test is None:
        return (yield)
    holder: Any = item
    name = "obj"
    case = getattr(item, "instance", None)
    # pytest leaves the coroutine functions of a test case to unittest, which takes them from there.
    unittest: Any = sys.modules.get("unittest")  # importing it takes longer than all else here
    is_test_case = unittest is not None and isinstance(case, unittest.TestCase)
    if is_test_case and inspect.iscoroutinefunction(holder.obj):
        holder, name = case, item.name
    with _wrapped(holder, name, lambda: _Body(test)):
        return (yield)


class _Body:
    """The block around a test's function, as ``with`` or ``async with``.

    The cassette ends with the block, recorded or played, so that a replay of the test sees the same
    calls as its recording.
    """

    def __init__(self, test: _Test) -> None:
        from ..session.scope import active

        self._test = test
        self._active = active(test.scope)
        self._held = ExitStack()

    def __enter__(self) -> None:
        if self._test.freeze:
            from ..testing.freezing import FreezeError

            try:
                self._held.enter_context(self._test.held())
            except FreezeError as error:
                raise _failure(str(error)) from None
        self._active.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from ..errors import ReplayError

        self._active.__exit__()
        self._held.close()
        if kind is not None:
            return
        try:
            self._test.scope.verify()
            report = self._test.scope.report
            if report.drift and self._test.drift == "error":
                raise _failure(drift_failure(report))
            self._test.has_passed = True
            self._test.end()
        except ReplayError as error:
            # A traceback would show nothing but this plugin.
            raise _failure(f"{type(error).__name__}: {error}") from None

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.__exit__(kind)


@contextmanager
def _wrapped(holder: Any, name: str, block: Any) -> Iterator[None]:
    """Run the function ``holder.name``, of any kind, inside ``block``."""
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


@contextmanager
def _environment(options: dict[str, Any]) -> Iterator[None]:
    """Enable replay, and allow live calls if the test may record them."""
    from ..session.options import GATE
    from ..transport.live_calls import live_calls_allowed

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GATE, "true")
        if options.get("record_mode", "none") == "none":
            yield
            return
        with live_calls_allowed():
            yield


def _open_test(item: pytest.Item, options: dict[str, Any]) -> _Test:
    from ..errors import CassetteError
    from ..session.opening import cassette_scope
    from ..session.options import check_options

    path = cassette_of(item)
    try:
        check_marker(item, options)
        drift, freeze = drift_mode(item.config, options), freezes(item.config, options)
        options = {**options, "cassette": path, "strict": True}
        for name in ("drift", "freeze"):
            options.pop(name, None)
        check_options(options)
        return _Test(item, cassette_scope(options), drift, freeze)
    except CassetteError as error:
        hint = "" if path.exists() else f": {_HOW_TO_RECORD}"
        raise _failure(f"{error}{hint}") from None
    except (TypeError, ValueError) as error:
        raise _failure(str(error)) from None


def _failure(message: str) -> BaseException:
    return pytest.fail.Exception(message, pytrace=False)
