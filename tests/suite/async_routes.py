"""What async routes do, whatever the framework. Each makes the call ``last`` once."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from noukai_sdk import FlowExecutionError, copy_scope, detached, recorded, trace_scope
from noukai_sdk import now as time_now
from noukai_sdk import random as random_number
from noukai_sdk import uuid4 as random_id

from . import sync_routes
from .calls import SHAKY, AsyncRoute, Calls


async def plain(calls: Calls) -> Any:
    return await calls.aask("last")


async def nothing(calls: Calls) -> Any:
    return None


async def executor(calls: Calls) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, calls.ask, "last")


async def to_thread(calls: Calls) -> Any:
    return await asyncio.to_thread(calls.ask, "last")


async def pool(calls: Calls) -> Any:
    return await asyncio.wrap_future(sync_routes.POOL.submit(calls.ask, "last"))


async def thread(calls: Calls) -> Any:
    return await asyncio.to_thread(sync_routes.thread, calls)


async def nested_scope(calls: Calls) -> Any:
    async with trace_scope():
        return await calls.aask("last")


async def hedge(calls: Calls) -> Any:
    tasks = [asyncio.create_task(calls.aask(message)) for message in ("slow@0.4", "last@0.1")]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    return [task.result() for task in done]


async def completed(calls: Calls) -> Any:
    messages = ["a@0.2", "b@0.1", "last@0.3", "d@0.02"]
    return [await call for call in asyncio.as_completed([calls.aask(text) for text in messages])]


async def close_together(calls: Calls) -> Any:
    """Tasks whose calls complete within a millisecond of each other."""
    order: list[Any] = []

    async def work(name: str) -> None:
        for number in range(3):
            order.append(await calls.aask(f"{name}{number}"))  # noqa: PERF401 - as it comes

    await asyncio.gather(*map(work, "abc"))
    return [*order, await calls.aask("last")]


async def same_inputs(calls: Calls) -> Any:
    messages = ["same@0.02", "same@0.02", "last", "same@0.02"]
    return await asyncio.gather(*(calls.aask(message) for message in messages))


class EnoughError(Exception):
    """Ends a TaskGroup."""


async def task_group(calls: Calls) -> Any:
    """The task that completes first cancels its siblings."""
    results = []

    async def race(message: str) -> None:
        results.append(await calls.aask(message))
        raise EnoughError

    try:
        async with asyncio.TaskGroup() as group:
            for message in ("a@0.4", "last@0.1", "c@0.4"):
                group.create_task(race(message))
    except Exception as errors:  # Python 3.10 has no ExceptionGroup to name here
        if any(not isinstance(error, EnoughError) for error in getattr(errors, "exceptions", [0])):
            raise
    return results


async def retry(calls: Calls) -> Any:
    attempts = []
    for _ in range(3):
        try:
            return [*attempts, await calls.aask("try", SHAKY), await calls.aask("last")]
        except FlowExecutionError as error:  # noqa: PERF203 - as apps do it
            attempts.append(str(error.message))
    return attempts


async def timeout(calls: Calls) -> Any:
    """The program's own timer ends a call."""
    try:
        await asyncio.wait_for(calls.aask("slow@0.8"), 0.1)
    except asyncio.TimeoutError:
        return ["given up", await calls.aask("last")]
    return ["in time", await calls.aask("last")]


async def unfinished(calls: Calls) -> Any:
    events = calls.aevents("story")
    first = await anext(events)
    return [first.type, await calls.aask("last")]


async def tools(calls: Calls) -> Any:
    return await calls.aweather()


LATE: set[asyncio.Task[Any]] = set()


async def late(calls: Calls) -> Any:
    """A task that outlives the request makes a call."""

    async def call() -> None:
        await asyncio.sleep(0.6)
        await calls.aask("late")

    _keep(call())
    return await calls.aask("last")


async def not_awaited(calls: Calls) -> Any:
    """A task makes its call during the request, which does not wait for it."""
    _keep(calls.aask("not awaited@0.05"))
    return await calls.aask("last@0.01")


def _keep(call: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(call)
    LATE.add(task)
    task.add_done_callback(LATE.discard)


async def worker(calls: Calls) -> Any:
    """A worker that the first request starts, detached; each job brings its scope."""
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @copy_scope
    async def job() -> None:
        try:
            outcome.set_result(await calls.aask("last"))
        except Exception as error:  # noqa: BLE001  # raised in the route
            outcome.set_exception(error)

    if not _workers:
        with detached():
            _workers.append(asyncio.create_task(_work()))
    await _jobs.put(job)
    return await outcome


_workers: list[asyncio.Task[None]] = []
_jobs: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()


async def _work() -> None:
    while True:
        await (await _jobs.get())()


@recorded
async def rate(user: str, delay: float) -> str:
    """Stands for an HTTP call: each call returns something else."""
    await asyncio.sleep(delay)
    return f"{user}: {uuid.uuid4()}"


async def recorded_values(calls: Calls) -> Any:
    """Recorded functions and flow calls race each other."""
    slow, fast = asyncio.create_task(calls.aask("slow@0.4")), asyncio.create_task(rate("a", 0.02))
    done, _ = await asyncio.wait([slow, fast], return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    race = [calls.aask("b@0.1"), rate("c", 0.2), rate("d", 0.03)]
    order = [await each for each in asyncio.as_completed(race)]
    try:
        await asyncio.wait_for(rate("e", 30.0), 0.05)
    except asyncio.TimeoutError:
        order.append("timeout")
    ids = [time_now().isoformat(), str(random_id()), random_number()]
    return [done.pop().result(), *order, *ids, await calls.aask("last")]


ROUTES: dict[str, AsyncRoute] = {
    function.__name__.replace("_", "-"): function
    for function in (
        plain,
        nothing,
        executor,
        to_thread,
        pool,
        thread,
        nested_scope,
        hedge,
        completed,
        close_together,
        same_inputs,
        *([task_group] if sys.version_info >= (3, 11) else []),
        retry,
        timeout,
        unfinished,
        tools,
        late,
        not_awaited,
        worker,
        recorded_values,
    )
}
