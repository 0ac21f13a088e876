"""The patches that carry the scope into threads: alone, and beside those of Sentry and OpenTelemetry."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

from noukai_sdk import (
    ReplayMissError,
    carry_threads,
    current_session_id,
    detached,
    trace,
    trace_scope_sync,
)
from noukai_sdk.session.carry_threads import carry_threads_by_default
from noukai_sdk.session.scope import current_scope
from tests.support.replays import SessionService, SyncSide, execution


@pytest.fixture
def carried() -> Iterator[None]:
    carry_threads()
    yield
    carry_threads(False)


def in_thread(function: Callable[[], Any], make: Any = threading.Thread) -> Any:
    seen: list[Any] = []
    thread = make(target=lambda: seen.append(function()))
    thread.start()
    thread.join(20)
    return seen[0]


class OwnRun(threading.Thread):
    def __init__(self, target: Callable[[], None]) -> None:
        super().__init__()
        self._function = target

    def run(self) -> None:
        self._function()


def timer(target: Callable[[], None]) -> threading.Timer:
    return threading.Timer(0.001, target)


def in_pool(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(20)


@pytest.mark.usefixtures("carried")
def test_threads_of_every_kind_carry_the_scope_and_nothing_else() -> None:
    with trace_scope_sync() as scope:
        for make in (threading.Thread, OwnRun, timer):
            assert in_thread(current_session_id, make) == scope.session_id
        assert in_thread(lambda: in_thread(current_session_id)) == scope.session_id
        assert in_pool(current_session_id) == scope.session_id
        with detached():
            assert in_thread(current_session_id) is None
            assert in_pool(current_session_id) is None
    assert in_thread(current_session_id) is None


@pytest.mark.usefixtures("carried")
def test_pool_thread_that_a_request_started_belongs_to_no_request() -> None:
    with ThreadPoolExecutor(1) as pool:
        with trace_scope_sync() as first:
            assert pool.submit(current_session_id).result(20) == first.session_id
        assert pool.submit(current_scope).result(20) is None
        with trace_scope_sync() as second:
            assert pool.submit(current_session_id).result(20) == second.session_id


@pytest.mark.usefixtures("carried")
def test_thread_pool_of_multiprocessing_carries_the_scope_of_each_task() -> None:
    with trace_scope_sync() as first:
        pool = ThreadPool(1)
    with pool:
        assert pool.apply(current_session_id) is None
        with trace_scope_sync() as second:
            seen = {
                pool.apply(current_session_id),
                pool.apply_async(func=current_session_id).get(20),
                *pool.map(lambda _: current_session_id(), range(3)),
                *pool.starmap(lambda *_: current_session_id(), [(1, 2)]),
                *pool.imap(lambda _: current_session_id(), range(3)),
                *pool.imap_unordered(lambda _: current_session_id(), range(3), 2),
            }
    assert seen == {second.session_id} != {first.session_id}


@pytest.mark.usefixtures("carried")
def test_thread_that_cannot_start_or_has_a_run_attribute_is_left_as_it_was() -> None:
    thread = threading.Thread(target=lambda: None)
    seen: list[Any] = []

    def run() -> None:
        seen.append(current_session_id())

    thread.run = run  # type: ignore[method-assign]  # as tests and Sentry do
    with trace_scope_sync() as scope:
        thread.start()
        thread.join(20)
        assert seen == [scope.session_id]
        assert thread.run is run
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
        assert thread.run is run


def test_carry_threads_false_undoes_it_and_adapters_do_not_bring_it_back() -> None:
    before = threading.Thread.start, threading.Timer.start, ThreadPoolExecutor.submit
    carry_threads()
    carry_threads()
    carry_threads(False)
    carry_threads_by_default()
    assert (threading.Thread.start, threading.Timer.start, ThreadPoolExecutor.submit) == before
    with trace_scope_sync():
        assert in_thread(current_session_id) is None
        assert in_pool(current_session_id) is None


ORDERS = """
import json, os, sys, threading, traceback
from concurrent.futures import ThreadPoolExecutor
import opentelemetry.context as otel, sentry_sdk
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from sentry_sdk.integrations.threading import ThreadingIntegration
from noukai_sdk import carry_threads, current_session_id, trace_scope_sync

def sentry():
    sentry_sdk.init(integrations=[ThreadingIntegration()], default_integrations=False)

def seen():
    return current_session_id(), otel.get_value("key"), sentry_sdk.get_isolation_scope()._tags.get("tag")

def look():
    found = []
    for make in (threading.Thread, lambda target: threading.Timer(0.001, target)):
        thread = make(target=lambda: found.append(seen()))
        thread.start()
        thread.join(20)
    with ThreadPoolExecutor(1) as pool:
        found.append(pool.submit(seen).result(20))
    return found

