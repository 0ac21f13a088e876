"""The two drivers that run programs over HTTP.

A driver advances a program, does what it wants, and hands its events to the caller. The two are the
same few lines, one of them with ``await``: a change to one belongs into the other.
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from .connections import AsyncClients, Pool, fault_from, sync_client
from .errors import ClientClosedError
from .protocol.call import Service
from .protocol.program import (
    CallTools,
    CloseStream,
    Now,
    OpenStream,
    Program,
    ReadChunk,
    Request,
    Response,
    SendRequest,
    Sleep,
    Want,
)

T = TypeVar("T")

Keep = Callable[[Any], bool]
"""Tells whether the caller gets an event; may raise to end the stream."""


class Done:
    """A program has returned ``value``."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def advance(program: Program[Any], outcome: Any = None) -> Any:
    """The program's next want or event, or Done."""
    try:
        return program.send(outcome)
    except StopIteration as end:
        return Done(end.value)


def fail(program: Program[Any], error: Exception) -> Any:
    """As :func:`advance`, for a want that failed.

    A StopIteration among the errors is no result: thrown into a generator, Python makes a
    RuntimeError of it.
    """
    try:
        return program.throw(error)
    except StopIteration as end:
        return Done(end.value)


class SyncTransport:
    """Runs programs with blocking I/O. Safe to use from many threads."""

    is_async = False

    def __init__(self, service: Service, http_client: Any = None) -> None:
        self.service = service
        self._owned = http_client is None
        self._client = sync_client() if http_client is None else http_client
        self._closed = False

    def run(self, program: Program[T]) -> T:
        """The program's result."""
        with self._wire(program) as wire:
            item = advance(program)
            while not isinstance(item, Done):
                item = wire.answer(item)
            return item.value  # type: ignore[no-any-return]  # Done holds the program's T

    def stream(self, program: Program[None], keep: Keep | None = None) -> Iterator[Any]:
        """The program's events."""
        with self._wire(program) as wire:
            item = advance(program)
            while not isinstance(item, Done):
                if isinstance(item, Want):
                    item = wire.answer(item)
                    continue
                if keep is None or keep(item):
                    yield item
                item = advance(program)

    @contextmanager
    def _wire(self, program: Program[Any]) -> Generator[_SyncWire, None, None]:
        wire = _SyncWire(self.service, self._client, program)
        try:
            _refuse_closed(self._closed)
            yield wire
        finally:
            program.close()
            wire.close()

    def close(self) -> None:
        """Release the connections. May be called any number of times."""
        self._closed = True
        if self._owned:
            self._client.close()


class _SyncWire:
    """Does what one program wants; holds its open stream."""

    def __init__(self, service: Service, client: Any, program: Program[Any]) -> None:
        self._service = service
        self._client = client
        self._program = program
        self._response: Any = None
        self._chunks: Iterator[bytes] = iter(())

    def answer(self, want: Want) -> Any:
        try:
            outcome = self._perform(want)
        except Exception as error:  # noqa: BLE001 - the program decides what an error means
            return fail(self._program, error)
        return advance(self._program, outcome)

    def _perform(self, want: Want) -> Any:
        match want:
            case SendRequest(request):
                with translated(request.path):
                    return _whole(self._client.send(self._built(request)))
            case OpenStream(request):
                return self._open(request)
            case ReadChunk():
                with translated("stream"):
                    return next(self._chunks, None)
            case CloseStream():
                return self.close()
            case CallTools(handler, tool_calls):
                return handler(list(tool_calls))
            case Sleep(seconds, jitter):
                return time.sleep(_jittered(seconds, jitter)) if seconds else None
            case Now():
                return time.monotonic()
            case _:  # a Note is for listeners
                return None

    def _open(self, request: Request) -> Response:
        self.close()
        with translated(request.path):
            self._response = self._client.send(self._built(request), stream=True)
            if self._response.status_code != 200:
                self._response.read()
                return _whole(self._response)
        self._chunks = self._response.iter_bytes()
        return _head(self._response)

    def _built(self, request: Request) -> Any:
        return build(self._client, self._service, request)

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()


