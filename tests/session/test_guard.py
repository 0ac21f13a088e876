"""Calls that lost their scope while a replay is under way, and requests that are refused."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    ContextThreadPoolExecutor,
    Noukai,
    ReplayDisabledError,
    ReplayError,
    copy_scope,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session import lost_scope as guard
from noukai_sdk.session.lost_scope import LostScopeWarning
from noukai_sdk.session.opening import cassette_scope
from noukai_sdk.transport.live_calls import live_calls_refused
from tests.support.servers import serve_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"status": "completed", "result": "live"})


@pytest.fixture
def client() -> Iterator[Noukai]:
    http = httpx.Client(transport=httpx.MockTransport(answer))
    with Noukai(api_key="nk_x", org="acme", project="p", http_client=http) as client:
        yield client


@pytest.fixture
def cassette(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One recorded call, and an open gate."""
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    recording = Recording(
        slug="flow", kind="execute", result={"status": "completed", "result": "recorded"}
    )
    write_cassette(tmp_path / "c.jsonl", "s", [recording])
    return tmp_path / "c.jsonl"


def ask(client: Noukai) -> Any:
    return client.flow("flow").execute(message="m").result


def in_thread(function: Callable[[], Any]) -> Any:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function())
        except Exception as error:  # noqa: BLE001  # it is the outcome
            outcome.append(error)

    thread = threading.Thread(target=run, name="worker 7")
    thread.start()
    thread.join(20)
    return outcome[0]


def in_pool(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1, thread_name_prefix="worker 7") as pool:
        return pool.submit(function).result()


LINE = ask.__code__.co_firstlineno + 1


@pytest.mark.parametrize("elsewhere", [in_thread, in_pool])
def test_a_thread_without_a_scope_is_warned_of(
    client: Noukai, cassette: Path, elsewhere: Callable[..., Any]
) -> None:
    with trace_scope_sync(cassette=cassette):
        with pytest.warns(LostScopeWarning) as caught:
            assert elsewhere(lambda: ask(client)) == "live"
        assert ask(client) == "recorded"
    (warning,) = caught
    said = str(warning.message)
    assert "acme/p/flow" in said
    assert "thread 'worker 7" in said
    assert "copy_scope(function), or use ContextThreadPoolExecutor" in said
    assert (warning.filename, warning.lineno) == (__file__, LINE)


def test_strict_refuses(client: Noukai, cassette: Path) -> None:
    with trace_scope_sync(cassette=cassette, strict=True):
        refused = in_thread(lambda: ask(client))
        assert isinstance(refused, ReplayError)
        assert "thread 'worker 7'" in str(refused)
        ask(client)


def test_one_strict_replay_among_others_is_enough(client: Noukai, cassette: Path) -> None:
    with trace_scope_sync(cassette=cassette):
        ask(client)
        with trace_scope_sync(cassette=cassette, strict=True):
            ask(client)
            assert isinstance(in_thread(lambda: ask(client)), ReplayError)


def test_a_scope_of_its_own_is_not_lost(client: Noukai, cassette: Path) -> None:
    def captured() -> Any:
        with trace_scope_sync():
            return ask(client)

    with trace_scope_sync(cassette=cassette, strict=True):
        assert in_thread(captured) == "live"
        ask(client)


def test_a_scope_that_is_carried_along_is_not_lost(client: Noukai, cassette: Path) -> None:
    for carried in (
        lambda: in_thread(copy_scope(lambda: ask(client))),
        lambda: in_pool(copy_scope(lambda: ask(client))),
        lambda: in_context_pool(lambda: ask(client)),
    ):
        with trace_scope_sync(cassette=cassette, strict=True):
            assert carried() == "recorded"


def in_context_pool(function: Callable[[], Any]) -> Any:
    with ContextThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


