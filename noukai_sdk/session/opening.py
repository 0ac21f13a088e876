"""Open a scope: ``trace_scope``, the replay of a session, and scopes over cassette files."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    contextmanager,
    nullcontext,
)
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import (
    CassetteError,
    NoukaiError,
    ReplayDisabledError,
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplaySessionNotFoundError,
)
from ..transport.background import is_sending, wait_for_session
from .clients_beside import keys_beside
from .lost_scope import count_early, open_captures
from .options import (
    GATE,
    ReplayRequest,
    ScopeOptions,
    check_options,
    find_cassette,
    replay_enabled,
)
from .scope import Scope, active, capture_scope, joinable_scope

if sys.version_info >= (3, 11):
    from typing import Unpack
else:
    from typing_extensions import Unpack

if TYPE_CHECKING:
    from ..protocol.program import Program
    from ..replay.player import ReplayOptions
    from .replay_scope import ReplayScope

logger = logging.getLogger("noukai_sdk")

# Seconds to wait for what this process has not sent yet: it may belong to the session that is opened.
LONGEST_FLUSH = 1.0


def trace_scope(**options: Unpack[ScopeOptions]) -> AbstractAsyncContextManager[Scope]:
    """Run a block in a scope of its own, even inside another scope.

    In a replay, and in a request that an adapter captures, a block that names no session, no cassette
    and no file to record joins the scope that it is in: its calls are part of the request.
    ``capture=True`` opens a scope of its own even in a captured request.

    Args:
        **options: See :class:`ScopeOptions`.

    Yields:
        The scope: ``.mode``, ``.session_id``, ``.report``.

    Raises:
        ReplayError: The session or cassette is not available; or, at the end of the block, recordings
            were left. A call that finds no recording raises ReplayMissError; if the block catches it,
            it is in the scope's report, and not raised again.
        TypeError, ValueError: Bad options.

    Example:
        >>> async with trace_scope(client=noukai) as scope:                 # doctest: +SKIP
        ...     await noukai.flow("grade-3").execute(message="The cat sat.")
        ...     print(scope.session_id)
    """

    async def opened() -> Scope:
        session_id = _session_to_replay(options)
        if session_id is None:
            return _local_scope(options)
        return await _open(session_id, _source(options), options)

    return _AsyncBlock(opened, options)


@contextmanager
def trace_scope_sync(**options: Unpack[ScopeOptions]) -> Iterator[Scope]:
    """Run a block in a scope of its own, as :func:`trace_scope` does in async code.

    Example:
        >>> with trace_scope_sync() as scope:                               # doctest: +SKIP
        ...     noukai.flow("grade-3").execute(message="The cat sat.")
    """
    session_id = _session_to_replay(options)
    joined = _scope_to_join(options)
    if joined is not None:
        yield joined
        return
    if session_id is None:
        scope = _local_scope(options)
    else:
        scope = _open_sync(session_id, _source(options), options)
    with _entered(scope):
        try:
            yield scope
        except Exception:
            load_other_parts_sync(scope)
            raise
        load_other_parts_sync(scope)


async def load_other_parts(scope: Scope) -> None:
    """Fetch the parts of a replayed session that no call has asked for. Never raises.

    Call it when the program has come to its end, before the end of the scope: these calls were removed.
    """
    for transport, program in _other_parts(scope):
        try:
            await _run(transport, program)
        except Exception as error:  # noqa: BLE001, PERF203 - the report says so
            _parts_of(scope).failures[transport.service.key] = error


def load_other_parts_sync(scope: Scope) -> None:
    """Fetch the parts of a replayed session that no call has asked for, as :func:`load_other_parts`."""
    for transport, program in _other_parts(scope):
        try:
            _run_sync(transport, program)
        except Exception as error:  # noqa: BLE001, PERF203 - the report says so
            _parts_of(scope).failures[transport.service.key] = error


def _other_parts(scope: Scope) -> Iterator[tuple[Any, Program[None]]]:
    from .replay_scope import quick

    parts = _parts_of(scope)
    if parts is None or scope.is_fork:  # a fork may leave recordings
        return
    for transport in parts.not_fetched():
        # One that was fetched meanwhile may have had all that was missing.
        if transport in parts.not_fetched():
            yield transport, parts.load(quick(transport.service))


def _parts_of(scope: Scope) -> Any:
    return getattr(scope, "parts", None)


async def open_replay(
    request: ReplayRequest, source: Any, request_line: str | None = None
) -> Scope:
    """Open the scope that a request's header asks for, without blocking the event loop.

    Args:
        request: From :func:`~noukai_sdk.session.options.requested_replay`.
        source: A client of either kind, or its transport.
        request_line: For the report, such as ``POST /grade``.
    """
    if request.file is None:
        scope = await _open(request.session_id, source, request.options, request_line)
    else:
        import anyio

        scope = await anyio.to_thread.run_sync(_open_file, request, source, request_line)
    count_early(scope)
    return scope


def open_replay_sync(request: ReplayRequest, source: Any, request_line: str | None = None) -> Scope:
    """Open the scope that a request's header asks for. Blocks until the session is fetched."""
    if request.file is None:
        scope = _open_sync(request.session_id, source, request.options, request_line)
    else:
        scope = _open_file(request, source, request_line)
    count_early(scope)
    return scope


