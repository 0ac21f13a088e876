"""A model provider that counts, a backend in front of it, and a recorded session of a review."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noukai_sdk import Noukai, trace_scope_sync
from noukai_sdk.transport import background
from tests.support.servers import Server, serve_app, serve_backend

FLOWS = {
    "acme/shop/grade.yaml": (
        "steps:\n"
        "  - {id: check, model: 'openai:base', prompt: 'Check: {{message}}', temperature: 0.7}\n"
        "  - {id: score, model: 'openai:base', prompt: 'Score: {{node.check}}', temperature: 0.7}\n"
        "  - {id: shout, function: '_steps.py:shout'}\n"
    ),
    "acme/shop/reply.yaml": (
        "steps: [{id: answer, model: 'openai:base', prompt: 'Reply: {{message}}'}]"
    ),
    "acme/shop/_steps.py": "def shout(text):\n    return text.upper()\n",
}


class Provider:
    """Answers like OpenAI: the words of the prompt's kind, the model, and the number of the request.

    Attributes:
        requests: The model, the temperature and the prompt of each request.
        holds_from: The request of this index, and later ones, wait for :meth:`release`.
    """

    def __init__(self) -> None:
        self.holds_from = sys.maxsize
        self._released = threading.Event()
        self.requests: list[tuple[str, float | None, str]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def hold(self, count: int = 0) -> None:
        """Answer ``count`` more requests, and let later ones wait for :meth:`release`."""
        self._released.clear()
        self.holds_from = len(self.requests) + count

    def release(self) -> None:
        """Answer all requests."""
        self.holds_from = sys.maxsize
        self._released.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = json.loads(content)
        prompt = body["messages"][-1]["content"]
        with self._lock:
            self.requests.append((body["model"], body.get("temperature"), prompt))
            number = next(self._numbers)
            holds = len(self.requests) > self.holds_from
        while holds and not self._released.is_set():
            await asyncio.sleep(0.01)
        text = f"{prompt.split(':')[0].lower()} by {body['model']} #{number}"
        usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        head = {"id": "c", "created": 1, "model": body["model"]}
        if body.get("stream"):
            chunks = [
                {"choices": [{**choice, "finish_reason": None, "delta": {"content": text}}]},
                {"choices": [{**choice, "delta": {}}]},
                {"choices": [], "usage": usage},
            ]
            events = [{**head, "object": "chat.completion.chunk", **chunk} for chunk in chunks]
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            kind, data = b"text/event-stream", "".join([*lines, "data: [DONE]\n\n"])
        else:
            answer = {**choice, "message": {"role": "assistant", "content": text}}
            whole = {**head, "object": "chat.completion", "choices": [answer], "usage": usage}
            kind, data = b"application/json", json.dumps(whole)
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        )
        await send({"type": "http.response.body", "body": data.encode()})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    provider = Provider()
    with serve_app(provider) as url:
        provider.url = url  # type: ignore[attr-defined]  # for the backend below
        yield provider


@pytest.fixture(scope="module")
def backend(provider: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("backend")
    for name, text in FLOWS.items():
        path = folder / "flows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    env = {"OPENAI_BASE_URL": f"{provider.url}/v1", "OPENAI_API_KEY": "k"}
    with serve_backend(folder, flows=folder / "flows", env=env) as server:
        yield server


@pytest.fixture(autouse=True)
def replay_enabled(
    backend: Server, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_service(backend.api)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
def noukai() -> Iterator[Noukai]:
    with Noukai(org="acme", project="shop") as client:
        yield client


def review(client: Noukai) -> list[Any]:
    """Make the calls of the application: two grades, and a reply to the second one."""
    first = client.flow("grade").execute("a cat").result
    second = client.flow("grade").execute("a dog", parameters={"level": 1}).result
    return [first, second, client.flow("reply").execute(f"on {second}").result]


@pytest.fixture
def recorded(noukai: Noukai) -> tuple[str, list[Any]]:
    """A recorded session, and the answers of its three calls."""
    with trace_scope_sync(client=noukai) as scope:
        answers = review(noukai)
    background.flush()
    assert scope.session_id is not None
    return scope.session_id, answers
