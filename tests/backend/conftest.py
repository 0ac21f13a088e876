"""A real backend for the tests of this folder, with flows and models that can be held and broken."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from sqlalchemy import URL

from noukai_sdk.backend.app import create_app
from noukai_sdk.backend.settings import Settings
from noukai_sdk.local.llm.chat import ChatDelta, ChatModel, ChatRequest, collect
from noukai_sdk.local.llm.errors import LlmConnectionError
from noukai_sdk.local.llm.providers import open_model
from tests.support.postgres import postgres
from tests.support.servers import serve_app

KEYS = {"nk_dev": None, "nk_other": "otherorg"}

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
    """Models by name. ``gate`` says one word and waits until it is opened."""

    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    failures: int = 0

    def open_model(self, spec: str) -> ChatModel:
        """The fake of this name, else the real one."""
        answers = {"gate": self.gate, "broken": self.broken, "shaky": self.shaky, "echo": self.echo}
        return Fake(spec, answers[spec]) if spec in answers else open_model(spec)

    async def gate(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Waits in the middle of its answer."""
        try:
            yield ChatDelta(text="waiting ")
            self.reached.set()
            while not self.opened.is_set():
                await anyio.sleep(0.005)
            yield ChatDelta(text="done")
        finally:
            self.left.set()

    async def broken(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Fails in the middle of its answer."""
        yield ChatDelta(text="half an ")
        raise LlmConnectionError("the provider hung up")

    async def shaky(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Fails as often as it was told to."""
        if self.failures:
            self.failures -= 1
            raise LlmConnectionError("not this time")
        yield ChatDelta(text="at last")

    async def echo(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Says what it was asked, three characters at a time."""
        text = str(request.messages[-1]["content"])
        for start in range(0, len(text), 3):
            yield ChatDelta(text=text[start : start + 3])


@dataclass
class Fake:
    """A model made of one generator function."""

    name: str
    answers: Callable[[ChatRequest], AsyncGenerator[ChatDelta, None]]

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        return self.answers(request)

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

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """POST to a path of acme, such as ``tests/three/execute``."""
        return self.client.post(f"/seq/acme/{path}", json=body, headers=headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """GET of a path under the base URL."""
        return self.client.get(path, headers=headers)

    def session(self, session_id: str) -> list[dict[str, Any]]:
        """The executions of a session."""
        response = self.get(f"/seq/sessions/{session_id}")
        assert response.status_code == 200, response.text
        executions: list[dict[str, Any]] = response.json()["executions"]
        return executions

    def stats(self) -> dict[str, int]:
        """The counters."""
        found: dict[str, int] = httpx.get(f"{self.url}/dev/stats").json()
        return found


def write_flows(folder: Path) -> Path:
    """The flow files of the tests."""
    for name, text in FLOWS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@contextmanager
def serving(
    folder: Path, *, write: bool = True, database: str | None = None, **settings: Any
) -> Iterator[Backend]:
    """A backend whose flows are in ``folder``; ``write``: put them there first.

    So is its database, where none is named.
    """
    fakes = Fakes()
    flows = write_flows(folder / "flows") if write else folder / "flows"
    chosen = Settings(database or folder / "noukai.db", flows=(flows,), keys=KEYS, **settings)
    app = create_app(chosen, open_model=fakes.open_model)
    with ExitStack() as stack:
        url = stack.enter_context(serve_app(app))
        client = stack.enter_context(
            httpx.Client(
                base_url=f"{url}/api/v1", headers={"Authorization": "Bearer nk_dev"}, timeout=30
            )
        )
        yield Backend(url, client, app, fakes, chosen)


Serve = Callable[..., AbstractContextManager[Backend]]


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], URL]]:
    """Makes databases in a Postgres that is started for the first who asks."""
    with postgres() as new:
        yield new


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/noukai.db"
    url: URL = request.getfixturevalue("new_database")()
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One backend for a whole module: tests choose session ids of their own."""
    with serving(tmp_path_factory.mktemp("backend")) as started:
        yield started


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Backend]:
    """A backend for one test alone, for those that hold its models or count."""
    with serving(tmp_path) as started:
        yield started
