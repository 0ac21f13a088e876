"""How a scope begins: ``trace_scope``, and the fetch of a session."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import ReplayDisabledError
from .options import (
    GATE,
    ReplayRequest,
    ScopeOptions,
    check_options,
    replay_enabled,
    requested_replay,
)
from .scope import Scope, active, capture_scope

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack

if TYPE_CHECKING:
    from .replay_scope import ReplayPlan

T = TypeVar("T")

logger = logging.getLogger("noukai_sdk")


def trace_scope(**options: Unpack[ScopeOptions]) -> AbstractAsyncContextManager[Scope]:
    """Run a block in a scope of its own, whatever scope is around it.

    Args:
        **options: See :class:`ScopeOptions`.

    Yields:
        The scope: ``.mode``, ``.session_id``, ``.report``.

    Raises:
        ReplayError: The session or cassette cannot be had; or, at the end of the block, a call
            found no recording or recordings were left.
        TypeError, ValueError: Bad options.

    Example:
        >>> async with trace_scope(client=noukai) as scope:                 # doctest: +SKIP
        ...     await noukai.flow("grade-3").execute(message="The cat sat.")
        ...     print(scope.session_id)
    """

    async def opened() -> Scope:
        session_id = _session_to_fetch(options)
        if session_id is None:
            return _scope_at_hand(options)
        return await _open(session_id, _source(options), options)

    return _AsyncBlock(opened)


@contextmanager
def trace_scope_sync(**options: Unpack[ScopeOptions]) -> Iterator[Scope]:
    """As :func:`trace_scope`, for sync code.

    Example:
        >>> with trace_scope_sync() as scope:                               # doctest: +SKIP
        ...     noukai.flow("grade-3").execute(message="The cat sat.")
    """
    session_id = _session_to_fetch(options)
    if session_id is None:
        scope = _scope_at_hand(options)
    else:
        scope = _open_sync(session_id, _source(options), options)
    with _inside(scope):
        yield scope


async def open_replay(wanted: ReplayRequest, source: Any) -> Scope:
    """The scope that replays what a request's header asks for; the event loop is not blocked.

    Args:
        wanted: From :func:`requested_replay`.
        source: A client of either kind, or its transport.
    """
    return await _open(wanted.session_id, source, {"live_from": wanted.live_from})


def open_replay_sync(wanted: ReplayRequest, source: Any) -> Scope:
    """As :func:`open_replay`, blocking."""
    return _open_sync(wanted.session_id, source, {"live_from": wanted.live_from})


async def _open(session_id: str, source: Any, options: Mapping[str, Any]) -> Scope:
    from .replay_scope import open_session

    transport = _transport_of(source)
    program = open_session(transport.service, session_id, plan_of(options))
    if transport.is_async:
        scope: Scope = await transport.run(program)
        return scope
    import anyio

    return await anyio.to_thread.run_sync(transport.run, program)


def _open_sync(session_id: str, source: Any, options: Mapping[str, Any]) -> Scope:
    from .replay_scope import open_session

    transport = _transport_of(source)
    outcome = transport.run(open_session(transport.service, session_id, plan_of(options)))
    scope: Scope = _finished(outcome) if transport.is_async else outcome
    return scope


def _finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, in an event loop of its own: this thread's may be running."""
    with ThreadPoolExecutor(1, thread_name_prefix="noukai-session") as thread:
        return thread.submit(asyncio.run, coroutine).result()


class _AsyncBlock:
    """What ``trace_scope`` gives.

    No async generator: a traced one holds it open over its yields, and an event loop that ends would
    close both at the same time, which Python refuses.
    """

    def __init__(self, opened: Callable[[], Awaitable[Scope]]) -> None:
        self._opened = opened

    def __enter__(self) -> NoReturn:
        raise TypeError("trace_scope() takes 'async with'; in sync code use trace_scope_sync()")

    def __exit__(self, *_: object) -> None:
        """Never reached: Python looks for it before it enters."""

    async def __aenter__(self) -> Scope:
        scope = await self._opened()
        self._inside = _inside(scope)
        self._inside.__enter__()
        return scope

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._inside.__exit__(kind, error, traceback)


@contextmanager
def _inside(scope: Scope) -> Iterator[None]:
    try:
        with active(scope):
            yield
        scope.verify()
    finally:
        scope.end()


def _session_to_fetch(options: Mapping[str, Any]) -> str | None:
    check_options(options)
    session_id: str | None = options.get("replay_session_id")
    if session_id is None:
        return None
    if replay_enabled():
        return session_id
    if options.get("strict"):
        raise ReplayDisabledError(f"replay is off: set {GATE}=true to allow it here")
    logger.warning("replay is off (%s is not set): this scope captures instead", GATE)
    return None


def _scope_at_hand(options: Mapping[str, Any]) -> Scope:
    """A scope that needs nothing from the service."""
    if options.get("cassette") or options.get("record"):
        from .cassettes import cassette_scope

        return cassette_scope(options)
    return capture_scope() if options.get("capture", True) else Scope("normal", None)


def plan_of(options: Mapping[str, Any]) -> ReplayPlan:
    """The part of the options that says how a cassette is played."""
    from .replay_scope import ReplayPlan

    names = ("strict", "strict_inputs", "pacing", "on_miss", "live_from")
    return ReplayPlan(**{name: options[name] for name in names if name in options})


def _source(options: Mapping[str, Any]) -> Any:
    transport, client = options.get("transport"), options.get("client")
    if (transport is None) == (client is None):
        raise ValueError("a replay needs client= (or transport=), to fetch its session with")
    return client if transport is None else transport


def _transport_of(source: Any) -> Any:
    transport = getattr(source, "_transport", source)
    if not hasattr(transport, "is_async"):
        raise TypeError(
            "client= takes a Noukai or an AsyncNoukai, and transport= the transport of one, "
            f"not {type(source).__name__}"
        )
    return transport


__all__ = [
    "open_replay",
    "open_replay_sync",
    "requested_replay",
    "trace_scope",
    "trace_scope_sync",
]
