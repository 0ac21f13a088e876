"""Recorded sessions, a service that holds them, and both clients in front of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx

from noukai_sdk import AsyncNoukai, Noukai, NoukaiError, trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope
from noukai_sdk.transport.live_calls import live_calls_refused

START = datetime(2026, 5, 31, 12, 0, tzinfo=timezone.utc)
FLOW = "acme/spelling/grade-3"


def iso(seconds: float) -> str:
    """A time on the recording's clock."""
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def step(step_id: str = "grade", output: Any = None, **fields: Any) -> dict[str, Any]:
    """One attempt of one step, as the hosted service sends it."""
    return {"stepId": step_id, "status": "completed", "outputSnapshot": output, **fields}


def execution(
    number: int = 0,
    message: str | None = None,
    *,
    began: float | None = None,
    took: float = 0.5,
    **fields: Any,
) -> dict[str, Any]:
    """One call, as the hosted service sends it; calls follow each other a second apart.

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


class SessionService:
    """A mock of the service: recorded sessions by id; every other request is echoed and noted.

    A session may be a function that returns the response, or raises.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Any] = {}
        self.fetches: list[str] = []
        self.calls: list[tuple[str, str | None]] = []  # message and session of each live call
        # What was sent about sessions in the background: session id, kind and body.
        self.sent: list[tuple[str, str, Any]] = []

    def record(self, *executions: dict[str, Any], session_id: str = "s-1") -> str:
        """Keep a session; return its id."""
        self.sessions[session_id] = {"sessionId": session_id, "executions": list(executions)}
        return session_id

    def respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "/seq/sessions/" not in path:
            message = json.loads(request.content)["message"]
            self.calls.append((message, request.headers.get("x-session-id")))
            number = len(self.calls)
            result = {"result": f"{message} {number}", "executionId": f"e-{number}"}
            return httpx.Response(200, json={"status": "completed", **result})
        if request.method != "GET":
            *_, about, kind = path.split("/")
            self.sent.append((about, kind, json.loads(request.content)))
            return httpx.Response(200, json={})
        session_id = path.rpartition("/")[2]
        self.fetches.append(session_id)
        session = self.sessions.get(session_id, lambda: httpx.Response(404, json={"detail": "?"}))
        return session() if callable(session) else httpx.Response(200, json=session)

    @property
    def messages(self) -> list[str]:
        return [message for message, _ in self.calls]


