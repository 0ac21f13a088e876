"""Fake models, tools and small workflows for tests of the local engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import anyio

from noukai_sdk.local.engine.runner import run_flow
from noukai_sdk.local.engine.state import RunState
from noukai_sdk.local.engine.stream import producer_stream
from noukai_sdk.local.llm.chat import ChatDelta, ChatRequest
from noukai_sdk.local.workflow.node import Node
from noukai_sdk.local.workflow.plan import Flow
from noukai_sdk.local.workflow.workflow import Workflow
from noukai_sdk.models.events import StreamEvent, TokenBreakdown

GET_WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


def workflow_of(*nodes: Node, edges: str = "", **settings: Any) -> Workflow:
    """Build a workflow: ``edges="a>b a>c"``, ``a!b`` if a must be false, ``a=x,y>b`` for branches of a."""
    workflow = Workflow("test", **settings)
    for node in nodes:
        workflow.add_node(node)
    for edge in edges.split():
        source, target = edge.replace("!", ">").split(">")
        source, _, branches = source.partition("=")
        workflow.connect(
            source, target, when=branches.split(",") if branches else False if "!" in edge else None
        )
    return workflow


def run_steps(flow: Flow, state: RunState, **settings: Any) -> AsyncGenerator[StreamEvent, None]:
    """Run a flow as services do, and yield its events."""
    return producer_stream(lambda send: run_flow(flow, state, emit=send, **settings))


def last_text(request: ChatRequest) -> str:
    """Return the text of the last turn."""
    content = request.messages[-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def tool_call(name: str = "get_weather", call_id: str = "call_1", arguments: str = "{}") -> Any:
    """Build a tool call as models do."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


class FakeModel:
    """A model that responds with what ``reply`` returns: a text, chunks, a ChatDelta or an error."""

    def __init__(
        self, reply: Callable[[ChatRequest], Any] | None = None, *, name: str = "fake"
    ) -> None:
        self.name = name
        self.requests: list[ChatRequest] = []
        self.stopped = 0
        self.closed = 0
        self._reply = reply or (lambda request: f"<{last_text(request)}>")

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        self.requests.append(request)
        reply = self._reply(request)
        try:
            for piece in [reply] if isinstance(reply, str | ChatDelta | Exception) else reply:
                await anyio.lowlevel.checkpoint()
                if isinstance(piece, Exception):
                    raise piece
                yield ChatDelta(piece) if isinstance(piece, str) else piece
            if not isinstance(reply, ChatDelta):
                tokens = TokenBreakdown(prompt=3, completion=2, total=5)
                yield ChatDelta(usage=tokens, finish_reason="stop")
        finally:
            self.stopped += 1

    async def answer(self, request: ChatRequest) -> ChatDelta:
        pieces = [piece async for piece in self.stream(request)]
        return ChatDelta(
            "".join(piece.text for piece in pieces),
            tuple(call for piece in pieces for call in piece.tool_calls),
            pieces[-1].usage,
        )

    async def warmup(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed += 1


class FakeModels:
    """A pool that returns one model for every spec, and remembers the specs."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.specs: list[Any] = []

    async def get(self, spec: Any) -> FakeModel:
        self.specs.append(spec)
        return self.model