class AsyncTransport:
    """Runs programs on asyncio or trio, in any number of event loops."""

    is_async = True

    def __init__(self, service: Service, http_client: Any = None) -> None:
        self.service = service
        self._clients = AsyncClients()
        self._given = http_client
        self._closed = False

    async def run(self, program: Program[T]) -> T:
        """The program's result."""
        wire = self._wire(program)
        try:
            _refuse_closed(self._closed)
            item = advance(program)
            while not isinstance(item, Done):
                item = await wire.answer(item)
            return item.value  # type: ignore[no-any-return]  # Done holds the program's T
        finally:
            program.close()
            await wire.aclose()

    async def stream(
        self, program: Program[None], keep: Keep | None = None
    ) -> AsyncGenerator[Any, None]:
        """The program's events."""
        wire = self._wire(program)
        try:
            _refuse_closed(self._closed)
            item = advance(program)
            while not isinstance(item, Done):
                if isinstance(item, Want):
                    item = await wire.answer(item)
                    continue
                if keep is None or keep(item):
                    yield item
                item = advance(program)
        finally:
            program.close()
            await wire.aclose()

    def _wire(self, program: Program[Any]) -> _AsyncWire:
        return _AsyncWire(self.service, self._take, program)

    async def _take(self) -> Pool:
        return Pool(self._given) if self._given is not None else await self._clients.take()

    async def aclose(self) -> None:
        """Release the connections. May be called any number of times."""
        self._closed = True
        await self._clients.aclose()


class _AsyncWire:
    """Does what one program wants; holds its open stream and the pool that it comes from."""

    def __init__(
        self, service: Service, take: Callable[[], Awaitable[Pool]], program: Program[Any]
    ) -> None:
        self._service = service
        self._take = take
        self._program = program
        self._pool: Pool | None = None
        self._response: Any = None
        self._chunks: Any = None

    async def answer(self, want: Want) -> Any:
        try:
            outcome = await self._perform(want)
        except Exception as error:  # noqa: BLE001 - the program decides what an error means
            return fail(self._program, error)
        return advance(self._program, outcome)

    async def _perform(self, want: Want) -> Any:
        match want:
            case SendRequest(request):
                return await self._send(request)
            case OpenStream(request):
                return await self._open(request)
            case ReadChunk():
                with translated("stream"):
                    return await anext(self._chunks, None)
            case CloseStream():
                return await self.aclose()
            case CallTools(handler, tool_calls):
                results = handler(list(tool_calls))
                return await results if inspect.isawaitable(results) else results
            case Sleep(seconds, jitter):
                return await _async_sleep(_jittered(seconds, jitter))
            case Now():
                return time.monotonic()
            case _:  # a Note is for listeners
                return None

    async def _send(self, request: Request) -> Response:
        pool = await self._take()
        try:
            with translated(request.path):
                return _whole(await pool.client.send(build(pool.client, self._service, request)))
        finally:
            pool.busy -= 1

    async def _open(self, request: Request) -> Response:
        await self.aclose()
        self._pool = pool = await self._take()
        with translated(request.path):
            built = build(pool.client, self._service, request)
            self._response = await pool.client.send(built, stream=True)
            if self._response.status_code != 200:
                await self._response.aread()
                return _whole(self._response)
        self._chunks = self._response.aiter_bytes()
        return _head(self._response)

    async def aclose(self) -> None:
        response, self._response = self._response, None
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.busy -= 1
        if response is not None:
            import anyio

            # The caller may be cancelled: the connection must be given back all the same.
            with anyio.CancelScope(shield=True):
                await response.aclose()


def build(client: Any, service: Service, request: Request) -> Any:
    """The HTTP library's request."""
    return client.build_request(
        request.method,
        service.base_url + request.path,
        content=request.body,
        headers={**service.headers, **request.headers},
        timeout=request.timeout,
    )


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn the HTTP library's errors into the SDK's, with the original as their cause."""
    try:
        yield
    except Exception as error:
        fault = fault_from(error, path)
        if fault is None:
            raise
        raise fault from error


def _whole(response: Any) -> Response:
    return Response(response.status_code, response.headers, response.content)


def _head(response: Any) -> Response:
    return Response(response.status_code, response.headers, b"")


def _jittered(seconds: float, jitter: float) -> float:
    return seconds * (1 + jitter * random.random())  # noqa: S311 - spreads retries, guards nothing


async def _async_sleep(seconds: float) -> None:
    import anyio

    await (anyio.sleep(seconds) if seconds else anyio.lowlevel.checkpoint())


def _refuse_closed(closed: bool) -> None:
    if closed:
        raise ClientClosedError("this client was closed: make a new one")