def cassette_scope(options: Mapping[str, Any]) -> Scope:
    """Open the scope that ``cassette``, ``record`` and ``record_mode`` ask for."""
    path = options.get("record") or options["cassette"]
    scope = _cassette_scope(path, options)
    scope.cassette_path = path
    return scope


def _cassette_scope(path: str | os.PathLike[str], options: Mapping[str, Any]) -> Scope:
    from ..replay.cassette_file import read_cassette
    from ..replay.cassette_writer import CassetteWriter
    from ..replay.redaction import Redactor
    from .recording_scope import RecordingScope
    from .replay_scope import ReplayScope

    mode = "rewrite" if options.get("record") else options.get("record_mode", "none")
    file = read_cassette(path) if mode != "rewrite" and Path(path).exists() else None
    # What was redacted in the file stays redacted, in calls that are compared with it and in
    # recordings that are added to it.
    paths = (*(file.redacted if file is not None else ()), *options.get("redact_paths", ()))
    pii = options.get("redact_pii", False) or (file is not None and file.redacted_pii)
    redactor = Redactor(paths, options.get("redact"), pii=pii)
    if mode in ("all", "rewrite"):
        return RecordingScope(CassetteWriter(path, redactor, file, replaces=True))
    if file is None:
        if mode == "none":
            name = os.fspath(path)
            raise CassetteError(f"{name}: there is no such cassette: record it first", path=name)
        return RecordingScope(CassetteWriter(path, redactor))
    # No fallback to capture here: naming a file means that its calls must not go live.
    if not replay_enabled():
        raise ReplayDisabledError(f"replay is off: set {GATE}=true to play a cassette file")
    replay = replace(_replay_options(options), redactor=redactor)
    if mode == "new_episodes":
        writer = CassetteWriter(path, redactor, file)
        replay = replace(replay, on_miss="live", by_input=True, writer=writer)
    return ReplayScope(file.cassette(), replay)


def _session_to_replay(options: Mapping[str, Any]) -> str | None:
    check_options(options)
    session_id: str | None = options.get("replay_session_id")
    if session_id is None or replay_enabled():
        return session_id
    if options.get("strict"):
        raise ReplayDisabledError(f"replay is off: set {GATE}=true to allow it here")
    logger.warning("replay is off (%s is not set): this scope captures instead", GATE)
    return None


