"""Clients from their making to their end: closing, event loops, threads, notebooks."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import anyio
import httpx
import pytest

from noukai_sdk import AsyncNoukai, ClientClosedError, Noukai
from noukai_sdk.transport import after_fork as forks
from noukai_sdk.transport import async_clients as pools
from noukai_sdk.transport import drivers
from tests.support.servers import wait_until
from tests.support.service import DONE, PAUSED, STARTED, Reply, Service, stream
from tests.support.sides import SYNC, Side


@pytest.fixture
def side(every_side: Side) -> Side:
    """Run the test on every client."""
    return every_side


@pytest.fixture
def async_side(every_async_side: Side) -> Side:
    """Run the test on every async client."""
    return every_async_side


@pytest.fixture(params=[False, True], ids=["httpx", "fast"])
def on_asyncio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """The async client on asyncio, over each HTTP library, for tests that run event loops themselves."""
    monkeypatch.setenv("NOUKAI_FAST", str(int(request.param)))
    return Side("asyncio")


async def test_call_on_closed_client_raises(side: Side, service: Service) -> None:
    service.reply(PAUSED)
    async with side.client() as client:
        flow = client.flow("grade-3")
        run, job = flow.run("e"), flow.job("e")
        paused = await side.call(flow.execute, message="hi")
    for method in (flow.execute, flow.execute_async):
        with pytest.raises(ClientClosedError, match="was closed: make a new one"):
            await side.call(method, message="hi")
    for method in (run.trace, lambda: run.step_trace("a"), job.poll, job.wait):
        with pytest.raises(ClientClosedError):
            await side.call(method)
    for events in (flow.steps(message="hi"), flow.events(message="hi"), run.live_trace()):
        with pytest.raises(ClientClosedError):
            await side.collect(events)
    with pytest.raises(ClientClosedError):
        await side.resume(paused, [])
    assert len(service.requests) == 1


async def test_with_block_closes_client(side: Side, service: Service) -> None:
    client = side.make()
    await side.close(client)  # before any call
    await side.close(client)
    client = side.make()
    if isinstance(client, AsyncNoukai):
        async with client as entered:
            assert entered is client
            await client.flow("grade-3").execute(message="hi")
    else:
        with client as entered:
            assert entered is client
            await side.call(client.flow("grade-3").execute, message="hi")
    await side.close(client)
    with pytest.raises(ClientClosedError):
        await side.call(client.flow("grade-3").execute, message="hi")


async def test_close_between_two_requests_of_a_call_raises(side: Side, service: Service) -> None:
    service.reply(PAUSED)
    client = side.make()

    def close(tool_calls: Any) -> list[Any]:
        client.close()
        return []

    async def aclose(tool_calls: Any) -> list[Any]:
        await client.aclose()
        return []

    with pytest.raises(ClientClosedError):
        await side.call(
            client.flow("grade-3").execute,
            message="hi",
            tool_handler=aclose if side.is_async else close,
        )
    assert len(service.requests) == 1


async def test_close_ends_open_streams(side: Side, service: Service) -> None:
    service.reply(stream(STARTED, then="silence"))
    client = side.make()
    events = client.flow("grade-3").events(message="hi")
    first = await side.call(lambda: anext(events) if side.is_async else next(events))
    assert first.type == "run_started"
    await side.close(client)
    await service.has_disconnects()
    with pytest.raises(ClientClosedError, match="closed during the call"):
        await side.collect(events)


@pytest.mark.parametrize("method", ["execute", "events"])
@pytest.mark.parametrize("answered", [False, True], ids=["before it connects", "while it waits"])
async def test_close_ends_calls_under_way(
    async_side: Side, service: Service, method: str, answered: bool
) -> None:
    """Those too that have no connection yet, and those that are not sent yet: none is sent after."""
    service.reply(Reply(DONE, when=threading.Event()))
    ended = []

    async def call(flow: Any) -> None:
        begun = (
            flow.execute(message="hi") if method == "execute" else anext(flow.events(message="hi"))
        )
        with pytest.raises(ClientClosedError) as caught:
            await begun
        ended.append(caught.value)

    client = async_side.make()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(48):
                tasks.start_soon(call, client.flow("grade-3"))
            if answered:
                await service.has_requests()
            else:
                for _ in range(2):
                    await anyio.lowlevel.checkpoint()
            await client.aclose()
    assert len(ended) == 48
    sent = len(service.requests)
    assert answered or sent < 48
    if sent:
        await service.has_disconnects(sent)


def test_close_in_other_thread_ends_call_at_its_timeout(service: Service) -> None:
    """The call is told when it next hears of its connection, at its timeout at the latest."""
    service.reply(Reply(DONE, when=threading.Event()))
    client = SYNC.make(timeout=1.0)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.flow("grade-3").execute, message="hi")
        wait_until(lambda: service.requests, what="the request")
        client.close()
        with pytest.raises(ClientClosedError, match="closed during the call"):
            call.result(60)


async def test_connection_is_reused_call_after_call(side: Side, service: Service) -> None:
    ports = set()
    async with side.flow() as flow:
        for _ in range(3):
            await side.call(flow.execute, message="hi")
            ports.add(service.last.client)
        service.reply(stream(STARTED, {"eventType": "step_paused"}), stream(STARTED), DONE)
        await side.collect(flow.events(message="hi"))
        await side.call(flow.execute, message="hi")
        ports.add(service.last.client)
    assert len(ports) == 1


def test_async_client_in_many_event_loops_leaves_nothing_open(
    service: Service, on_asyncio: Side
) -> None:
    """No loop's connections are used in another, none is left open, nothing is warned of."""
    client = on_asyncio.make()

    async def main() -> None:
        flow = client.flow("grade-3")
        calls = range(32)  # so many that some wait
        results = await asyncio.gather(*(flow.execute(message=str(n)) for n in calls))
        assert len(results) == len(calls)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            asyncio.run(main())
        gc.collect()
    assert len(client._transport.clients._by_loop) == 0
    asyncio.run(client.aclose())


