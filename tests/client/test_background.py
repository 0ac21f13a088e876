"""What nobody waits for is sent in the background, and never disturbs the program."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import AsyncNoukai, Noukai, trace_scope, trace_scope_sync
from noukai_sdk.models.sessions import Outcomes
from noukai_sdk.protocol.session_extensions import post_report, put_outcomes
from noukai_sdk.transport import background
from tests.support.servers import serve_app, wait_until
from tests.support.service import Reply, Service
from tests.support.sockets import serve_sockets, silence

OUTCOMES = Outcomes()
SIDES = ["sync", "async", "async without a loop"]


@pytest.fixture(autouse=True)
def fresh_sender(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(background, "IDLE", 0.05)
    monkeypatch.setattr(background, "_current", None)
    yield
    background.flush(10)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Service, str]]:
    service = Service()
    with serve_app(service, http="h11", lifespan="off") as url:
        yield service, f"{url}/api/v1"


@pytest.fixture
def service(running: tuple[Service, str], use_service: Any) -> Service:
    service, url = running
    use_service(url)
    service.reply(Reply({}))
    service.requests.clear()
    return service


def send_from(side: str, client: Any, *, count: int = 1) -> None:
    """Send outcomes ``count`` times at the end of a scope, and close the client at once."""

    async def in_loop() -> None:
        async with client:
            for _ in range(count):
                async with trace_scope(client=client) as scope:
                    scope.send_at_end(put_outcomes, OUTCOMES)

    if side == "async":
        asyncio.run(in_loop())
        return
    for _ in range(count):
        with trace_scope_sync(client=client) as scope:
            scope.send_at_end(put_outcomes, OUTCOMES)
    if side == "sync":
        client.close()


def client_of(side: str, **options: Any) -> Any:
    return (Noukai if side == "sync" else AsyncNoukai)("nk_dev", org="a", project="b", **options)


@pytest.mark.parametrize("side", SIDES)
def test_scope_ends_and_client_closes_sends_all(service: Service, side: str) -> None:
    send_from(side, client_of(side), count=3)
    assert background.flush(10)
    assert [request.method for request in service.requests] == ["PUT"] * 3
    assert all(request.path.endswith("/outcomes") for request in service.requests)


@pytest.mark.parametrize("side", SIDES)
def test_custom_http_client_is_used_as_it_is(side: str) -> None:
    paths: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={})

    kind = httpx.Client if side == "sync" else httpx.AsyncClient
    http_client = kind(transport=httpx.MockTransport(respond))
    # The loop ends before the task has begun: the thread sends then.
    send_from(side, client_of(side, http_client=http_client), count=3)
    assert background.flush(10)
    assert len(paths) == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_custom_async_client_is_used_in_its_loop(anyio_backend: str) -> None:
    import anyio

    threads: list[str] = []
    sent = anyio.Event()

    async def respond(request: httpx.Request) -> httpx.Response:
        threads.append(threading.current_thread().name)
        sent.set()
        return httpx.Response(200, json={})

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    client = client_of("async", http_client=http_client)
    async with trace_scope(client=client) as scope:
        scope.send_at_end(put_outcomes, OUTCOMES)
    with anyio.fail_after(30):
        await sent.wait()
    assert threads == [threading.current_thread().name]


@pytest.mark.parametrize("status", [404, 405, 501, 403])
def test_service_that_does_not_take_it_is_not_asked_again(service: Service, status: int) -> None:
    service.reply(Reply({}, status=status))
    with client_of("sync") as client:
        send_from("sync", client, count=1)
        background.flush(10)
        send_from("sync", client, count=3)
        assert background.flush(10)
        assert len(service.requests) == 1
        assert not background.takes(client._transport.service, put_outcomes)
        assert background.takes(client._transport.service, post_report)


def test_outage_ends_and_everything_is_sent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.01)
    service.reply(Reply({}, status=503), Reply({}, status=503), Reply({}))
    with client_of("sync", max_retries=5) as client:
        send_from("sync", client, count=20)
        assert background.flush(10)
        assert len(service.requests) == 22


def test_outage_lasts_too_long_drops_with_one_warning(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "LONGEST_OUTAGE", 0.0)
    service.reply(Reply({}, status=503))
    with client_of("sync") as client:
        send_from("sync", client, count=20)
        assert background.flush(10)
        assert len(service.requests) < 20
    assert caplog.text.count("are dropped") == 1


def test_ten_thousand_sends_to_a_hanging_service_are_bounded(
    use_service: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "TIMEOUT", 20)
    monkeypatch.setattr(background, "LONGEST_OUTAGE", 0.0)
    caplog.set_level(logging.WARNING, "noukai_sdk")
    released = threading.Event()
    with serve_sockets(lambda _: bool(released.wait(20))) as (url, connections):
        use_service(url)
        with client_of("sync") as client:
            send_from("sync", client, count=10_000)
            sender = background._sender()
            assert len(sender._jobs) == background.MOST_JOBS
            released.set()
            assert background.flush(10)
        # For each thread the connection that hung, and another try.
        assert len(connections) <= 2 * background.MOST_THREADS
    assert caplog.text.count("are dropped") == 1


def test_large_sends_are_bounded_by_their_size(service: Service) -> None:
    held = threading.Event()
    service.reply(Reply({}, when=held))
    with client_of("sync") as client:
        for _ in range(10):
            background.send_later(
                client._transport.service, put_outcomes, "s", OUTCOMES, size=30_000_000
            )
        held.set()
        assert background.flush(10)
    assert len(service.requests) == 2


def test_broken_program_is_only_logged(service: Service) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("on purpose")

    with trace_scope_sync(client=client_of("sync")) as scope:
        scope.send_at_end(broken)
        scope.send_at_end(put_outcomes, OUTCOMES)
    assert background.flush(10)
    assert len(service.requests) == 1


def test_idle_thread_ends_and_next_send_starts_another(service: Service) -> None:
    before = set(threading.enumerate())
    for _ in range(2):
        send_from("sync", client_of("sync"))
        assert background.flush(10)
        wait_until(lambda: set(threading.enumerate()) <= before)
    assert len(service.requests) == 2


SCRIPT = """
import multiprocessing, os, sys, threading
from noukai_sdk import AsyncNoukai, Noukai, trace_scope_sync
from noukai_sdk.models.sessions import Outcomes
from noukai_sdk.protocol.session_extensions import put_outcomes
from noukai_sdk.transport import background

