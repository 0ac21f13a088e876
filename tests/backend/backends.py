"""A real backend for the tests of this folder, with flows and models that can be held and broken."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx

from noukai_sdk.backend.app import create_app
from noukai_sdk.backend.settings import Settings
from noukai_sdk.local.llm.chat import ChatDelta, ChatModel, ChatRequest, collect
from noukai_sdk.local.llm.errors import LlmConnectionError
from noukai_sdk.local.llm.providers import open_model
from tests.support.servers import serve_app, wait_until

Event = dict[str, Any]

KEYS = {"nk_dev": None, "nk_other": "otherorg"}
MESSAGE = {"message": "The cat sat on the mat."}
WEATHER = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
# The step `ask` of tests/asks and the flow samples/weather call get_weather for this message.
ASKS_WEATHER = {"message": "Paris?", "tools": WEATHER}

FLOWS = {
    "acme/tests/three.yaml": "steps: [{id: one}, {id: two}, {id: three}]",
    "acme/tests/pinned.yaml": "steps: [{id: draft}]",
    "acme/tests/pinned.v2.yaml": "steps: [{id: first}, {id: second}]",
    "acme/tests/gated.yaml": "steps: [{id: before}, {id: held, model: gate}, {id: after}]",
    "acme/tests/broken.yaml": "steps: [{id: good}, {id: bad, model: broken}]",
    "acme/tests/retried.yaml": "steps: [{id: shaky, model: shaky, retry: 2}]",
    "acme/tests/asks.yaml": "steps: [{id: plan}, {id: ask, tools: true}, {id: end}]",
    "acme/tests/picky.yaml": "steps: [{id: only, prompt: 'Use {{parameters.style}}'}]",
    "acme/tests/fan.yaml": """
        steps:
          - parallel:
              - {id: left, model: echo, prompt: "left {{message}}"}
              - {id: right, model: echo, prompt: "right {{message}}"}
          - {id: each, model: echo, for_each: "{{parameters.words}}", prompt: "{{item}}!"}
          - {id: sure, condition: "message == 'never'", needs: [each]}
          - {id: yes_, model: echo, needs: [sure]}
          - {id: no_, model: echo, needs: [not sure], prompt: "{{node.each}}"}
    """,
    "acme/tests/half.yaml": """
        steps:
          - parallel: [{id: held, model: gate}, {id: bad, model: broken}]
    """,
    "acme/tests/redacted.yaml": "{capture: redacted, steps: [{id: echo, model: echo}]}",
    "acme/tests/metadata.yaml": "{capture: metadata_only, steps: [{id: echo, model: echo}]}",
    "acme/tests/nothing.yaml": "{capture: 'off', steps: [{id: echo, model: echo}]}",
    "acme/tests/bad.yaml": "steps: 5",
    "otherorg/things/hello.yaml": "steps: [{id: hello}]",
}


@dataclass
class Fakes:
    """Models by name. ``gate`` sends one word and waits until ``opened`` is set."""

    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    failures: int = 0
    more: dict[str, Callable[[ChatRequest], AsyncGenerator[ChatDelta, None]]] = field(
        default_factory=dict
    )

    def open_model(self, spec: str) -> ChatModel:
        """Return the fake of this name, else the real model."""
        streams = {"gate": self.gate, "broken": self.broken, "shaky": self.shaky, "echo": self.echo}
        streams |= self.more
        return FakeModel(spec, streams[spec]) if spec in streams else open_model(spec)

    async def gate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Wait in the middle of the output."""
        try:
            yield ChatDelta(text="waiting ")
            self.reached.set()
            while not self.opened.is_set():
                await anyio.sleep(0.005)
            yield ChatDelta(text="done")
        finally:
            self.left.set()

    async def broken(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Fail in the middle of the output."""
        yield ChatDelta(text="half an ")
        raise LlmConnectionError("the provider hung up")

    async def shaky(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Fail ``failures`` times."""
        if self.failures:
            self.failures -= 1
            raise LlmConnectionError("not this time")
        yield ChatDelta(text="at last")

    async def echo(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Repeat the message, three characters at a time."""
        text = str(request.messages[-1]["content"])
        for start in range(0, len(text), 3):
            yield ChatDelta(text=text[start : start + 3])


@dataclass
class FakeModel:
    """A model made of one generator function."""

    name: str
    turn: Callable[[ChatRequest], AsyncGenerator[ChatDelta, None]]

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        return self.turn(request)

    async def answer(self, request: ChatRequest) -> ChatDelta:
        return await collect(self.stream(request))

    async def warmup(self) -> None:
        """Nothing to load."""

    async def aclose(self) -> None:
        """Nothing to release."""


@dataclass
class Backend:
    """A running backend and a client for it."""

    url: str
    client: httpx.Client
    app: Any
    fakes: Fakes
    settings: Settings

    @property
    def service(self) -> Any:
        """Its inner parts."""
        return self.app.state.service

    def post(
        self, path: str, body: Any, session: str | None = None, **headers: str
    ) -> httpx.Response:
        """POST to a path of acme, such as ``tests/three/execute``."""
        if session is not None:
            headers["X-Session-Id"] = session
        return self.client.post(f"/seq/acme/{path}", json=body, headers=headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """GET a path under the base URL."""
        return self.client.get(path, headers=headers)

    def step(self, flow: str, body: dict[str, Any], session: str | None = None) -> list[Event]:
        """Return the events of one step call of a flow of acme."""
        response = self.post(f"{flow}/step", body, session)
        assert response.status_code == 200, response.text
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["content-type"].startswith("text/event-stream")
        return parse(response.text)

    def submit(self, flow: str, body: dict[str, Any] = MESSAGE, session: str | None = None) -> str:
        """Submit a job; return its execution id."""
        response = self.post(f"{flow}/jobs", body, session)
        assert response.status_code == 202, response.text
        assert set(response.json()) == {"executionId", "status", "flowId", "blockCount"}
        assert response.json()["status"] == "pending"
        return str(response.json()["executionId"])

    def finished(self, flow: str, job: str) -> dict[str, Any]:
        """Poll a job until it has ended; return the last poll."""

        def poll() -> dict[str, Any] | None:
            body: dict[str, Any] = self.get(f"/seq/acme/{flow}/jobs/{job}").json()
            return body if body["status"] in ("completed", "failed") else None

        return wait_until(poll, what="the job") or {}

    def session(self, session_id: str) -> list[dict[str, Any]]:
        """Return the executions of a session."""
        response = self.get(f"/seq/sessions/{session_id}")
        assert response.status_code == 200, response.text
        executions: list[dict[str, Any]] = response.json()["executions"]
        return executions

    def stats(self) -> dict[str, int]:
        """Return the counters."""
        counters: dict[str, int] = httpx.get(f"{self.url}/dev/stats").json()
        return counters

    def write_flow(self, name: str, text: str) -> None:
        """Write a flow file of acme/tests."""
        (self.settings.flows[0] / f"acme/tests/{name}.yaml").write_text(text)


@contextmanager
def serving(
    folder: Path,
    *,
    write: bool = True,
    database: str | None = None,
    wrap: Callable[[Any], Any] = lambda app: app,
    **settings: Any,
) -> Iterator[Backend]:
    """Serve a backend whose flows are in ``folder``; ``write`` puts the flow files there first.

    Its database is in the folder too, unless ``database`` names one. ``wrap`` returns the app to serve.
    """
    fakes = Fakes()
    flows = folder / "flows"
    for name, text in FLOWS.items() if write else ():
        path = flows / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = {"keys": KEYS, **settings}
    chosen = Settings(database or folder / "noukai.db", flows=(flows,), **settings)
    app = create_app(chosen, open_model=fakes.open_model)
    with ExitStack() as stack:
        url = stack.enter_context(serve_app(wrap(app)))
        client = stack.enter_context(
            httpx.Client(
                base_url=f"{url}/api/v1", headers={"Authorization": "Bearer nk_dev"}, timeout=30
            )
        )
        yield Backend(url, client, app, fakes, chosen)


def code_of(response: httpx.Response) -> tuple[int, str]:
    """Check that an error response has the contract's shape; return its status and code."""
    detail = response.json()["detail"]
    assert {"code", "message"} <= set(detail) <= {"code", "message", "executionId"}
    assert detail["message"]
    assert response.headers["x-request-id"].startswith("req_")
    return response.status_code, detail["code"]


def parse(text: str) -> list[Event]:
    """Return the events of a stream; check that each frame has the form of docs/wire.md."""
    events = []
    for block in text.split("\n\n")[:-1]:
        first, second = block.split("\n")
        data = second.removeprefix("data: ")
        event = json.loads(data)
        assert first == f"event: {event['eventType']}"
        assert data.startswith('{"eventType":')
        events.append(event)
    return events


def types(events: list[Event]) -> list[str]:
    """Return the events' types without the chunks of output."""
    return [e["eventType"] for e in events if e["eventType"] != "step_output"]


def lines(response: httpx.Response) -> Iterator[Event]:
    """Yield the events of an open stream as they arrive."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


def answered(pause: dict[str, Any], content: str = "sunny") -> list[dict[str, Any]]:
    """Return the conversation of a pause, with a result for each of its tool calls."""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": content}
        for call in pause["toolCalls"]
    ]
    return [*pause["toolCallMessages"], *results]


def resume_body(pause: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the call that resumes a pause; a change to None leaves the field out."""
    body = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "iterationsUsed": pause["iterationsUsed"],
        "accumulatedOutputs": pause["accumulatedOutputs"],
        "toolCallMessages": answered(pause),
        "tools": WEATHER,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}