def test_async_client_in_event_loops_of_several_threads_works(
    service: Service, on_asyncio: Side
) -> None:
    client = on_asyncio.make()

    async def main() -> int:
        flow = client.flow("grade-3")
        return len(await asyncio.gather(*(flow.execute(message="hi") for _ in range(10))))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: asyncio.run(main()), range(8))) == [10] * 8
    assert len(service.requests) == 80


def test_async_client_on_asyncio_and_trio_in_turn_works(service: Service, on_asyncio: Side) -> None:
    client = on_asyncio.make()

    async def main() -> None:
        assert (await client.flow("grade-3").execute(message="hi")).status == "completed"

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(main, backend=backend)


async def test_client_never_closed_leaves_no_socket_open(side: Side, service: Service) -> None:
    """Its sockets are closed with it: Python, aiohttp and trio would warn of those that are not."""
    client = side.make()
    await side.call(client.flow("grade-3").execute, message="hi")
    del client
    gc.collect()
    await anyio.wait_all_tasks_blocked()
    gc.collect()


def test_sync_client_in_many_threads_serves_each(service: Service) -> None:
    with SYNC.make() as client, ThreadPoolExecutor(8) as pool:
        flow = client.flow("grade-3")
        results = list(pool.map(lambda n: flow.execute(message=str(n)).result, range(64)))
    assert results == [{"grade": 3}] * 64
    assert sorted(int(request.body["message"]) for request in service.requests) == list(range(64))


def test_clients_are_listed_while_another_thread_makes_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a replay does, which looks for the other clients of its process."""
    made: list[Noukai] = []

    class Growing(WeakSet[Any]):
        def __iter__(self) -> Iterator[Any]:
            for each in super().__iter__():
                if len(made) < 3:
                    made.append(Noukai(api_key="nk_late"))
                yield each

    monkeypatch.setattr(drivers, "_transports", Growing())
    first = Noukai(api_key="nk_1")
    transports = drivers.open_transports()
    assert {each._transport for each in (first, *made)} == set(transports)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_process_opens_its_own_connections(service: Service) -> None:
    """As with gunicorn's preload or multiprocessing: two readers of one socket mix up answers."""
    with SYNC.make() as client:
        flow = client.flow("grade-3")
        flow.execute(message="parent")
        child = os.fork()
        if child == 0:
            try:
                flow.execute(message="child")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        flow.execute(message="parent")
    first, of_child, last = service.requests
    assert of_child.body == {"message": "child"}
    assert of_child.client != first.client == last.client


