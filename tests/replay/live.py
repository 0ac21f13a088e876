"""Both clients in front of a real backend, and what tests of recording do with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from noukai_sdk import AsyncNoukai, JobStatus, Noukai, NoukaiError, trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope
from noukai_sdk.transport.live_calls import live_calls_refused
from tests.replay.service import AsyncSide, SyncSide, _from_sync

FLOWS = {
    "acme/tests/broken.yaml": "steps: [{id: good}, {id: bad, function: '_steps.py:fail'}]",
    "acme/tests/echo.yaml": "steps: [{id: echo, function: '_steps.py:echo'}]",
    "acme/tests/_steps.py": (
        "def echo(text):\n"
        "    return {'text': text}\n"
        "def fail():\n"
        "    raise ValueError('no luck today')\n"
    ),
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def write_flows(folder: Path) -> Path:
    """The flows that these tests need, on top of those that the backend brings."""
    for name, text in FLOWS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tool(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A tool that always finds the same weather."""
    return [{"tool_call_id": call["id"], "output": {"degrees": 20}} for call in calls]


class LiveSync(SyncSide):
    """The sync client, called as the async one is."""

    def __init__(self) -> None:
        self.client: Any = Noukai(org="acme", project="tests", timeout=20, max_retries=0)

    def scope(self, session_id: str | None = None, **options: Any) -> Any:
        if session_id is not None:
            options |= {"replay_session_id": session_id, "client": self.client}
        return _from_sync(trace_scope_sync(**options))

    async def wait(self, job: Any, **options: Any) -> JobStatus:
        return job.wait(**options)

    async def poll(self, job: Any) -> JobStatus:
        return job.poll()


class LiveAsync(AsyncSide):
    """The async client."""

    def __init__(self) -> None:
        self.client: Any = AsyncNoukai(org="acme", project="tests", timeout=20, max_retries=0)

    def scope(
        self, session_id: str | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Scope]:
        if session_id is not None:
            options |= {"replay_session_id": session_id, "client": self.client}
        return trace_scope(**options)

    async def wait(self, job: Any, **options: Any) -> JobStatus:
        return await job.wait(**options)

    async def poll(self, job: Any) -> JobStatus:
        return await job.poll()


Live = LiveSync | LiveAsync
Body = Callable[[Any], Awaitable[list[Any]]]


async def outcome(call: Awaitable[Any]) -> Any:
    """What a call came to: its result, or everything that its error says."""
    try:
        return await call
    except NoukaiError as error:
        return facts(error)


def facts(error: NoukaiError) -> tuple[Any, ...]:
    """All that an error says."""
    said = {name: value for name, value in vars(error).items() if name != "report"}
    return type(error), str(error), said


async def recorded(live: Live, path: Path, body: Body, **options: Any) -> list[Any]:
    """What ``body`` saw while it was recorded."""
    async with live.scope(record=path, **options):
        return await body(live)


async def replayed(live: Live, path: Path, body: Body, **options: Any) -> list[Any]:
    """What ``body`` sees when it is replayed, with no drift and no request."""
    with live_calls_refused("this is a replay"):
        async with live.scope(cassette=path, **{"strict_inputs": True, **options}) as scope:
            seen = await body(live)
    assert scope.report.clean, scope.report
    return seen