steps = {
    "ours": carry_threads,
    "otel": ThreadingInstrumentor().instrument,
    "sentry": sentry,
    "not ours": lambda: carry_threads(False),
    "not otel": ThreadingInstrumentor().uninstrument,
}
def check(order):
    on = set()
    for name in order:
        steps[name]()
        on = on - {name.removeprefix("not ")} if name.startswith("not ") else on | {name}
        otel.attach(otel.set_value("key", "span"))
        with sentry_sdk.isolation_scope() as isolation, trace_scope_sync() as scope:
            isolation.set_tag("tag", "set")
            thread, timer, pool = look()
            expected = scope.session_id if "ours" in on else None
            assert {thread[0], timer[0], pool[0]} == {expected}, name
            # Sentry and OpenTelemetry lose each other's context, with or without our patch.
            for _, span, tag in (thread, timer, pool):
                assert span == "span" or "otel" not in on or "sentry" in on, (name, span)
                assert tag == "set" or "sentry" not in on or "otel" in order, (name, tag)

failed = False
for order in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        try:
            check(order)
        except BaseException:
            print(order, file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    failed |= os.waitpid(child, 0)[1] != 0
sys.exit(failed)
"""


def test_patches_of_sentry_and_opentelemetry_work_beside_ours_in_any_order() -> None:
    pytest.importorskip("sentry_sdk")
    pytest.importorskip("opentelemetry.instrumentation.threading")
    with_both = itertools.permutations(["ours", "otel", "sentry"])
    orders = [[*installs, "not ours", "not otel", "ours", "otel"] for installs in with_both]
    orders += [
        ["ours", "sentry", "not ours", "ours"],
        ["sentry", "ours", "not ours", "ours"],
        ["ours", "otel", "not ours", "not otel", "otel", "ours"],
        ["ours", "otel", "not otel", "not ours", "otel", "ours"],
        ["otel", "ours", "not otel", "not ours", "ours"],
        ["otel", "ours", "not ours", "not otel", "ours", "otel"],
    ]
    # Each in a process of its own, which is forked when all is imported.
    command = [sys.executable, "-c", ORDERS, json.dumps(orders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# The end of a scope


def test_call_after_the_end_of_a_capture_gets_its_own_session(service: SessionService) -> None:
    side = SyncSide(service)
    with trace_scope_sync() as scope:
        outlived = SteppedCalls(side)
        outlived.ask("inside")
    outlived.ask("late")
    outlived.ask("later")
    (_, first), (_, second), (_, third) = service.calls
    assert first == scope.session_id
    assert len({first, second, third}) == 3
    assert None not in (second, third)
    traced = outlived.trace("traced")
    sessions = {session for message, session in service.calls if message == "traced"}
    assert sessions == {traced}
    assert traced not in (first, second, third)


class SteppedCalls:
    """Calls in the context that it was made in, which outlives its scope."""

    def __init__(self, side: SyncSide) -> None:
        from contextvars import copy_context

        self._run = copy_context().run
        self._flow = side.flow()

    def ask(self, message: str) -> Any:
        return self._run(lambda: self._flow.execute(message=message).result)

    def trace(self, message: str) -> str | None:
        @trace
        def twice() -> str | None:
            for _ in range(2):
                self._flow.execute(message=message)
            return current_session_id()

        return self._run(twice)


@pytest.mark.usefixtures("replay_enabled")
def test_nested_scope_without_arguments_joins_the_replay(service: SessionService) -> None:
    side = SyncSide(service)
    session_id = service.record(execution(0), execution(1))
    with trace_scope_sync(client=side.client, replay_session_id=session_id) as scope:
        assert side.flow().execute(message="m0").result == "answer to m0"
        with trace_scope_sync() as nested:
            assert nested is scope
            assert side.flow().execute(message="m1").result == "answer to m1"
    assert scope.report.summary() == "hits=2; misses=0; drift=0; leftovers=0"
    assert service.calls == []


@pytest.mark.usefixtures("replay_enabled")
def test_call_after_the_end_of_a_replay_names_the_way_out(service: SessionService) -> None:
    side = SyncSide(service)
    session_id = service.record(execution(0))
    with trace_scope_sync(client=side.client, replay_session_id=session_id):
        outlived = SteppedCalls(side)
        outlived.ask("m0")
    for late in (outlived.ask, outlived.trace):
        with pytest.raises(ReplayMissError, match=r"noukai_sdk\.detached\(\)"):
            late("late")
    with trace_scope_sync(client=side.client, replay_session_id=session_id):
        assert side.flow().execute(message="m0").result == "answer to m0"
        with detached():
            outlived = SteppedCalls(side)
    assert outlived.ask("long-lived") == "long-lived 1"
    assert service.calls == [("long-lived", None)]


async def decorated() -> str | None:
    return current_session_id()


@pytest.mark.anyio
async def test_detached_works_as_block_and_as_decorator() -> None:
    with trace_scope_sync() as scope:
        async with detached():
            assert current_scope() is None
        assert await detached()(decorated)() is None
        assert current_session_id() == scope.session_id
