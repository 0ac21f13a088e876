"""Calls whose callers gave up: a timeout, a cancelled task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from noukai_sdk import ReplayMissError
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from tests.support.replays import AsyncSide, recorded, replayed
from tests.support.servers import serve_app

pytestmark = pytest.mark.anyio


async def respond(scope: Any, receive: Any, send: Any) -> None:
    """Never respond to a call of the flow "slow", nor to a tool result "slow"."""
    body = json.loads((await receive())["body"])
    slug = scope["path"].split("/")[-2]
    if slug == "slow" or [each.get("content") for each in body.get("toolCallMessages", ())] == [
        "slow"
    ]:
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    response = {"status": "completed", "result": slug, "executionId": "e"}
    if slug == "tools" and "toolCallMessages" not in body:
        call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
        response |= {"status": "tool_calls_required", "pausedAtStep": "s", "toolCalls": [call]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(response).encode()})


@pytest.fixture(scope="module")
def service_url() -> Iterator[str]:
    with serve_app(respond, lifespan="off") as url:
        yield url


@pytest.fixture
async def side(service_url: str, use_service: Callable[[str], None]) -> Any:
    use_service(service_url)
    side = AsyncSide()
    yield side
    await side.client.aclose()


SLOW: dict[str, Any] = {
    "execute": lambda side: side.execute(slug="slow"),
    "events": lambda side: side.events("x", slug="slow"),
    "job": lambda side: side.submit(slug="slow"),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_abandoned_call_can_be_abandoned_again(
    side: AsyncSide, tmp_path: Path, kind: str
) -> None:
    async def body(side: AsyncSide) -> list[Any]:
        with anyio.move_on_after(0.05):
            return [await SLOW[kind](side)]
        return await side.ask("x", slug="quick")

    path = tmp_path / "c.jsonl"
    assert await recorded(side, path, body) == ["quick"]
    slow, quick = read_cassette(path).recordings
    assert (slow.result, slow.abandoned, quick.abandoned) == (None, True, False)
    assert await replayed(side, path, body) == ["quick"]
    assert await replayed(side, path, body, pacing="recorded") == ["quick"]

    write_cassette(path, "s", [slow])
    with pytest.raises(ReplayMissError, match=r"gave up after [\d.]+ s when it was recorded"):
        await replayed(side, path, SLOW[kind])  # its caller waits now
    write_cassette(path, "s", [replace(slow, completed_at=None)])
    with pytest.raises(ReplayMissError, match="gave up after 0 s"):
        await replayed(side, path, SLOW[kind])


async def test_abandoned_resume_that_is_repeated_is_not_abandoned(
    side: AsyncSide, tmp_path: Path
) -> None:
    async def body(side: AsyncSide) -> list[Any]:
        tools = [{"type": "function", "function": {"name": "f"}}]
        paused = await side.execute(slug="tools", tools=tools)
        with anyio.move_on_after(0.05):
            await paused.resume(tool_results=[{"tool_call_id": "c", "output": "slow"}])
        again = await paused.resume(tool_results=[{"tool_call_id": "c", "output": "quick"}])
        return [again.result]

    path = tmp_path / "c.jsonl"
    assert await recorded(side, path, body) == ["tools"]
    (recording,) = read_cassette(path).recordings
    assert not recording.abandoned
    assert recording.output == "tools"


async def test_first_completed_of_two_calls_wins_again(
    side: AsyncSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(side: AsyncSide) -> list[Any]:
        calls = [asyncio.ensure_future(side.execute(slug=slug)) for slug in ("slow", "quick")]
        done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.wait(calls)
        return [call.result().result for call in done]

    assert await recorded(side, tmp_path / "c.jsonl", body) == ["quick"]
    assert await replayed(side, tmp_path / "c.jsonl", body) == ["quick"]

    # A machine that is so busy that the wait of the abandoned call ends before the other's turn comes.
    for name in ("_AT_LEAST", "_LONGER", "_PASS"):
        monkeypatch.setattr(f"noukai_sdk.replay.serving.{name}", 0.001)
    assert await replayed(side, tmp_path / "c.jsonl", body) == ["quick"]