class SyncSide:
    """The sync client with the verbs of the async one, so that one test body serves both.

    Args:
        service: The mock that the client talks to; None for the real service of the environment.
        session_id: The session that ``scope()`` replays; None to capture.
    """

    is_async = False

    def __init__(
        self, service: SessionService | None = None, session_id: str | None = None
    ) -> None:
        self.session_id = session_id
        self.client: Any
        if service is None:
            self.client = Noukai(org="acme", project="tests", timeout=20, max_retries=0)
        else:
            http = httpx.Client(transport=httpx.MockTransport(service.respond))
            self.client = Noukai(api_key="nk_test", max_retries=0, http_client=http)

    def flow(self, slug: str = FLOW) -> Any:
        return self.client.flow(slug)

    def scope(self, session_id: str | None = None, **options: Any) -> Any:
        return _as_async(trace_scope_sync(**self._options(session_id, options)))

    def _options(self, session_id: str | None, options: dict[str, Any]) -> Any:
        session_id = session_id or self.session_id
        if session_id is None:
            return options
        return {"replay_session_id": session_id, "client": self.client, **options}

    async def execute(self, message: Any = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return self.flow(slug).execute(message=message, **options)

    async def ask(self, *messages: str, **options: Any) -> list[Any]:
        """The results of calls that are made one after the other."""
        return [(await self.execute(message, **options)).result for message in messages]

    async def events(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return list(self.flow(slug).events(message=message, **options))

    async def steps(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return list(self.flow(slug).steps(message=message, **options))

    async def outputs(self, message: str = "m0", **options: Any) -> list[Any]:
        return [each.output for each in await self.steps(message, **options)]

    async def submit(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return self.flow(slug).execute_async(message=message, **options)

    async def resume(self, paused: Any, tool_results: Sequence[Any]) -> Any:
        return paused.resume_sync(tool_results=tool_results)

    async def next(self, stream: Any) -> Any:
        return next(stream)

    async def close(self, stream: Any) -> None:
        stream.close()

    async def wait(self, job: Any, **options: Any) -> Any:
        return job.wait(**options)

    async def poll(self, job: Any) -> Any:
        return job.poll()


class AsyncSide(SyncSide):
    """The async client."""

    is_async = True

    def __init__(
        self, service: SessionService | None = None, session_id: str | None = None
    ) -> None:
        self.session_id = session_id
        if service is None:
            self.client = AsyncNoukai(org="acme", project="tests", timeout=20, max_retries=0)
        else:
            http = httpx.AsyncClient(transport=httpx.MockTransport(service.respond))
            self.client = AsyncNoukai(api_key="nk_test", max_retries=0, http_client=http)

    def scope(self, session_id: str | None = None, **options: Any) -> Any:
        return trace_scope(**self._options(session_id, options))

    async def execute(self, message: Any = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return await self.flow(slug).execute(message=message, **options)

    async def events(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return [event async for event in self.flow(slug).events(message=message, **options)]

    async def steps(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> list[Any]:
        return [event async for event in self.flow(slug).steps(message=message, **options)]

    async def submit(self, message: str = "m0", *, slug: str = FLOW, **options: Any) -> Any:
        return await self.flow(slug).execute_async(message=message, **options)

    async def resume(self, paused: Any, tool_results: Sequence[Any]) -> Any:
        return await paused.resume(tool_results=tool_results)

    async def next(self, stream: Any) -> Any:
        return await anext(stream)

    async def close(self, stream: Any) -> None:
        await stream.aclose()

    async def wait(self, job: Any, **options: Any) -> Any:
        return await job.wait(**options)

    async def poll(self, job: Any) -> Any:
        return await job.poll()


@asynccontextmanager
async def _as_async(block: AbstractContextManager[Scope]) -> AsyncIterator[Scope]:
    with block as scope:
        yield scope


Body = Callable[[Any], Awaitable[list[Any]]]


async def recorded(side: SyncSide, path: Path, body: Body, **options: Any) -> list[Any]:
    """What ``body`` returned while it was recorded."""
    async with side.scope(record=path, **options):
        return await body(side)


async def replayed(side: SyncSide, path: Path, body: Body, **options: Any) -> list[Any]:
    """What ``body`` returns when it is replayed, with no drift and no request."""
    with live_calls_refused("this is a replay"):
        async with side.scope(cassette=path, **{"strict_inputs": True, **options}) as scope:
            results = await body(side)
    assert scope.report.clean, scope.report
    return results


async def outcome(call: Awaitable[Any]) -> Any:
    """The result of a call, or all attributes of its error."""
    try:
        return await call
    except NoukaiError as error:
        attributes = {name: value for name, value in vars(error).items() if name != "report"}
        return type(error), str(error), attributes


def weather_call(number: int, city: str) -> dict[str, Any]:
    """A tool call in OpenAI's form."""
    function = {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}
    return {"id": f"call_{number}", "type": "function", "function": function}


def tool_result(number: int, content: str) -> dict[str, Any]:
    """A tool's result in the wire's form."""
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


def weather_tool(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A tool handler that finds the same weather everywhere."""
    return [{"tool_call_id": call["id"], "output": {"degrees": 20}} for call in calls]


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def paused(number: int, *calls: dict[str, Any]) -> dict[str, Any]:
    """The pause of round ``number``, as ``execute`` returns it."""
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
            "toolResults": [tool_result(1, "sunny")],
        },
        {
            "paused": paused(2, weather_call(2, "Rome"), weather_call(3, "Oslo")),
            "toolResults": [tool_result(2, "hot"), tool_result(3, "snow")],
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
    completed = {
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
        completed,
        {"eventType": "flow_completed", "result": "sunny, hot, snow"},
    ]
    return {**weather(), "triggerType": "step", "events": events}
