"""The two drivers that run programs over HTTP.

A driver advances a program, performs its effects, and passes its events to the caller. The two are the
same few lines, one of them with ``await``: apply a change in one to the other.
"""

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import suppress
from importlib import import_module
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar, final

from ..protocol.call import Service
from ..protocol.program import (
    CHECKPOINT,
    AwaitTurn,
    CallTools,
    CloseStream,
    Effect,
    Now,
    OpenStream,
    PausedRun,
    Program,
    ReadChunk,
    Request,
    Response,
    SendRequest,
    Sleep,
)
from .driving import END, EventFilter, jittered, not_awaitable, to_sdk_error
from .library import build_request, closed_before_call, read_response, response_head
from .live_calls import are_refused, check_allowed
from .sync_clients import SyncClients

if TYPE_CHECKING:
    from .async_clients import AsyncClients, Lease

T = TypeVar("T")

LONGEST_CLOSE = 5.0  # seconds that the end of a stream may take
MOST_LEFT = 10_000  # chunks that can be left in the buffers of a closed connection

_transports: weakref.WeakSet[Any] = weakref.WeakSet()
# The transports with an http_client of the user's, by the identity of their service.
_custom: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def open_transports() -> list[Any]:
    """Return the transports of the clients that are alive and open."""
    while True:
        try:
            return [each for each in list(_transports) if not each.closed]
        except RuntimeError:  # noqa: PERF203 - another thread has made a client meanwhile
            continue


def custom_transport(service: Service) -> Any:
    """Return the transport with the user's own ``http_client`` that belongs to this very service."""
    return _custom.get(id(service))


class SyncTransport:
    """Runs programs with blocking I/O. Safe to use from many threads."""

    is_async = False

    def __init__(
        self, service: Service, http_client: Any = None, clients: SyncClients | None = None
    ) -> None:
        self.service = service
        self.clients: SyncClients = SyncClients(http_client) if clients is None else clients
        _transports.add(self)
        if service.custom_http:
            _custom[id(service)] = self

    def with_service(self, service: Service) -> SyncTransport:
        """Return a transport with other options over the same connections."""
        return SyncTransport(service, clients=self.clients)

    @property
    def client(self) -> Any:
        """The HTTP client to send with."""
        return self.clients.client

    def run(self, program: Program[T]) -> T:
        """Run a program without events, and return its result."""
        with SyncDrive(self, program) as drive:
            while (item := drive.next_item()) is not END:
                drive.perform(item)
            return drive.result  # type: ignore[no-any-return]  # the program's T

    def stream(
        self, program: Program[None], keep: EventFilter | None = None
    ) -> Generator[Any, None, None]:
        """Run a program and yield its events, or those that ``keep`` returns True for."""
        with SyncDrive(self, program) as drive:
            while (item := drive.next_item()) is not END:
                while not isinstance(item, Effect):
                    if keep is None or keep(item):
                        yield item
                    # The program goes on from an event without an outcome, and returns nothing.
                    if (item := next(program, END)) is END:
                        return
                drive.perform(item)

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self.clients.closed or getattr(self.clients.client, "is_closed", False)

    def close(self) -> None:
        """Release the connections. May be called any number of times."""
        self.clients.close()


class _Drive:
    """One program, and the outcome or error of its last effect.

    Attributes:
        result: What the program returned, once :meth:`next_item` has returned END.
    """

    def __init__(self, transport: Any, program: Program[Any]) -> None:
        self.result: Any = None
        self._transport = transport
        self._program = program
        self._outcome: Any = None
        self._error: Exception | None = None

    def check_open(self) -> None:
        """Raise ClientClosedError on a closed client.

        Not while live calls are refused: an app closes its client when it stops, and the next test starts
        the same app again. Calls from recordings need no connection, and others are refused all the same.
        """
        transport = self._transport
        if transport.closed and not are_refused(transport.service):
            raise closed_before_call()

    def next_item(self) -> Any:
        """Continue the program, and return its next effect or event, or END."""
        outcome, self._outcome = self._outcome, None
        error, self._error = self._error, None
        try:
            if error is None:
                return self._program.send(outcome)
            # A StopIteration among the errors is not a result: thrown into a generator, Python makes a
            # RuntimeError of it.
            return self._program.throw(error)
        except StopIteration as end:
            paused = isinstance(end.value, PausedRun)
            self.result = end.value.bound_to(self._transport) if paused else end.value
            return END


@final
class SyncDrive(_Drive):
    """Performs the effects of one program, holds its open stream, and closes both at the end."""

    _transport: SyncTransport

    def __init__(self, transport: SyncTransport, program: Program[Any]) -> None:
        super().__init__(transport, program)
        self._path = ""
        self._response: Any = None
        self._chunks: Iterator[bytes] = iter(())

    def __enter__(self) -> SyncDrive:
        self.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self._program.close()
        self._close()

    def perform(self, effect: Effect) -> None:
        """Perform an effect, for the program to continue with its outcome."""
        try:
            self._outcome = self._perform(effect)
        except Exception as error:  # noqa: BLE001 - the program decides what an error means
            url = self._transport.service.base_url + self._path
            self._error = to_sdk_error(effect, error, url, closed=self._transport.closed)

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case ReadChunk():
                return next(self._chunks, None)
            case SendRequest(request):
                return read_response(self._send(request, stream=False))
            case OpenStream(request):
                return self._open(request)
            case CloseStream():
                return self._close()
            case CallTools(handler, tool_calls):
                return not_awaitable(handler(list(tool_calls)))
            case Sleep(seconds, jitter):
                return time.sleep(jittered(seconds, jitter)) if seconds else None
            case AwaitTurn(turn):
                return turn.wait()
            case Now():
                return time.monotonic()
            case _:  # a Signal is for listeners
                return None

    def _send(self, request: Request, *, stream: bool) -> Any:
        self._path = request.path
        transport = self._transport
        check_allowed(transport.service, request.path)
        client = transport.clients.client
        built = build_request(client, transport.service, request)
        return client.send(built, stream=stream, auth=None)

    def _open(self, request: Request) -> Response:
        self._close()
        self._response = response = self._send(request, stream=True)
        if response.is_success:
            self._chunks = response.iter_bytes()
            return response_head(response)
        response.read()
        self._response = None
        return read_response(response)

    def _close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()