def _scope_to_join(options: Mapping[str, Any]) -> Scope | None:
    """Return the scope around a block that asks for no scope of its own; None to open one."""
    check_options(options)
    own = any(options.get(name) for name in ("replay_session_id", "cassette", "record"))
    scope = joinable_scope()
    if own or scope is None or options.get("capture") is False:
        return None
    of_request = scope in open_captures and "capture" not in options
    return scope if scope.mode == "replay" or of_request else None


def _local_scope(options: Mapping[str, Any]) -> Scope:
    """Open a scope that needs nothing from the service."""
    if options.get("cassette") or options.get("record"):
        scope = cassette_scope(options)
    else:
        scope = capture_scope() if options.get("capture", True) else Scope("normal", None)
    source = options.get("transport") or options.get("client")
    if source is not None:
        scope.opened_by(_transport_of(source).service)
    return scope


def _replay_options(options: Mapping[str, Any]) -> ReplayOptions:
    from ..replay.pacing import PACES
    from ..replay.player import ReplayOptions

    names = ("strict_inputs", "on_miss", "live_from", "edit", "what_if")
    return ReplayOptions(
        lost=options.get("lost") or ("refuse" if options.get("strict") else "live"),
        pace=PACES[options.get("pacing", "instant")],
        **{name: options[name] for name in names if name in options},
    )


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


async def _open(
    session_id: str, source: Any, options: Mapping[str, Any], request_line: str | None = None
) -> Scope:
    if is_sending(session_id):
        import anyio

        await anyio.to_thread.run_sync(wait_for_session, session_id, LONGEST_FLUSH)
    opening = _opening(session_id, source, options)
    transport, program = next(opening)
    while True:
        try:
            scope: Scope = await _run(transport, program)
        except NoukaiError as error:  # noqa: PERF203 - each attempt is a request
            transport, program = opening.throw(error)
        else:
            scope.opened_by(transport.service)
            _begin_verdict(scope, session_id, options, request_line)
            return scope


def _open_sync(
    session_id: str, source: Any, options: Mapping[str, Any], request_line: str | None = None
) -> Scope:
    if is_sending(session_id):
        wait_for_session(session_id, LONGEST_FLUSH)
    opening = _opening(session_id, source, options)
    transport, program = next(opening)
    while True:
        try:
            scope: Scope = _run_sync(transport, program)
        except NoukaiError as error:  # noqa: PERF203 - each attempt is a request
            transport, program = opening.throw(error)
        else:
            scope.opened_by(transport.service)
            _begin_verdict(scope, session_id, options, request_line)
            return scope


async def _run(transport: Any, program: Program[Any]) -> Any:
    """Run a program with a client of either kind, without blocking the event loop."""
    if transport.is_async:
        return await transport.run(program)
    import anyio

    return await anyio.to_thread.run_sync(transport.run, program)


def _run_sync(transport: Any, program: Program[Any]) -> Any:
    """Run a program with a client of either kind. Blocks until it is done."""
    if not transport.is_async:
        return transport.run(program)
    # In a thread with an event loop of its own: the loop of this thread may be running.
    with ThreadPoolExecutor(1, thread_name_prefix="noukai-session") as thread:
        return thread.submit(asyncio.run, transport.run(program)).result()


def _opening(
    session_id: str, source: Any, options: Mapping[str, Any]
) -> Generator[tuple[Any, Program[ReplayScope]], None, None]:
    """Yield the attempts to open a session, each with its transport; errors are thrown in.

    If the client may not read the session, other clients that took part in sessions of this client, in
    this process, are tried.
    """
    from .replay_scope import open_session

    first = _transport_of(source)
    replay = _replay_options(options)
    refused: dict[tuple[str, str | None], NoukaiError] = {}
    candidates = [first]

    def others(*, given: bool) -> list[Any]:
        return _transports_beside(first, given=given)

    while candidates:
        transport = candidates.pop(0)
        try:
            service = transport.service
            yield transport, open_session(service, session_id, replay, dict(refused), others)
        except (ReplayForbiddenError, ReplaySessionNotFoundError) as error:
            if not refused:
                candidates = _transports_beside(first)
            refused[transport.service.key] = error
        except NoukaiError as error:
            # That the service of another client cannot be reached says nothing about this session.
            if transport is first or isinstance(error, ReplayError):
                raise
    raise refused[first.service.key]


