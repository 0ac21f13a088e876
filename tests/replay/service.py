"""A service that knows recorded sessions, behind both clients, and the sessions themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx

from noukai_sdk import AsyncNoukai, Noukai, trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope

START = datetime(2026, 5, 31, 12, 0, tzinfo=timezone.utc)
FLOW = "acme/spelling/grade-3"


def iso(seconds: float) -> str:
    """A time on the recording's clock."""
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def step(step_id: str = "grade", output: Any = None, **fields: Any) -> dict[str, Any]:
    """One attempt of one step, as the hosted service shows it."""
    return {"stepId": step_id, "status": "completed", "outputSnapshot": output, **fields}


def execution(
    number: int = 0,
    message: str | None = None,
    *,
    began: float | None = None,
    took: float = 0.5,
    **fields: Any,
) -> dict[str, Any]:
    """One call, as the hosted service shows it; calls follow each other a second apart.

    Its result is ``"answer to <message>"``.
    """
    began = float(number) if began is None else began
    message = f"m{number}" if message is None else message
    return {
        "executionId": f"exec-{number}",
        "flowId": "flow-1",
        "slug": "grade-3",
        "triggerType": "execute",
        "status": "completed",
        "startedAt": iso(began),
        "completedAt": iso(began + took),
        "traceCaptureMode": "full",
        "snapshotsAvailable": True,
        "errorAtStep": None,
        "steps": [step(output=f"answer to {message}", inputSnapshot={"message": message})],
        **fields,
    }


def together(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Calls that were under way at the same time."""
    return [execution(n, began=n / 1000, took=10, **fields) for n in range(count)]


class Service:
    """What the clients talk to: recorded sessions by id, and a list of every other request.

    A session may be a function that gives the answer, or raises.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Any] = {}
        self.fetches: list[str] = []
        self.live: list[httpx.Request] = []

    def record(self, *executions: dict[str, Any], session_id: str = "s-1") -> str:
        """Keep a session; gives its id."""
        self.sessions[session_id] = {"sessionId": session_id, "executions": list(executions)}
        return session_id

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "/seq/sessions/" not in path:
            self.live.append(request)
            return httpx.Response(200, json={"status": "completed", "result": "live"})
        session_id = path.rpartition("/")[2]
        self.fetches.append(session_id)
        found = self.sessions.get(session_id, lambda: httpx.Response(404, json={"detail": "?"}))
        return found() if callable(found) else httpx.Response(200, json=found)


class SyncSide:
    """The sync client, called as the async one is, so that one test holds both."""

    is_async = False

    def __init__(self, service: Service) -> None:
        http = httpx.Client(transport=httpx.MockTransport(service.answer))
        self.client: Any = Noukai(api_key="nk_test", max_retries=0, http_client=http)

    def flow(self, slug: str = FLOW) -> Any:
        return self.client.flow(slug)

    def scope(self, session_id: str | None = "s-1", **options: Any) -> Any:
        return _from_sync(
            trace_scope_sync(replay_session_id=session_id, client=self.client, **options)
        )

    async def execute(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return self.flow(slug).execute(message=message, **options)

    async def events(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return list(self.flow(slug).events(message=message, **options))

    async def steps(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return list(self.flow(slug).steps(message=message, **options))

    async def submit(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return self.flow(slug).execute_async(message=message, **options)

    async def resume(self, paused: Any, tool_results: Sequence[Any]) -> Any:
        return paused.resume_sync(tool_results=tool_results)


class AsyncSide:
    """The async client."""

    is_async = True

    def __init__(self, service: Service) -> None:
        http = httpx.AsyncClient(transport=httpx.MockTransport(service.answer))
        self.client: Any = AsyncNoukai(api_key="nk_test", max_retries=0, http_client=http)

    def flow(self, slug: str = FLOW) -> Any:
        return self.client.flow(slug)

    def scope(
        self, session_id: str | None = "s-1", **options: Any
    ) -> AbstractAsyncContextManager[Scope]:
        return trace_scope(replay_session_id=session_id, client=self.client, **options)

    async def execute(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return await self.flow(slug).execute(message=message, **options)

    async def events(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return [event async for event in self.flow(slug).events(message=message, **options)]

    async def steps(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return [event async for event in self.flow(slug).steps(message=message, **options)]

    async def submit(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return await self.flow(slug).execute_async(message=message, **options)

    async def resume(self, paused: Any, tool_results: Sequence[Any]) -> Any:
        return await paused.resume(tool_results=tool_results)


Side = SyncSide | AsyncSide


@asynccontextmanager
async def _from_sync(block: AbstractContextManager[Scope]) -> AsyncIterator[Scope]:
    with block as scope:
        yield scope


def weather_call(number: int, city: str) -> dict[str, Any]:
    """A tool call in OpenAI's form."""
    function = {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}
    return {"id": f"call_{number}", "type": "function", "function": function}


def answered(number: int, content: str) -> dict[str, Any]:
    """A tool's result in the wire's form."""
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


def paused(number: int, *calls: dict[str, Any]) -> dict[str, Any]:
    """The pause of round ``number``, as ``execute`` answers it."""
    return {
        "status": "tool_calls_required",
        "executionId": "exec-0",
        "pausedAtStep": "forecast",
        "iterationsUsed": number,
        "toolCallMessages": [{"role": "user", "content": "weather?"}],
        "toolCalls": list(calls),
        "accumulatedOutputs": {},
        "flowId": "flow-1",
        "blockCount": 1,
    }


def weather() -> dict[str, Any]:
    """A call with two tool rounds, with the additions of our own backend."""
    rounds = [
        {
            "paused": paused(1, weather_call(1, "Paris")),
            "toolResults": [answered(1, "sunny")],
        },
        {
            "paused": paused(2, weather_call(2, "Rome"), weather_call(3, "Oslo")),
            "toolResults": [answered(2, "hot"), answered(3, "snow")],
        },
    ]
    request = {"message": "weather?", "tools": TOOLS}
    return execution(
        message="weather?",
        call={"org": "acme", "project": "spelling", "slug": "grade-3", "request": request},
        result="sunny, hot, snow",
        error=None,
        toolRounds=rounds,
    )


def weather_stream() -> dict[str, Any]:
    """The same call as a stream."""

    def pause(number: int, *calls: dict[str, Any]) -> dict[str, Any]:
        fields = paused(number, *calls)
        del fields["status"]
        step_id = fields.pop("pausedAtStep")
        kind = "step_paused_for_tool_calls"
        return {"eventType": kind, "stepId": step_id, "stepIndex": 0, **fields}

    started = {"eventType": "step_started", "stepId": "forecast", "stepIndex": 0}
    finished = {
        "eventType": "step_completed",
        "stepId": "forecast",
        "output": "sunny, hot, snow",
        "stepIndex": 0,
    }
    events = [
        {"eventType": "run_started", "executionId": "exec-0", "stepCount": 1},
        started,
        pause(1, weather_call(1, "Paris")),
        started,
        pause(2, weather_call(2, "Rome"), weather_call(3, "Oslo")),
        started,
        finished,
        {"eventType": "flow_completed", "result": "sunny, hot, snow"},
    ]
    return {**weather(), "triggerType": "step", "events": events}
