"""The types of ``@trace``, ``copy_scope`` and the adapters, checked by pyright and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from typing_extensions import assert_type

from noukai_sdk import AsyncNoukai, ContextThreadPoolExecutor, Noukai, copy_scope, trace
from noukai_sdk.adapters import asgi, wsgi
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware, instrument
from noukai_sdk.adapters.flask import NoukaiTrace, init_noukai_trace


@trace
def plain(text: str, *, times: int = 1) -> list[str]:
    return [text] * times


@trace()
async def coroutine(text: str) -> dict[str, Any]:
    return {"text": text}


@trace(capture=False)
def steps(count: int) -> Iterator[int]:
    yield from range(count)


@trace
async def async_steps(count: int) -> AsyncIterator[int]:
    yield count


class Grader:
    @trace
    def grade(self, text: str) -> int:
        return len(text)

    @trace
    @classmethod
    def make(cls, name: str) -> Grader:
        return cls()

    @classmethod
    @trace
    def make_below(cls, name: str) -> Grader:
        return cls()

    @trace()
    @staticmethod
    async def check(text: str) -> bool:
        return bool(text)


async def calls() -> None:
    assert_type(plain("a", times=2), list[str])
    assert_type(await coroutine("a"), dict[str, Any])
    assert_type(steps(2), Iterator[int])
    async for step in async_steps(1):
        assert_type(step, int)
    assert_type(Grader().grade("a"), int)
    assert_type(Grader.make("a"), Grader)
    assert_type(Grader.make_below("a"), Grader)
    assert_type(await Grader.check("a"), bool)
    assert_type(copy_scope(plain)("a"), list[str])
    with ContextThreadPoolExecutor() as pool:
        assert_type(pool.submit(plain, "a", times=2), Future[list[str]])

    plain(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain("a", wrong=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Grader().grade()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    trace(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def adapters(sync: Noukai, asynchronous: AsyncNoukai) -> None:
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=asynchronous)
    app.add_middleware(NoukaiTraceMiddleware, client=sync)
    assert_type(instrument(app, client=sync), FastAPI)
    assert_type(instrument(Starlette(), client=asynchronous), Starlette)
    asgi.NoukaiTraceMiddleware(app, client=sync)
    asgi.NoukaiTraceMiddleware(asgi.NoukaiTraceMiddleware(app, client=sync), client=sync)
    flask = Flask(__name__)
    init_noukai_trace(flask, client=asynchronous)
    NoukaiTrace(client=sync).init_app(flask)
    NoukaiTrace(flask, client=sync)
    wsgi.NoukaiTraceMiddleware(flask, client=sync)