class AsyncTransport:
    """Runs programs on asyncio or trio, in any number of event loops."""

    is_async = True

    def __init__(
        self, service: Service, http_client: Any = None, clients: AsyncClients | None = None
    ) -> None:
        # The models of ``execute`` are imported here, because the first call would do it in the event loop.
        import_module("noukai_sdk.protocol.executing")
        # Imports asyncio, which a program with a sync client can do without.
        from .async_clients import AsyncClients

        self.service = service
        self.client: Any = http_client
        self.clients: AsyncClients = AsyncClients(http_client) if clients is None else clients
        _transports.add(self)
        if service.custom_http:
            _custom[id(service)] = self

    def with_service(self, service: Service) -> AsyncTransport:
        """Return a transport with other options over the same connections."""
        return AsyncTransport(service, self.client, self.clients)

    async def run(self, program: Program[T]) -> T:
        """Run a program without events, and return its result."""
        async with AsyncDrive(self, program) as drive:
            while (item := drive.next_item()) is not END:
                await drive.perform(item)
            return drive.result  # type: ignore[no-any-return]  # the program's T

    async def stream(
        self, program: Program[None], keep: EventFilter | None = None
    ) -> AsyncGenerator[Any, None]:
        """Run a program and yield its events, or those that ``keep`` returns True for."""
        async with AsyncDrive(self, program) as drive:
            while (item := drive.next_item()) is not END:
                while not isinstance(item, Effect):
                    if keep is None or keep(item):
                        yield item
                    # The program goes on from an event without an outcome, and returns nothing.
                    if (item := next(program, END)) is END:
                        return
                await drive.perform(item)

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self.clients.closed or getattr(self.client, "is_closed", False)

    async def aclose(self) -> None:
        """Release the connections. May be called any number of times."""
        await self.clients.aclose()


@final
class AsyncDrive(_Drive):
    """As :class:`SyncDrive`. Holds also the client that its open stream comes from."""

    _transport: AsyncTransport

    def __init__(self, transport: AsyncTransport, program: Program[Any]) -> None:
        super().__init__(transport, program)
        self._path = ""
        self._lease: Lease | None = None
        self._response: Any = None
        self._chunks: Any = None

    async def __aenter__(self) -> AsyncDrive:
        self.check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._program.close()
        if self._lease is not None:
            await self._close()

    async def perform(self, effect: Effect) -> None:
        """Perform an effect, for the program to continue with its outcome."""
        if effect is CHECKPOINT:  # before the others: each replayed call begins with it
            return await _checkpoint()
        try:
            self._outcome = await self._perform(effect)
        except Exception as error:  # noqa: BLE001 - the program decides what an error means
            url = self._transport.service.base_url + self._path
            self._error = to_sdk_error(effect, error, url, closed=self._transport.closed)

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case ReadChunk():
                return await anext(self._chunks, None)
            case SendRequest(request):
                lease = await self._take(request)
                try:
                    response = await lease.send(self._transport.service, request)
                finally:
                    lease.give_back()
                return read_response(response)
            case OpenStream(request):
                return await self._open(request)
            case CloseStream():
                return await self._close()
            case CallTools(handler, tool_calls):
                results = handler(list(tool_calls))
                return await results if inspect.isawaitable(results) else results
            case AwaitTurn(turn):
                return await turn.wait_async()
            case Sleep(seconds, jitter):
                import anyio

                return await anyio.sleep(jittered(seconds, jitter))
            case Now():
                return time.monotonic()
            case _:  # a Signal is for listeners
                return None

    async def _take(self, request: Request) -> Lease:
        self._path = request.path
        check_allowed(self._transport.service, request.path)
        return await self._transport.clients.take()

    async def _open(self, request: Request) -> Response:
        await self._close()
        self._lease = lease = await self._take(request)
        self._response = response = await lease.send(self._transport.service, request, stream=True)
        if response.is_success:
            self._chunks = response.aiter_bytes()
            return response_head(response)
        await response.aread()
        self._response = None
        return read_response(response)

    async def _close(self) -> None:
        lease, self._lease = self._lease, None
        response, self._response = self._response, None
        try:
            if response is not None:
                import anyio

                # The caller may be cancelled: the connection must be closed all the same.
                with anyio.move_on_after(LONGEST_CLOSE, shield=True):
                    await response.aclose()
                    await self._exhaust_chunks()
        finally:
            if lease is not None:
                lease.give_back()

    async def _exhaust_chunks(self) -> None:
        # httpx reads through generators within generators. Each that is dropped halfway makes a task
        # on asyncio and a warning on trio. The inner ones cannot be closed from here, but a read on the
        # closed connection ends them all.
        with suppress(Exception):
            for _ in range(MOST_LEFT):
                await anext(self._chunks)


@coroutine
def _checkpoint() -> Generator[Any, Any, None]:
    """Let other tasks run; on asyncio in a third of the time that anyio takes."""
    import asyncio

    if asyncio._get_running_loop() is not None:
        yield  # as asyncio.sleep(0) does, which takes two coroutines more
    else:
        import trio

        yield from trio.lowlevel.checkpoint()  # noqa: ASYNC105 - a plain generator has no await
