"""The two drivers that run programs over HTTP.

A driver advances a program, does what it wants, and hands its events to the caller. The two are the
same few lines, one of them with ``await``: a change to one belongs into the other.
"""

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, final

from ..protocol.call import Service
from ..protocol.program import (
    CHECKPOINT,
    CallTools,
    CloseStream,
    Effect,
    Now,
    OpenStream,
    Program,
    ReadChunk,
    Request,
    Response,
    SendRequest,
    Sleep,
)
from .after_fork import renew_in_children
from .library import build, sync_client
from .outcomes import (
    Done,
    Keep,
    advance,
    fail,
    jittered,
    not_awaitable,
    raise_if_closed,
    read_response,
    release,
    response_head,
    to_sdk_error,
)

if TYPE_CHECKING:
    from .async_clients import Lease

T = TypeVar("T")

LONGEST_CLOSE = 5.0  # seconds that the end of a stream may take
MOST_LEFT = 10_000  # chunks that can be left in the buffers of a closed connection


class SyncTransport:
    """Runs programs with blocking I/O. Safe to use from many threads."""

    is_async = False

    def __init__(self, service: Service, http_client: Any = None) -> None:
        self.service = service
        self.client: Any = http_client
        self._owned = http_client is None
        self._closed = False
        if self._owned:
            self._open()
            renew_in_children(self)

    def _open(self) -> None:
        self.client = sync_client()
        # For a client that nobody closes: Python warns of sockets that are dropped open.
        self._end = weakref.finalize(self, self.client.close)

    def start_afresh(self) -> Any:
        """Take a new client, in a process that was forked from another; gives the other's."""
        inherited = self.client
        self._end.detach()
        self._open()
        return inherited

    def run(self, program: Program[T]) -> T:
        """The program's result."""
        with _SyncDrive(self, program) as drive:
            done = drive.run_to_event(advance(program))
            return done.value  # type: ignore[no-any-return]  # Done holds the program's T

    def stream(
        self, program: Program[None], keep: Keep | None = None
    ) -> Generator[Any, None, None]:
        """The program's events."""
        with _SyncDrive(self, program) as drive:
            for item in program:
                event = item
                if isinstance(item, Effect):
                    event = drive.run_to_event(item)
                    if isinstance(event, Done):
                        return
                if keep is None or keep(event):
                    yield event

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed or getattr(self.client, "is_closed", False)

    def close(self) -> None:
        """Release the connections. May be called any number of times."""
        self._closed = True
        if self._owned:
            self.client.close()


@final
class _SyncDrive:
    """One program at work: does what it wants, holds its open stream, and closes both at the end."""

    def __init__(self, transport: SyncTransport, program: Program[Any]) -> None:
        self._transport = transport
        self._program = program
        self._path = ""
        self._response: Any = None
        self._chunks: Iterator[bytes] = iter(())

    def __enter__(self) -> _SyncDrive:
        raise_if_closed(self._transport.closed)
        return self

    def __exit__(self, *_: object) -> None:
        self._program.close()
        self._close()

    def run_to_event(self, item: Any) -> Any:
        """Do what the program wants until it gives an event or is Done."""
        while isinstance(item, Effect):
            item = self._answer(item)
        return item

    def _answer(self, want: Effect) -> Any:
        try:
            outcome = self._perform(want)
        except Exception as error:  # noqa: BLE001 - the program decides what an error means
            closed = self._transport.closed
            return fail(self._program, to_sdk_error(want, error, self._path, closed=closed))
        return advance(self._program, outcome)

    def _perform(self, want: Effect) -> Any:
        match want:
            case ReadChunk():
                return next(self._chunks, None)
            case SendRequest(request):
                return self._exchange(request)
            case OpenStream(request):
                return self._open(request)
            case CloseStream():
                return self._close()
            case CallTools(handler, tool_calls):
                return not_awaitable(handler(list(tool_calls)))
            case Sleep(seconds, jitter):
                return time.sleep(jittered(seconds, jitter)) if seconds else None
            case Now():
                return time.monotonic()
            case _:  # a Note is for listeners
                return None

    def _exchange(self, request: Request) -> Response:
        response = self._send(request, stream=False)
        answer = read_response(response)
        release(response)
        return answer

    def _send(self, request: Request, *, stream: bool) -> Any:
        self._path = request.path
        client = self._transport.client
        built = build(client, self._transport.service, request)
        return client.send(built, stream=stream, auth=None)

    def _open(self, request: Request) -> Response:
        self._close()
        self._response = response = self._send(request, stream=True)
        if not response.is_success:
            response.read()
            return read_response(response)
        self._chunks = response.iter_bytes()
        return response_head(response)

    def _close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()


