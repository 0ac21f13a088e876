"""FastAPI and Flask apps whose routes make their calls elsewhere: in threads, pools and late tasks."""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import flask
from fastapi import BackgroundTasks, FastAPI

from noukai_sdk import AsyncNoukai, Noukai, copy_scope, detached, trace_scope, trace_scope_sync
from noukai_sdk.adapters.fastapi import instrument
from noukai_sdk.adapters.flask import init_noukai_trace

ROUTES = ["thread", "nested-thread", "timer", "shared-pool", "own-pool", "map", "nested-scope"]
ASYNC_ROUTES = [*ROUTES, "executor", "async-nested-scope", "background"]


def ask(noukai: Noukai, message: str) -> Any:
    return noukai.flow("grade-3").execute(message=message).result


def in_thread(function: Callable[[], Any], make: Any = threading.Thread) -> Any:
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001  # raised in the route
            outcome.set_exception(error)

    make(target=run).start()
    return outcome.result(20)


def timer(target: Callable[[], None]) -> threading.Timer:
    return threading.Timer(0.01, target)


class QueueWorker:
    """A worker thread that the first job starts."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        self._started = False

    def run(self, job: Callable[[], Any], *, apart: bool) -> Any:
        if not self._started:
            self._started = True
            thread = threading.Thread(target=self._work, daemon=True)
            if apart:
                with detached():
                    thread.start()
            else:
                thread.start()
        outcome: Future[Any] = Future()
        self._jobs.put((job, outcome))
        return outcome.result(20)

    def _work(self) -> None:
        while True:
            job, outcome = self._jobs.get()
            try:
                outcome.set_result(job())
            except Exception as error:  # noqa: BLE001  # raised in the route
                outcome.set_exception(error)


class Routes:
    """What the routes of both apps do."""

    def __init__(self) -> None:
        self.noukai = Noukai(org="acme", project="spelling")
        self.pool = ThreadPoolExecutor(2)
        self.worker = QueueWorker()
        self.detached_worker = QueueWorker()
        self.late = threading.Event()
        self.replaying = False
        self.tasks: list[asyncio.Task[None]] = []
        self.late_outcome: Future[Any] = Future()

    def serve(self, name: str) -> Any:
        def call() -> Any:
            return ask(self.noukai, name)

        if name == "thread":
            return in_thread(call)
        if name == "nested-thread":
            return in_thread(lambda: in_thread(call))
        if name == "timer":
            return in_thread(call, timer)
        if name == "shared-pool":
            return self.pool.submit(call).result(20)
        if name == "own-pool":
            with ThreadPoolExecutor(2) as pool:
                return pool.submit(call).result(20)
        if name == "map":
            with ThreadPoolExecutor(1) as pool:
                return list(pool.map(lambda n: ask(self.noukai, f"map {n}"), range(4)))
        if name == "nested-scope":
            with trace_scope_sync():
                return call()
        if name == "worker":
            return self.worker.run(call, apart=False)
        if name == "detached-worker":
            return self.detached_worker.run(copy_scope(call), apart=True)
        if name == "late":
            self.late_outcome = Future()
            threading.Thread(target=self._call_late).start()
            return call()
        return call()

    def _call_late(self) -> None:
        self.late.wait(20)
        self.late.clear()
        try:
            self.late_outcome.set_result(ask(self.noukai, "late"))
        except Exception as error:  # noqa: BLE001  # the test looks at it
            self.late_outcome.set_exception(error)


def fastapi_app() -> tuple[FastAPI, Routes]:
    routes = Routes()
    noukai = AsyncNoukai(org="acme", project="spelling")
    app = instrument(FastAPI(), client=noukai)

    @app.get("/executor")
    async def executor() -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, ask, routes.noukai, "executor")

    @app.get("/async-nested-scope")
    async def async_nested_scope() -> Any:
        async with trace_scope():
            return (await noukai.flow("grade-3").execute(message="nested")).result

    @app.get("/not-awaited")
    async def not_awaited() -> Any:
        flow = noukai.flow("grade-1")

        async def call(pause: float) -> None:
            await asyncio.sleep(pause)
            await flow.execute(message=f"not awaited {pause}")

        routes.tasks = [asyncio.create_task(call(pause)) for pause in (0, 0.02)]
        result = (await noukai.flow("grade-3").execute(message="awaited")).result
        if not routes.replaying:
            await asyncio.wait(routes.tasks)  # a live call takes longer than the pause
        return result

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> Any:
        tasks.add_task(in_thread, lambda: ask(routes.noukai, "background"))
        return (await noukai.flow("grade-3").execute(message="foreground")).result

    @app.get("/{name}")
    def route(name: str) -> Any:
        return routes.serve(name)

    return app, routes


def flask_app() -> tuple[flask.Flask, Routes]:
    routes = Routes()
    app = flask.Flask(__name__)
    init_noukai_trace(app, client=routes.noukai)

    @app.get("/<name>")
    def route(name: str) -> Any:
        return flask.jsonify(routes.serve(name))

    return app, routes