background.flush.__defaults__ = (float(sys.argv[2]),)  # seconds
background.TIMEOUT = 60.0

def send(name):
    with trace_scope_sync(client=client) as scope:
        scope.session_id = name
        scope.send_at_end(put_outcomes, Outcomes())

client = Noukai(org="a", project="b")
send("parent")
if sys.argv[1] == "fork":
    pid = os.fork()
    if pid == 0:
        send("child")
        sys.exit()
    os.waitpid(pid, 0)
elif sys.argv[1] == "process":
    process = multiprocessing.get_context("fork").Process(target=send, args=("child",))
    process.start()
    process.join()
"""


@pytest.mark.parametrize("how", ["alone", "fork", "process"])
def test_process_that_ends_sends_what_is_left(service: Service, how: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script, how, "20"], check=True, timeout=60)
    sent = sorted(request.path.split("/")[-2] for request in service.requests)
    assert sent == (["parent"] if how == "alone" else ["child", "parent"])


def test_process_that_ends_does_not_wait_for_a_hanging_service(
    use_service: Any, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with serve_sockets(silence) as (url, _):
        use_service(url)
        # A flush without a limit of its own would wait for the timeout of the request.
        subprocess.run([sys.executable, script, "alone", "0.2"], check=True, timeout=50)


def test_what_a_replay_waits_for_is_sent_before_the_rest(service: Service) -> None:
    held = threading.Event()
    service.reply(Reply({}, when=held), *[Reply({})] * 4)
    http = client_of("sync")
    for session in ("s-1", "s-2", "s-3", "s-3", "s-2"):
        background.send_later(
            http._transport.service, put_outcomes, session, OUTCOMES, about=session
        )
    wait_until(lambda: service.requests)
    background.wait_for_session("s-3", 0)
    held.set()
    assert background.flush(20)
    sent = [request.path.split("/")[-2] for request in service.requests]
    assert sent == ["s-1", "s-3", "s-3", "s-2", "s-2"]


def test_replay_waits_for_what_its_session_needs_and_for_nothing_else(service: Service) -> None:
    held = threading.Event()
    service.reply(Reply({}, when=held), Reply({}))
    http = client_of("sync")
    background.send_later(http._transport.service, put_outcomes, "s-1", OUTCOMES)
    background.send_later(http._transport.service, put_outcomes, "s-2", OUTCOMES, about="s-2")
    assert not background.is_sending("s-1")
    assert background.is_sending("s-2")
    background.wait_for_session("s-1", 20)
    wait_until(lambda: service.requests)
    held.set()
    background.wait_for_session("s-2", 20)
    assert not background.is_sending("s-2")
    assert len(service.requests) == 2


def test_many_waiting_sends_share_threads_and_keep_the_order_of_a_session() -> None:
    """At a high load one thread is too slow; two sends of one session must not overtake each other."""
    service = client_of("sync")._transport.service
    together = threading.Barrier(2)
    begun = threading.Event()
    sent: list[tuple[str, int]] = []

    def send(_: Any, session_id: str, number: int) -> Any:
        if session_id == "first":
            begun.wait(30)
        elif number == 0 and session_id in ("s1", "s2"):
            together.wait(30)  # passes only if two threads send at once
        sent.append((session_id, number))
        return True
        yield

    background.send_later(service, send, "first", 0)
    for number in range(3):
        for session in range(20):
            background.send_later(service, send, f"s{session}", number)
    begun.set()
    assert background.flush(30)
    assert len(sent) == 61
    for session in range(20):
        of_session = [number for session_id, number in sent if session_id == f"s{session}"]
        assert of_session == [0, 1, 2]