class AsyncTransport:
    """Runs programs on asyncio or trio, in any number of event loops."""

    is_async = True

    def __init__(self, service: Service, http_client: Any = None) -> None:
        # Imports asyncio, which a program with a sync client can do without.
        from .async_clients import AsyncClients

        self.service = service
        self.clients: AsyncClients = AsyncClients(http_client)

    async def run(self, program: Program[T]) -> T:
        """The program's result."""
        async with _AsyncDrive(self, program) as drive:
            done = await drive.run_to_event(advance(program))
            return done.value  # type: ignore[no-any-return]  # Done holds the program's T

    async def stream(
        self, program: Program[None], keep: Keep | None = None
    ) -> AsyncGenerator[Any, None]:
        """The program's events."""
        async with _AsyncDrive(self, program) as drive:
            for item in program:
                event = item
                if isinstance(item, Effect):
                    event = await drive.run_to_event(item)
                    if isinstance(event, Done):
                        return
                if keep is None or keep(event):
                    yield event

    async def aclose(self) -> None:
        """Release the connections. May be called any number of times."""
        await self.clients.aclose()


@final
class _AsyncDrive:
    """As :class:`_SyncDrive`; holds also the client that its open stream comes from."""

    def __init__(self, transport: AsyncTransport, program: Program[Any]) -> None:
        self._transport = transport
        self._program = program
        self._path = ""
        self._lease: Lease | None = None
        self._response: Any = None
        self._chunks: Any = None

    async def __aenter__(self) -> _AsyncDrive:
        raise_if_closed(self._transport.clients.closed)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._program.close()
        await self._close()

    async def run_to_event(self, item: Any) -> Any:
        """Do what the program wants until it gives an event or is Done."""
        while isinstance(item, Effect):
            if item is CHECKPOINT:
                await _turn()
                item = advance(self._program)
            else:
                item = await self._answer(item)
        return item

    async def _answer(self, want: Effect) -> Any:
        try:
            outcome = await self._perform(want)
        except Exception as error:  # noqa: BLE001 - the program decides what an error means
            closed = self._transport.clients.closed
            return fail(self._program, to_sdk_error(want, error, self._path, closed=closed))
        return advance(self._program, outcome)

    async def _perform(self, want: Effect) -> Any:
        match want:
            case ReadChunk():
                return await anext(self._chunks, None)
            case SendRequest(request):
                return await self._exchange(request)
            case OpenStream(request):
                return await self._open(request)
            case CloseStream():
                return await self._close()
            case CallTools(handler, tool_calls):
                results = handler(list(tool_calls))
                return await results if inspect.isawaitable(results) else results
            case Sleep(seconds, jitter):
                return await _async_sleep(jittered(seconds, jitter))
            case Now():
                return time.monotonic()
            case _:  # a Note is for listeners
                return None

    async def _exchange(self, request: Request) -> Response:
        self._path = request.path
        lease = await self._transport.clients.take()
        try:
            built = build(lease.client, self._transport.service, request)
            response = await lease.send(built)
        finally:
            lease.give_back()
        answer = read_response(response)
        release(response)
        return answer

    async def _open(self, request: Request) -> Response:
        await self._close()
        self._path = request.path
        self._lease = lease = await self._transport.clients.take()
        built = build(lease.client, self._transport.service, request)
        self._response = response = await lease.send(built, stream=True)
        if not response.is_success:
            await response.aread()
            return read_response(response)
        self._chunks = response.aiter_bytes()
        return response_head(response)

    async def _close(self) -> None:
        lease, self._lease = self._lease, None
        response, self._response = self._response, None
        try:
            if response is not None:
                await self._end(response)
        finally:
            if lease is not None:
                lease.give_back()

    async def _end(self, response: Any) -> None:
        import anyio

        # The caller may be cancelled: the connection must go all the same.
        with anyio.move_on_after(LONGEST_CLOSE, shield=True):
            await response.aclose()
            await self._wind_up()

    async def _wind_up(self) -> None:
        # httpx reads through generators within generators. Each that is dropped halfway makes a task
        # on asyncio and a warning on trio. Nobody can close the inner ones, but a read on the closed
        # connection ends them all.
        with suppress(Exception):
            for _ in range(MOST_LEFT):
                await anext(self._chunks)


async def _async_sleep(seconds: float) -> None:
    import anyio

    await (anyio.sleep(seconds) if seconds else _turn())


def _turn() -> Awaitable[None]:
    # What anyio.lowlevel.checkpoint() does, which spends half of its time on finding out where it is.
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import anyio

        return anyio.lowlevel.checkpoint()
    return asyncio.sleep(0)