def test_start_afresh_keeps_inherited_client_open(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a forked process does first, done in this one."""
    monkeypatch.setattr(forks, "_owners", WeakSet())
    monkeypatch.setattr(forks, "_inherited", inherited := [])
    with httpx.Client() as mine, SYNC.make(http_client=mine) as other, SYNC.make() as client:
        client.flow("grade-3").execute(message="hi")
        before = client._transport.client
        forks._after_fork()
        client.flow("grade-3").execute(message="hi")
        assert inherited == [before]
        assert not before.is_closed
        assert client._transport.client is not before
        assert other._transport.client is mine  # the user's own is the user's to renew
    assert client._transport.client.is_closed
    before.close()


def test_sync_client_inside_running_loop_works(service: Service) -> None:
    """As in a notebook's cell, which runs inside a loop."""

    async def cell() -> Any:
        with SYNC.make() as client:
            flow = client.flow("grade-3")
            service.reply(DONE, stream(STARTED))
            return flow.execute(message="hi").result, [
                event.type for event in flow.events(message="hi")
            ]

    assert asyncio.run(cell()) == ({"grade": 3}, ["run_started"])


def test_async_client_in_notebook_cells_shares_loop(service: Service, on_asyncio: Side) -> None:
    client = on_asyncio.make()

    async def cell() -> None:
        assert (await client.flow("grade-3").execute(message="hi")).status == "completed"

    loop = asyncio.new_event_loop()
    try:
        for _ in range(3):
            loop.run_until_complete(cell())
        loop.run_until_complete(client.aclose())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def test_requests_under_way_have_clients_of_their_own(
    async_side: Side, service: Service
) -> None:
    """And those of before serve the ones after. With ``fast`` one client serves all."""
    gate = threading.Event()
    service.reply(Reply(DONE, when=gate))
    async with async_side.client() as client:
        flow = client.flow("grade-3")
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(lambda: flow.execute(message="hi"))
            await service.has_requests(40)
            (clients,) = client._transport.clients._by_loop.values()
            made = len(clients._all)
            gate.set()
        for _ in range(3):
            await flow.execute(message="hi")
        assert len(clients._all) == made
    assert made == (1 if async_side.fast else 40)
    assert service.most_under_way == 40
    assert len({request.client for request in service.requests}) == 40


async def test_idle_http_clients_are_closed_a_few_at_a_time(
    async_side: Side, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    service.reply(Reply(DONE, when=gate))
    async with async_side.client() as client:
        flow = client.flow("grade-3")
        async with anyio.create_task_group() as tasks:
            for _ in range(25):
                tasks.start_soon(lambda: flow.execute(message="hi"))
            await service.has_requests(25)
            gate.set()
        (clients,) = client._transport.clients._by_loop.values()
        monkeypatch.setattr("noukai_sdk.transport.async_clients.KEPT", -1.0)
        left = []
        for _ in range(3):
            await flow.execute(message="hi")
            left.append(len(clients._all))
    assert left == ([1, 1, 1] if async_side.fast else [15, 5, 1])


async def test_call_cancelled_before_sending_gives_its_client_back(
    async_side: Side, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancelled request gives its client back."""
    async with anyio.create_task_group() as tasks, async_side.client() as client:

        async def wait(_: Any) -> None:
            tasks.cancel_scope.cancel()
            await anyio.sleep(3600)

        for waits in ("_dismiss", "_notice_closed"):
            monkeypatch.setattr(pools._LoopClients, waits, wait)
        with pytest.raises(anyio.get_cancelled_exc_class()):
            await client.flow("grade-3").execute(message="hi")
        (clients,) = client._transport.clients._by_loop.values()
        assert not clients._lent
        assert len(clients._idle) == (0 if async_side.fast else 1)
    assert not service.requests


def test_first_call_imports_the_http_library_while_the_loop_goes_on() -> None:
    for library, environment in (("aiohttp", {}), ("httpcore", {"NOUKAI_FAST": "0"})):
        code = f"""
import asyncio, sys, threading
from noukai_sdk import APIConnectionError, AsyncNoukai

class Importers:
    threads = set()
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            self.threads.add(threading.current_thread())

async def call(client):
    try:
        await client.flow("a/b/c").execute(message="Hi")
    except APIConnectionError:
        return True

async def main():
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += {library!r} in sys.modules and not calls.done()
    client = AsyncNoukai(api_key="nk_x", base_url="http://127.0.0.1:9", max_retries=0)
    calls = asyncio.gather(*(call(client) for _ in range(20)))
    ticker = asyncio.create_task(tick())
    assert all(await calls)
    assert ticks > 10, ticks
    assert Importers.threads and threading.main_thread() not in Importers.threads
    await client.aclose()

sys.meta_path.insert(0, Importers())
asyncio.run(main())
"""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")


async def test_first_call_cancelled_while_it_imports_leaves_it_to_the_next(
    async_side: Side, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply(Reply(DONE))
    released = threading.Event()
    monkeypatch.setattr(pools, "async_is_ready", lambda _: False)
    monkeypatch.setattr(pools, "prepare_async", lambda _: released.wait(60))
    async with async_side.client() as client:
        flow = client.flow("grade-3")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: flow.execute(message="cancelled"))
            await anyio.sleep(0.05)
            results: list[Any] = []

            async def call() -> None:
                results.append(await flow.execute(message="hi"))

            with anyio.move_on_after(0.05):
                await call()
            tasks.cancel_scope.cancel()
        released.set()
        await call()
    assert len(results) == len(service.requests) == 1


async def test_client_closed_while_the_first_call_imports_sends_nothing(
    async_side: Side, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(pools, "async_is_ready", lambda _: False)
    monkeypatch.setattr(pools, "prepare_async", lambda _: released.wait(60))
    client = async_side.make()
    errors: list[ClientClosedError] = []

    async def call() -> None:
        with pytest.raises(ClientClosedError) as caught:
            await client.flow("grade-3").execute(message="hi")
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(call)
        await anyio.sleep(0.05)
        await client.aclose()
        released.set()
    assert len(errors) == 2
    assert not service.requests
