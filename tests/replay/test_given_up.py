"""Calls whose callers stopped waiting: a timeout, a cancelled task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from noukai_sdk import ReplayMissError
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from tests.replay.live import LiveAsync, recorded, replayed
from tests.support.servers import serve_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """On trio httpx leaves generators behind where a call is cancelled, and trio warns of each."""
    return "asyncio"


async def service(scope: Any, receive: Any, send: Any) -> None:
    """Never answers a slow flow, nor the first who resumes one that asks for tools."""
    sent = json.loads((await receive())["body"])
    slug = scope["path"].split("/")[-2]
    if slug == "slow" or [each.get("content") for each in sent.get("toolCallMessages", ())] == [
        "slow"
    ]:
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    answer = {"status": "completed", "result": slug, "executionId": "e"}
    if slug == "tools" and "toolCallMessages" not in sent:
        call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
        answer |= {"status": "tool_calls_required", "pausedAtStep": "s", "toolCalls": [call]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture(scope="module")
def service_url() -> Iterator[str]:
    with serve_app(service, lifespan="off") as url:
        yield url


@pytest.fixture
async def live(
    service_url: str, redirect_dev: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Any:
    redirect_dev(service_url)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    live = LiveAsync()
    yield live
    await live.client.aclose()


SLOW = {
    "execute": lambda live: live.execute(slug="slow"),
    "events": lambda live: live.events("x", slug="slow"),
    "job": lambda live: live.submit(slug="slow"),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_what_was_given_up_is_given_up_again(
    live: LiveAsync, tmp_path: Path, kind: str
) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        with anyio.move_on_after(0.05):
            return [await SLOW[kind](live)]
        return [(await live.execute(slug="quick")).result]

    path = tmp_path / "c.jsonl"
    assert await recorded(live, path, body) == ["quick"]
    slow, quick = read_cassette(path).recordings
    assert (slow.result, slow.abandoned, quick.abandoned) == (None, True, False)
    assert await replayed(live, path, body) == ["quick"]
    assert await replayed(live, path, body, pacing="recorded") == ["quick"]


@pytest.mark.parametrize("kind", SLOW)
async def test_who_waits_for_it_now_is_told(live: LiveAsync, tmp_path: Path, kind: str) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        with anyio.move_on_after(0.05):
            await SLOW[kind](live)
        return []

    await recorded(live, tmp_path / "c.jsonl", body)
    with pytest.raises(ReplayMissError, match=r"gave up after [\d.]+ s when it was recorded"):
        await replayed(live, tmp_path / "c.jsonl", SLOW[kind])


async def test_who_resumes_again_has_given_up_nothing(live: LiveAsync, tmp_path: Path) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        tools = [{"type": "function", "function": {"name": "f"}}]
        paused = await live.execute(slug="tools", tools=tools)
        with anyio.move_on_after(0.05):
            await paused.resume(tool_results=[{"tool_call_id": "c", "output": "slow"}])
        again = await paused.resume(tool_results=[{"tool_call_id": "c", "output": "quick"}])
        return [again.result]

    path = tmp_path / "c.jsonl"
    assert await recorded(live, path, body) == ["tools"]
    (recording,) = read_cassette(path).recordings
    assert not recording.abandoned
    assert recording.output == "tools"


async def test_a_file_that_does_not_say_when(live: LiveAsync, tmp_path: Path) -> None:
    write_cassette(
        tmp_path / "c.jsonl", None, [Recording(slug="slow", kind="execute", abandoned=True)]
    )
    with pytest.raises(ReplayMissError, match="gave up after 0 s"):
        await replayed(live, tmp_path / "c.jsonl", SLOW["execute"])


async def test_the_first_of_two_wins_again(live: LiveAsync, tmp_path: Path) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        calls = [asyncio.ensure_future(live.execute(slug=slug)) for slug in ("slow", "quick")]
        done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.wait(calls)
        return [call.result().result for call in done]

    assert await recorded(live, tmp_path / "c.jsonl", body) == ["quick"]
    assert await replayed(live, tmp_path / "c.jsonl", body) == ["quick"]
