"""Calls that lost their scope during a replay, and live requests that are refused."""

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
from noukai_sdk.replay import callsite
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session.lost_scope import LostScopeWarning
from noukai_sdk.session.opening import cassette_scope
from noukai_sdk.transport.live_calls import live_calls_refused
from tests.support.servers import serve_app

pytestmark = pytest.mark.anyio


def respond(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"status": "completed", "result": "live"})


@pytest.fixture
def client() -> Iterator[Noukai]:
    http = httpx.Client(transport=httpx.MockTransport(respond))
    with Noukai(api_key="nk_x", org="acme", project="p", http_client=http) as client:
        yield client


@pytest.fixture
def cassette(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cassette of one call, and replay enabled."""
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
def test_call_in_a_thread_without_scope_warns_at_the_line_of_the_app(
    client: Noukai, cassette: Path, elsewhere: Callable[..., Any]
) -> None:
    with trace_scope_sync(cassette=cassette):
        with pytest.warns(LostScopeWarning) as caught:
            assert elsewhere(lambda: ask(client)) == "live"
        assert ask(client) == "recorded"
    (warning,) = caught
    text = str(warning.message)
    assert "acme/p/flow" in text
    assert "thread 'worker 7" in text
    assert "copy_scope(function), or use ContextThreadPoolExecutor" in text
    assert (warning.filename, warning.lineno) == (__file__, LINE)


def test_call_in_a_thread_without_scope_is_refused_if_any_replay_is_strict(
    client: Noukai, cassette: Path
) -> None:
    with trace_scope_sync(cassette=cassette):
        ask(client)
        with trace_scope_sync(cassette=cassette, strict=True):
            refused = in_thread(lambda: ask(client))
            assert isinstance(refused, ReplayError)
            assert "thread 'worker 7'" in str(refused)
            ask(client)


def test_call_in_a_thread_with_its_own_or_a_carried_scope_is_not_lost(
    client: Noukai, cassette: Path
) -> None:
    def captured() -> Any:
        with trace_scope_sync():
            return ask(client)

    def in_context_pool() -> Any:
        with ContextThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: ask(client)).result()

    with trace_scope_sync(cassette=cassette, strict=True):
        assert in_thread(captured) == "live"
        ask(client)
    for carried in (
        lambda: in_thread(copy_scope(lambda: ask(client))),
        lambda: in_pool(copy_scope(lambda: ask(client))),
        in_context_pool,
    ):
        with trace_scope_sync(cassette=cassette, strict=True):
            assert carried() == "recorded"


async def test_call_in_a_task_without_scope_names_the_task(cassette: Path) -> None:
    http = httpx.AsyncClient(transport=httpx.MockTransport(respond))
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


def test_call_in_a_loop_callback_without_scope_names_the_thread(
    client: Noukai, cassette: Path
) -> None:
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


def test_call_without_scope_is_not_lost_while_no_replay_runs(
    client: Noukai, cassette: Path
) -> None:
    assert in_thread(lambda: ask(client)) == "live"
    with trace_scope_sync():
        assert in_thread(lambda: ask(client)) == "live"
    with trace_scope_sync(cassette=cassette):
        ask(client)
    assert in_thread(lambda: ask(client)) == "live"
    # A replay that is dropped without an end does not count for ever.
    scope = cassette_scope({"cassette": cassette, "strict": True})
    assert isinstance(in_thread(lambda: ask(client)), ReplayError)
    del scope
    gc.collect()
    assert ask(client) == "live"


def test_lost_call_without_call_site_warns_too(
    client: Noukai, cassette: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callsite, "call_site", lambda: None)
    with trace_scope_sync(cassette=cassette):
        with pytest.warns(LostScopeWarning, match="carries no scope"):
            in_thread(lambda: ask(client))
        ask(client)


# Live requests that are refused


async def service(scope: Any, receive: Any, send: Any) -> None:
    body = b'{"status": "completed", "executionId": "e", "sessionId": "s", "executions": []}'
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve_app(service, lifespan="off") as url:
        yield url


REQUESTS: list[Callable[[Noukai], Any]] = [
    ask,
    lambda client: list(client.flow("flow").events(message="m")),
    lambda client: client.flow("flow").execute_async(message="m"),
    lambda client: client.flow("flow").job("j").poll(),
    lambda client: client.flow("flow").run("r").trace(),
    lambda client: trace_scope_sync(
        client=client, replay_session_id="s-1", strict=True
    ).__enter__(),
]


def test_live_calls_refused_lets_no_request_of_any_kind_leave(
    url: str, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, client: Noukai
) -> None:
    use_service(url)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    with Noukai(org="acme", project="p") as own:
        with live_calls_refused("record it first"):
            for send in REQUESTS:
                with pytest.raises(ReplayDisabledError, match="refused: record it first") as caught:
                    send(own)
                assert "a live request to /seq/" in str(caught.value)
                assert isinstance(in_thread(lambda send=send: send(own)), ReplayDisabledError)
            assert ask(client) == "live"  # a client with an http_client of its own
        ask(own)


async def test_live_calls_refused_holds_for_async_calls_with_the_inner_reason(
    url: str, use_service: Callable[[str], None]
) -> None:
    use_service(url)
    async with AsyncNoukai(org="acme", project="p") as client:
        with live_calls_refused("outer"), live_calls_refused("inner"):
            with pytest.raises(ReplayDisabledError, match="refused: inner"):
                await client.flow("flow").execute(message="m")
            with pytest.raises(ReplayDisabledError, match="refused: inner"):
                [event async for event in client.flow("flow").events(message="m")]
