"""What a stream can do beside iterating: texts, the final result, ``with``; live and in a replay."""

from __future__ import annotations

import collections.abc
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import (
    AsyncStream,
    FlowExecutionError,
    Stream,
    ToolHandlerRequiredError,
    trace_scope_sync,
)
from tests.support.service import (
    ASKS,
    COMPLETED,
    STARTED,
    STEP_PAUSED,
    Service,
    finished,
    output,
    stream,
)
from tests.support.sides import SYNC, Side

USED = {"durationMs": 5, "tokens": {"prompt": 2, "completion": 1, "total": 3}, "costUsd": "0.01"}
FIRST = stream(STARTED, output("ab"), output("c"), {**finished("a", 0), **USED}, STEP_PAUSED)
SECOND = stream(STARTED, output("d"), {**finished("b", 1), **USED}, COMPLETED)
FAILS = stream(STARTED, output("ab"), {"eventType": "step_error", "stepId": "a", "error": "no"})


async def final(side: Side, events: Any) -> Any:
    return await side.call(events.final_result)


@pytest.mark.parametrize("method", ["steps", "events"])
async def test_final_result_has_output_usage_and_steps(
    side: Side, service: Service, method: str
) -> None:
    service.reply(FIRST, SECOND)
    async with side.flow() as flow:
        events = getattr(flow, method)("hi", session_id="s1")
        assert isinstance(events, AsyncStream if side.is_async else Stream)
        kind = collections.abc.AsyncIterator if side.is_async else collections.abc.Iterator
        assert isinstance(events, kind)
        result = await final(side, events)
        assert await final(side, events) == result
    assert (result.status, result.result, result.output) == ("completed", "end", "end")
    assert (result.execution_id, result.session_id, result.block_count) == ("e", "s1", 2)
    assert result.request_id == "req-1"
    assert (result.tokens.total, result.cost_usd) == (6, "0.02")
    assert [(step.step_id, step.duration_ms) for step in result.steps] == [("a", 5), ("b", 5)]


@pytest.mark.parametrize("method", ["steps", "events"])
async def test_text_stream_yields_chunks_then_final_result(
    every_side: Side, service: Service, method: str
) -> None:
    service.reply(FIRST, SECOND)
    async with every_side.flow() as flow:
        events = getattr(flow, method)("hi")
        assert await every_side.collect(events.text_stream) == ["ab", "c", "d"]
        assert (await final(every_side, events)).result == "end"


async def test_steps_after_a_text_are_steps_again(side: Side, service: Service) -> None:
    service.reply(FIRST, SECOND)
    async with side.flow() as flow:
        events = flow.steps("hi")
        texts = events.text_stream
        assert (await anext(texts) if side.is_async else next(texts)) == "ab"
        assert [step.step_id for step in await side.collect(events)] == ["a", "b"]


async def test_stream_that_fails_or_ends_early_has_no_final_result(
    side: Side, service: Service
) -> None:
    service.reply(FAILS, FAILS, FAILS, FIRST, stream(STARTED, ASKS))
    async with side.flow() as flow:
        with pytest.raises(FlowExecutionError, match="step a failed: no") as caught:
            await final(side, flow.events("hi"))
        assert caught.value.execution_id == "e"
        events = flow.events("hi")
        assert [event.type for event in await side.collect(events)][-1] == "step_error"
        with pytest.raises(FlowExecutionError, match="step a failed: no"):
            await final(side, events)
        texts: list[str] = []
        with pytest.raises(FlowExecutionError, match="step a failed: no"):
            await side.collect(flow.events("hi").text_stream, texts)
        assert texts == ["ab"]
        events = flow.events("hi")
        await side.collect(events, stop=lambda event: True)
        with pytest.raises(FlowExecutionError, match="closed before the run's end") as caught:
            await final(side, events)
        assert caught.value.code == "STREAM_INCOMPLETE"
        with pytest.raises(ToolHandlerRequiredError):
            await final(side, flow.events("hi", tools=[{}]))


async def test_with_block_ends_stream(every_side: Side, service: Service) -> None:
    service.reply(stream(STARTED, output("ab"), then="silence"))
    async with every_side.flow() as flow:
        if every_side.is_async:
            async with flow.events("hi") as events:
                assert (await anext(events)).type == "run_started"
        else:
            with flow.events("hi") as events:
                assert next(events).type == "run_started"
        await service.has_disconnects()
        assert await every_side.collect(events) == []


def test_stream_in_replay_has_texts_and_final_result(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "1")
    other = stream(STARTED, output("other"), {**COMPLETED, "result": 2})
    service.reply(FIRST, SECOND, other)
    with SYNC.make() as client:
        flow = client.flow("grade-3")
        with trace_scope_sync(client=client, record=tmp_path / "c.jsonl"):
            live = flow.events("one").final_result()
            assert flow.events("two").final_result().result == 2
        with trace_scope_sync(client=client, cassette=tmp_path / "c.jsonl"):
            assert flow.steps("one").final_result() == live
            second = flow.events("two")
            assert list(second.text_stream) == ["other"]
            assert second.final_result().session_id == live.session_id
    assert live.tokens is not None
    assert len(service.requests) == 3
