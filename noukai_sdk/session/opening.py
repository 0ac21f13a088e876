"""How a scope begins: ``trace_scope``, the gate in front of replay, and the session's fetch."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ReplayDisabledError
from ..protocol.paths import require_session_id
from .context import active
from .scope import Scope, capture_scope

if TYPE_CHECKING:
    from ..client import AsyncNoukai, Noukai
    from ..transport import AsyncTransport, SyncTransport

T = TypeVar("T")

logger = logging.getLogger("noukai_sdk")

GATE = "NOUKAI_REPLAY_ENABLED"
_TRUE = frozenset({"1", "true", "yes", "on"})


def replay_enabled() -> bool:
    """Whether the gate is open. Read at every request, so that it can be closed at any time."""
    return os.environ.get(GATE, "").strip().lower() in _TRUE


def requested_replay(header: str | None) -> str | None:
    """The session that a request asks to replay, None where it is to be captured.

    Raises:
        ReplayInvalidSessionError: The gate is open and the header holds no session id.
    """
    if header is None or not replay_enabled():
        return None
    return require_session_id(header)


def trace_scope(
    *,
    replay_session_id: str | None = None,
    capture: bool = True,
    transport: SyncTransport | AsyncTransport | None = None,
    client: Noukai | AsyncNoukai | None = None,
    strict: bool = False,
) -> AbstractAsyncContextManager[Scope]:
    """Run a block in a scope of its own, whatever scope is around it.

    Args:
        replay_session_id: Serve the block's calls from this recorded session. Needs
            ``NOUKAI_REPLAY_ENABLED`` and ``client`` or ``transport``.
        capture: Tag the block's calls with a new session; False leaves them untagged.
        transport: Whose service holds the session: ``client._transport``.
        client: The same, as the client itself.
        strict: Raise where replay is not enabled, instead of capturing with a logged warning.

    Yields:
        The scope: ``.mode``, ``.session_id``, ``.report``.

    Raises:
        ReplayError: The session cannot be had; or, at the end of the block, a call found no
            recording or recordings were left.
        ValueError: A replay without ``client`` or ``transport``.

    Example:
        >>> async with trace_scope(client=noukai) as scope:                 # doctest: +SKIP
        ...     await noukai.flow("grade-3").execute(message="The cat sat.")
        ...     print(scope.session_id)
    """

    async def opened() -> Scope:
        wanted = _wanted_replay(replay_session_id, strict)
        if wanted is None:
            return _plain_scope(capture)
        return await open_replay(wanted, _source(transport, client))

    return _AsyncBlock(opened)


@contextmanager
def trace_scope_sync(
    *,
    replay_session_id: str | None = None,
    capture: bool = True,
    transport: SyncTransport | AsyncTransport | None = None,
    client: Noukai | AsyncNoukai | None = None,
    strict: bool = False,
) -> Iterator[Scope]:
    """As :func:`trace_scope`, for sync code.

    Example:
        >>> with trace_scope_sync() as scope:                               # doctest: +SKIP
        ...     noukai.flow("grade-3").execute(message="The cat sat.")
    """
    wanted = _wanted_replay(replay_session_id, strict)
    if wanted is None:
        scope = _plain_scope(capture)
    else:
        scope = open_replay_sync(wanted, _source(transport, client))
    with _inside(scope):
        yield scope


async def open_replay(session_id: str, source: Any) -> Scope:
    """Fetch a session without blocking the event loop, and give the scope that replays it.

    Args:
        session_id: The session.
        source: A client of either kind, or its transport.
    """
    from .replaying import open_session

    transport = _transport_of(source)
    program = open_session(transport.service, session_id)
    if transport.is_async:
        scope: Scope = await transport.run(program)
        return scope
    import anyio

    return await anyio.to_thread.run_sync(transport.run, program)


def open_replay_sync(session_id: str, source: Any) -> Scope:
    """As :func:`open_replay`, blocking."""
    from .replaying import open_session

    transport = _transport_of(source)
    outcome = transport.run(open_session(transport.service, session_id))
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
        scope.settle()
    finally:
        scope.end()


def _wanted_replay(session_id: str | None, strict: bool) -> str | None:
    if session_id is None:
        return None
    if replay_enabled():
        return require_session_id(session_id)
    if strict:
        raise ReplayDisabledError(f"replay is off: set {GATE}=true to allow it here")
    logger.warning("replay is off (%s is not set): this scope captures instead", GATE)
    return None


def _plain_scope(capture: bool) -> Scope:
    return capture_scope() if capture else Scope("normal", None)


def _source(transport: Any, client: Any) -> Any:
    if (transport is None) == (client is None):
        raise ValueError("a replay needs client= (or transport=), to fetch its session with")
    return client if transport is None else transport


def _transport_of(source: Any) -> Any:
    return getattr(source, "_transport", source)