async def test_a_task_without_a_scope_is_named(cassette: Path) -> None:
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncNoukai(api_key="nk_x", org="acme", project="p", http_client=http)
    orders: asyncio.Queue[asyncio.Event] = asyncio.Queue()
    seen: list[Any] = []

    async def worker() -> None:
        done = await orders.get()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen.append((await client.flow("flow").execute(message="m")).result)
        seen.append(str(caught[0].message))
        done.set()

    task = asyncio.create_task(worker(), name="the worker")
    await asyncio.sleep(0)
    async with trace_scope(cassette=cassette):
        done = asyncio.Event()
        await orders.put(done)
        await done.wait()
        assert (await client.flow("flow").execute(message="m")).result == "recorded"
    await task
    assert seen[0] == "live"
    assert "task 'the worker' of thread 'MainThread'" in seen[1]


def test_in_a_loop_but_in_no_task_the_thread_is_named(client: Noukai, cassette: Path) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        outcome = loop.create_future()

        def call() -> None:
            with pytest.warns(LostScopeWarning, match="in thread 'MainThread' carries"):
                outcome.set_result(ask(client))

        loop.call_soon(call)
        return await outcome

    thread_scope = trace_scope_sync(cassette=cassette)
    waiting, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with thread_scope:
            waiting.set()
            ended.wait(20)
            ask(client)

    thread = threading.Thread(target=hold)
    thread.start()
    waiting.wait(20)
    assert asyncio.run(main()) == "live"
    ended.set()
    thread.join(20)


def test_without_a_replay_nobody_is_warned(client: Noukai, cassette: Path) -> None:
    assert in_thread(lambda: ask(client)) == "live"
    with trace_scope_sync():
        assert in_thread(lambda: ask(client)) == "live"
    with trace_scope_sync(cassette=cassette):
        ask(client)
    assert in_thread(lambda: ask(client)) == "live"


def test_a_replay_that_was_dropped_does_not_count_for_ever(client: Noukai, cassette: Path) -> None:
    scope = cassette_scope({"cassette": cassette, "strict": True})
    assert isinstance(in_thread(lambda: ask(client)), ReplayError)
    del scope
    gc.collect()
    assert ask(client) == "live"


def test_a_call_without_a_place_is_warned_of_all_the_same(
    client: Noukai, cassette: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a thread that runs nothing but C code and ours."""
    monkeypatch.setattr(guard, "call_site", lambda: None)
    with trace_scope_sync(cassette=cassette):
        with pytest.warns(LostScopeWarning, match="carries no scope"):
            in_thread(lambda: ask(client))
        ask(client)


# Requests that are refused.


async def service(scope: Any, receive: Any, send: Any) -> None:
    body = b'{"status": "completed", "executionId": "e", "sessionId": "s", "executions": []}'
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve_app(service, lifespan="off") as url:
        yield url


REQUESTS: dict[str, Callable[[Noukai], Any]] = {
    "execute": ask,
    "events": lambda client: list(client.flow("flow").events(message="m")),
    "submit": lambda client: client.flow("flow").execute_async(message="m"),
    "poll": lambda client: client.flow("flow").job("j").poll(),
    "trace": lambda client: client.flow("flow").run("r").trace(),
    "session": lambda client: trace_scope_sync(
        client=client, replay_session_id="s-1", strict=True
    ).__enter__(),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_no_request_leaves_where_all_are_refused(
    url: str,
    request_name: str,
    redirect_dev: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redirect_dev(url)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    send = REQUESTS[request_name]
    with Noukai(org="acme", project="p") as client:
        with live_calls_refused("record it first"):
            with pytest.raises(ReplayDisabledError, match="was refused: record it first") as caught:
                send(client)
            refused = in_thread(lambda: send(client))
        assert isinstance(refused, ReplayDisabledError)
        assert "a live request to /seq/" in str(caught.value)
        if request_name == "execute":
            send(client)  # is allowed again


async def test_async_requests_are_refused_too(
    url: str, redirect_dev: Callable[[str], None]
) -> None:
    redirect_dev(url)
    async with AsyncNoukai(org="acme", project="p") as client:
        with live_calls_refused("outer"), live_calls_refused("inner"):
            with pytest.raises(ReplayDisabledError, match="refused: inner"):
                await client.flow("flow").execute(message="m")
            with pytest.raises(ReplayDisabledError, match="refused: inner"):
                [event async for event in client.flow("flow").events(message="m")]


def test_a_client_with_http_of_its_own_may_go_on(client: Noukai) -> None:
    with live_calls_refused("no"):
        assert ask(client) == "live"
