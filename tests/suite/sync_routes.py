"""What sync routes do, whatever the framework. Each makes the call ``last`` once."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from typing import Any

from noukai_sdk import FlowExecutionError, copy_scope, detached, recorded, trace_scope_sync
from noukai_sdk import uuid4 as random_id

from .calls import SHAKY, Calls, SyncRoute

POOL = ThreadPoolExecutor(16)


def plain(calls: Calls) -> Any:
    return calls.ask("last")


def nothing(calls: Calls) -> Any:
    return None


def shared_pool(calls: Calls) -> Any:
    return POOL.submit(calls.ask, "last").result(30)


def own_pool(calls: Calls) -> Any:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(calls.ask, ["other", "last"]))


def thread(calls: Calls) -> Any:
    return in_thread(lambda: calls.ask("last"))


def nested_scope(calls: Calls) -> Any:
    with trace_scope_sync():
        return calls.ask("last")


def hedge(calls: Calls) -> Any:
    slow, fast = POOL.submit(calls.ask, "slow@0.4"), POOL.submit(calls.ask, "last@0.1")
    done, _ = wait([slow, fast], return_when=FIRST_COMPLETED)
    return [call.result() for call in done]


def completed(calls: Calls) -> Any:
    messages = ["a@0.2", "b@0.1", "last@0.3", "d@0.02"]
    pending = [POOL.submit(calls.ask, message) for message in messages]
    return [call.result() for call in as_completed(pending)]


def same_inputs(calls: Calls) -> Any:
    # Which thread makes its call first is chance, so which gets which answer is, too.
    return sorted(POOL.map(calls.ask, ["same@0.02", "same@0.02", "last", "same@0.02"]), key=str)


def retry(calls: Calls) -> Any:
    attempts = []
    for _ in range(3):
        try:
            return [*attempts, calls.ask("try", SHAKY), calls.ask("last")]
        except FlowExecutionError as error:  # noqa: PERF203 - as apps do it
            attempts.append(str(error.message))
    return attempts


def timeout(calls: Calls) -> Any:
    return [calls.ask_briefly(), calls.ask("last")]


def unfinished(calls: Calls) -> Any:
    events = calls.events("story")
    first = next(events)
    return [first.type, calls.ask("last")]


def tools(calls: Calls) -> Any:
    return calls.weather()


def late(calls: Calls) -> Any:
    """A thread that outlives the request makes a call."""
    LATE.start(lambda: calls.ask("late"))
    return calls.ask("last")


class LateThreads:
    """Threads that make their calls when no request runs any more."""

    def __init__(self) -> None:
        self.under_way = 0
        self._lock = threading.Lock()

    def start(self, call: Callable[[], Any]) -> None:
        with self._lock:
            self.under_way += 1
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            threading.Event().wait(0.6)
            call()
        finally:
            with self._lock:
                self.under_way -= 1


LATE = LateThreads()


def worker(calls: Calls) -> Any:
    """A worker that the first request starts, detached; each job brings its scope."""
    return WORKER.run(copy_scope(lambda: calls.ask("last")))


class Worker:
    """A queue worker that the first job starts."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        self._lock = threading.Lock()
        self._started = False

    def run(self, job: Callable[[], Any]) -> Any:
        with self._lock, detached():
            if not self._started:
                self._started = True
                threading.Thread(target=self._work, daemon=True).start()
        outcome: Future[Any] = Future()
        self._jobs.put((job, outcome))
        return outcome.result(30)

    def _work(self) -> None:
        while True:
            set_outcome(*self._jobs.get())


WORKER = Worker()


def in_thread(job: Callable[[], Any]) -> Any:
    outcome: Future[Any] = Future()
    threading.Thread(target=set_outcome, args=(job, outcome)).start()
    return outcome.result(30)


def set_outcome(job: Callable[[], Any], outcome: Future[Any]) -> None:
    try:
        outcome.set_result(job())
    except BaseException as error:  # noqa: BLE001  # raised in the route
        outcome.set_exception(error)


@recorded
def row(number: int, delay: float) -> str:
    """Stands for a database: each call returns something else."""
    time.sleep(delay)
    return f"{number}: {uuid.uuid4()}"


def recorded_values(calls: Calls) -> Any:
    """Recorded functions in threads, beside flow calls."""
    work = [POOL.submit(row, number, 0.03 * (3 - number)) for number in range(3)]
    work.append(POOL.submit(calls.ask, "other@0.05"))
    order = [each.result() for each in as_completed(work)]
    return [*order, str(random_id()), calls.ask("last")]


ROUTES: dict[str, SyncRoute] = {
    function.__name__.replace("_", "-"): function
    for function in (
        plain,
        nothing,
        shared_pool,
        own_pool,
        thread,
        nested_scope,
        hedge,
        completed,
        same_inputs,
        retry,
        timeout,
        unfinished,
        tools,
        late,
        worker,
        recorded_values,
    )
}
