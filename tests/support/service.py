"""A scripted service, behind a real server: it replies what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread

from tests.support.servers import wait_until

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DONE = {
    "status": "completed",
    "result": {"grade": 3},
    "flowId": "f",
    "blockCount": 2,
    "executionId": "e",
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}
PAUSED = {
    "status": "tool_calls_required",
    "executionId": "e",
    "pausedAtStep": "step-1",
    "iterationsUsed": 1,
    "toolCallMessages": [{"role": "user", "content": "hi"}],
    "toolCalls": [CALL],
    "accumulatedOutputs": {},
    "flowId": "f",
    "blockCount": 1,
}
STARTED = {"eventType": "run_started", "runId": "r", "executionId": "e", "stepCount": 2}
ASKS = {"eventType": "step_paused_for_tool_calls", "stepId": "a", "stepIndex": 0, **PAUSED}
COMPLETED = {"eventType": "flow_completed", "executionId": "e", "result": "end"}
STEP_PAUSED = {"eventType": "step_paused", "executionId": "e"}


def output(text: str) -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": "a", "outputData": text}


def finished(step_id: str, index: int | None = None) -> dict[str, Any]:
    return {
        "eventType": "step_completed",
        "stepId": step_id,
        "output": step_id * 2,
        "stepIndex": index,
    }


@dataclass
class Request:
    """A request as it came in. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    client: Any  # the address that the connection came from

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Reply:
    """A whole response, sent once ``when`` is set."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    when: threading.Event | None = None


@dataclass
class Stream:
    """Events, as a service streams them.

    ``then`` is what follows them: ``"end"``, ``"cut"`` (the connection breaks), or ``"silence"`` until the
    client disconnects or the test is over.
    """

    parts: tuple[Any, ...] = ()
    then: str = "end"
    status: int = 200
    content_type: str = "text/event-stream"


class _Never(threading.Event):
    def is_set(self) -> bool:
        return False


NEVER = _Never()


def stream(*parts: Any, then: str = "end") -> Stream:
    return Stream(parts, then)


def frame(part: Any) -> bytes:
    return part if isinstance(part, bytes) else b"data: " + json.dumps(part).encode() + b"\n\n"


class Service:
    """An ASGI app. Each request gets the next of ``replies``; the last one is repeated.

    A reply may be a function of the request.
    """

    def __init__(self) -> None:
        self.replies: list[Any] = [Reply(DONE)]
        self.requests: list[Request] = []
        self.under_way = 0
        self.most_under_way = 0
        self.disconnects = 0
        self.over = False

    def reply(self, *replies: Any) -> None:
        """Set the replies to the next requests; a plain dict is the body of a whole response."""
        self.replies = [Reply(reply) if isinstance(reply, dict) else reply for reply in replies]

    @property
    def last(self) -> Request:
        return self.requests[-1]

    async def has_requests(self, count: int = 1) -> None:
        """Wait for that many requests; the event loop goes on meanwhile."""
        await _come_true(lambda: len(self.requests) >= count, f"{count} requests")

    async def has_disconnects(self, count: int = 1) -> None:
        """Wait until that many clients have disconnected before the end of their response."""
        await _come_true(lambda: self.disconnects >= count, f"{count} disconnects")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.requests.append(await _request(scope, receive))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if callable(reply):
            reply = reply(self.last)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await (self._stream if isinstance(reply, Stream) else self._whole)(reply, receive, send)
        finally:
            self.under_way -= 1

    async def _whole(self, reply: Reply, receive: Receive, send: Send) -> None:
        if reply.when is not None and not await self._until(reply.when.is_set, receive):
            return
        headers = {"content-type": "application/json", "x-request-id": "req-1", **reply.headers}
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        await send(_start(reply.status, headers))
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, reply: Stream, receive: Receive, send: Send) -> None:
        headers = {"content-type": reply.content_type, "x-request-id": "req-1"}
        await send(_start(reply.status, headers))
        for part in reply.parts:
            await send({"type": "http.response.body", "body": frame(part), "more_body": True})
        if reply.then == "silence":
            await self._until(lambda: self.over, receive)
        elif reply.then == "cut":
            raise ConnectionAbortedError("cut on purpose")
        await send({"type": "http.response.body", "body": b""})

    async def _until(self, condition: Callable[[], bool], receive: Receive) -> bool:
        """Wait; return False if the client disconnects first."""
        gone = anyio.Event()

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            while not (gone.is_set() or condition() or self.over):
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()
        self.disconnects += gone.is_set()
        return not gone.is_set()


async def _come_true(condition: Callable[[], bool], what: str) -> None:
    await anyio.to_thread.run_sync(lambda: wait_until(condition, what=what))


def _start(status: int, headers: dict[str, str]) -> Message:
    raw = [(name.encode(), text.encode()) for name, text in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def _request(scope: Message, receive: Receive) -> Request:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    query = scope["query_string"].decode()
    path = scope["raw_path"].decode() + (f"?{query}" if query else "")
    headers = {name.decode(): text.decode() for name, text in scope["headers"]}
    return Request(scope["method"], path, headers, body, scope["client"])