def _transports_beside(first: Any, *, given: bool = False) -> list[Any]:
    from ..transport.drivers import open_transports

    keys = keys_beside(first.service, given=given)
    by_key = {each.service.key: each for each in open_transports()} if keys else {}
    return [transport for key, transport in by_key.items() if key in keys]


def _open_file(request: ReplayRequest, source: Any, request_line: str | None) -> Scope:
    """Open the scope of a cassette file that a request names. Asks no service."""
    from ..replay.cassette_file import read_cassette
    from ..replay.redaction import Redactor
    from .replay_scope import ReplayScope

    assert request.file is not None  # the callers have checked
    path = find_cassette(request.file)
    try:
        file = read_cassette(path)
    except CassetteError as error:
        problem = error.message.replace(path, request.session_id)
        raise ReplayInvalidSessionError(problem) from error
    redactor = Redactor(file.redacted, pii=file.redacted_pii)
    replay = replace(_replay_options(request.options), redactor=redactor)
    scope = ReplayScope(file.cassette(), replay)
    scope.file, scope.cassette_path = request.session_id, path
    scope.opened_by(_transport_of(source).service)
    _begin_verdict(scope, file.session_id, request.options, request_line, post=False)
    return scope


def _begin_verdict(
    scope: Scope,
    session_id: str | None,
    options: Mapping[str, Any],
    request_line: str | None,
    *,
    post: bool = True,
) -> None:
    """Give a replay its id. Its report is posted to the service at its end, with ``post``."""
    from ..replay.verdicts import Verdict, send_verdict

    scope.verdict = verdict = Verdict(
        session_id,
        scope.report,
        request_line=request_line,
        allow_leftovers=scope.is_fork,
        replay_id=options.get("replay_id"),
    )
    if post:
        scope.send_at_end(send_verdict, verdict, size=20_000, for_replays=False)


@contextmanager
def _entered(scope: Scope) -> Iterator[None]:
    try:
        with active(scope):
            yield
        scope.verify(caught=False)
    except ReplayError as error:
        if scope.verdict is not None:
            scope.verdict.fail(error)
        raise
    finally:
        scope.end()


class _AsyncBlock:
    """The context manager of ``trace_scope``.

    Not an async generator: a traced async generator holds it open across its yields, and an event
    loop that ends would close both at the same time, which Python refuses.
    """

    def __init__(self, opened: Callable[[], Awaitable[Scope]], options: Mapping[str, Any]) -> None:
        self._opened = opened
        self._options = options
        self._scope: Scope | None = None

    def __enter__(self) -> NoReturn:
        raise TypeError("trace_scope() needs 'async with'; in sync code use trace_scope_sync()")

    def __exit__(self, *_: object) -> None:
        """Do nothing: never called, but Python looks for it before it calls ``__enter__``."""

    async def __aenter__(self) -> Scope:
        joined = _scope_to_join(self._options)
        if joined is not None:
            self._block: AbstractContextManager[object] = nullcontext()
            return joined
        scope = self._scope = await self._opened()
        self._block = _entered(scope)
        self._block.__enter__()
        return scope

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._scope is not None and (kind is None or issubclass(kind, Exception)):
            try:
                await load_other_parts(self._scope)
            except BaseException:
                self._scope.end()  # cancelled
                raise
        return self._block.__exit__(kind, error, traceback)


__all__ = [
    "cassette_scope",
    "load_other_parts",
    "load_other_parts_sync",
    "open_replay",
    "open_replay_sync",
    "trace_scope",
    "trace_scope_sync",
]
