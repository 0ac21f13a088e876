"""``scope.whatif``: the named calls go live with the change, and all others are served."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    Noukai,
    ReplayDisabledError,
    ReplayError,
    ReplayMissError,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.transport import background
from tests.support.servers import Server

from .conftest import Provider, review

pytestmark = pytest.mark.anyio


def test_flow_goes_live_with_model_and_settings_and_others_are_served(
    noukai: Noukai, provider: Provider, recorded: tuple[str, list[Any]], backend: Server
) -> None:
    session_id, answers = recorded
    before = httpx.get(f"{backend.api}/seq/sessions/{session_id}", headers=KEY).json()
    start = len(provider.requests)
    with trace_scope_sync(replay_session_id=session_id, client=noukai) as scope:
        what_if = scope.whatif("reply", model="openai:small", settings={"temperature": 0})
        first, second, reply = review(noukai)
    assert [first, second] == answers[:2]
    assert provider.requests[start:] == [("small", 0, f"Reply: on {answers[1]}")]
    [call] = what_if.calls
    assert call.live.output == reply != answers[2]
    assert call.recorded is not None
    assert call.recorded.output == answers[2]
    for measure in (call.recorded, call.live):
        assert (measure.status, measure.tokens_in, measure.tokens_out) == ("completed", 10, 3)
        assert measure.seconds is not None
    assert (call.recorded.model, call.live.model) == ("openai:base", "openai:small")
    assert scope.report.summary() == "hits=2; misses=0; drift=0; leftovers=0; live=1"

    # The recorded session stays as it is. The fork has the live call, and replays whole.
    background.flush()
    assert httpx.get(f"{backend.api}/seq/sessions/{session_id}", headers=KEY).json() == before
    assert scope.session_id not in (None, session_id)
    fork = httpx.get(f"{backend.api}/seq/sessions/{scope.session_id}", headers=KEY).json()
    assert fork["parent"]["sessionId"] == session_id
    assert len(fork["parent"]["served"]) == 2
    assert len(fork["executions"]) == 1
    with trace_scope_sync(replay_session_id=scope.session_id, client=noukai) as again:
        assert review(noukai) == [first, second, reply]
    assert again.report.clean
    assert len(provider.requests) == start + 1


def test_call_number_with_message_and_parameters(
    noukai: Noukai, provider: Provider, recorded: tuple[str, list[Any]]
) -> None:
    session_id, answers = recorded
    start = len(provider.requests)
    with trace_scope_sync(replay_session_id=session_id, client=noukai) as scope:
        scope.whatif("acme/shop/grade#2", message="a fish", parameters={"level": 3})
        first, second, reply = review(noukai)
    assert (first, reply) == (answers[0], answers[2])
    assert second != answers[1]
    check, score = provider.requests[start:]
    assert check[2] == "Check: a fish"
    assert (check[0], score[0]) == ("base", "base")
    # The reply was asked about another text than when it was recorded: it is served, and told.
    assert [entry.slug for entry in scope.report.drift] == ["reply"]
    assert not scope.report.leftovers


def test_step_runs_alone_with_recorded_outputs_beside_it(
    noukai: Noukai, provider: Provider, recorded: tuple[str, list[Any]]
) -> None:
    session_id, answers = recorded
    start = len(provider.requests)
    with trace_scope_sync(replay_session_id=session_id, client=noukai) as scope:
        what_if = scope.whatif("grade#1/score", settings={"temperature": 0.1})
        assert review(noukai) == answers  # the last step, which is served, makes the result
    [request] = provider.requests[start:]
    assert request[:2] == ("base", 0.1)
    assert request[2].startswith("Score: check by base")
    [call] = what_if
    assert call.steps == ("score",)
    assert call.recorded is not None
    assert call.recorded.output != call.live.output
    assert str(call.live.output).startswith("score by base")
    assert (call.live.tokens_in, call.recorded.tokens_in) == (10, 10)
    background.flush()
    with trace_scope_sync(replay_session_id=scope.session_id, client=noukai) as again:
        assert review(noukai) == answers
    assert again.report.clean


async def test_step_of_a_stream_and_of_a_job(provider: Provider) -> None:
    async with AsyncNoukai(org="acme", project="shop") as client:

        async def work() -> list[Any]:
            outputs = [each.output async for each in client.flow("grade").steps("a cat")]
            job = await client.flow("grade").execute_async("a dog")
            return [*outputs, (await job.wait(timeout=60, poll_interval=0.02)).result]

        async with trace_scope(client=client) as scope:
            answers = await work()
        await asyncio.to_thread(background.flush)
        start = len(provider.requests)
        async with trace_scope(replay_session_id=scope.session_id, client=client) as scope:
            what_if = scope.whatif("grade/score", model="openai:small")
            now = await work()
        assert [model for model, _, _ in provider.requests[start:]] == ["small", "small"]
        assert (now[0], now[2:]) == (answers[0], answers[2:])
        assert now[1] == what_if.calls[0].live.output != answers[1]
        assert [call.kind for call in what_if] == ["step", "job"]
        assert [call.live.status for call in what_if] == ["completed"] * 2


@pytest.mark.filterwarnings("ignore::noukai_sdk.ReplayConcurrencyWarning")
async def test_whatifs_at_once_do_not_mix(
    provider: Provider, recorded: tuple[str, list[Any]]
) -> None:
    session_id, answers = recorded
    start = len(provider.requests)

    def in_thread(model: str) -> None:
        with Noukai(org="acme", project="shop") as client:
            with trace_scope_sync(replay_session_id=session_id, client=client) as scope:
                scope.whatif("reply", model=f"openai:{model}")
                *rest, reply = review(client)
            assert rest == answers[:2]
            assert f"by {model} " in reply

    async def in_task(model: str) -> None:
        async with (
            AsyncNoukai(org="acme", project="shop") as client,
            trace_scope(replay_session_id=session_id, client=client) as scope,
        ):
            scope.whatif("grade", model=f"openai:{model}")
            grade = client.flow("grade")
            both = await asyncio.gather(
                grade.execute("a cat"), grade.execute("a dog", parameters={"level": 1})
            )
            assert all(f"BY {model.upper()} " in each.result for each in both)
            reply = await client.flow("reply").execute(f"on {answers[1]}")
            assert reply.result == answers[2]

    threads = [threading.Thread(target=in_thread, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    await asyncio.gather(in_task("three"), in_task("four"))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    models = sorted(model for model, _, _ in provider.requests[start:])
    assert models == ["four"] * 4 + ["one", "three", "three", "three", "three", "two"]


async def test_served_call_does_not_wait_for_a_live_one_that_it_overlapped(
    provider: Provider,
) -> None:
    async with AsyncNoukai(org="acme", project="shop") as client:
        grade, reply = client.flow("grade"), client.flow("reply")
        async with trace_scope(client=client) as scope:
            _, recorded = await asyncio.gather(grade.execute("a"), reply.execute("b"))
        await asyncio.to_thread(background.flush)
        provider.hold()
        try:
            async with trace_scope(replay_session_id=scope.session_id, client=client) as scope:
                what_if = scope.whatif("grade", model="openai:small")
                live = asyncio.create_task(grade.execute("a"))
                assert (await reply.execute("b")).result == recorded.result
                assert not live.done()
                assert what_if.calls == [] or what_if.calls[0].live.status == "running"
                provider.release()
                assert (await live).result == what_if.calls[0].live.output
        finally:
            provider.release()


def test_later_call_without_recording_goes_live_only_if_asked(
    noukai: Noukai, provider: Provider, recorded: tuple[str, list[Any]]
) -> None:
    session_id, answers = recorded
    with trace_scope_sync(replay_session_id=session_id, client=noukai) as scope:
        scope.whatif("grade#1", model="openai:small")
        review(noukai)
        with pytest.raises(ReplayMissError):
            noukai.flow("reply").execute("one more")
    assert len(scope.report.misses) == 1
    options: Any = {"replay_session_id": session_id, "client": noukai, "on_miss": "live"}
    with trace_scope_sync(**options) as scope:
        what_if = scope.whatif("grade#1", model="openai:small")
        assert review(noukai)[1:] == answers[1:]
        start = len(provider.requests)
        noukai.flow("reply").execute("one more")
    assert provider.requests[start:] == [("base", None, "Reply: one more")]
    assert (len(what_if), len(scope.report.live)) == (1, 2)


def test_idempotency_key_of_the_recorded_call_is_not_sent_again(
    noukai: Noukai, provider: Provider
) -> None:
    def work() -> Any:
        return noukai.flow("reply").execute("once", idempotency_key="what-if-key").result

    with trace_scope_sync(client=noukai) as scope:
        answer = work()
    background.flush()
    start = len(provider.requests)
    for model in ("one", "two", "base"):
        with trace_scope_sync(replay_session_id=scope.session_id, client=noukai) as again:
            again.whatif("reply", model=f"openai:{model}")
            assert work() != answer
    assert [each[0] for each in provider.requests[start:]] == ["one", "two", "base"]


def test_wrong_names_are_refused(
    noukai: Noukai, recorded: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, answers = recorded
    with trace_scope_sync(replay_session_id=session_id, client=noukai) as scope:
        for wrong, problem in (
            (("gerade",), "no call of flow gerade: it has grade, reply"),
            (("grade#0",), "does not name a call"),
            ((), "what runs live"),
        ):
            with pytest.raises(ValueError, match=problem):
                scope.whatif(*wrong)
        with pytest.raises(ValueError, match="did you mean 'temperature'"):
            scope.whatif("reply", settings={"temprature": 0})
        assert scope.session_id == session_id
        assert review(noukai) == answers
    with trace_scope_sync(replay_session_id=session_id, client=noukai) as scope:
        scope.whatif("grade/scor", model="openai:small")
        with pytest.raises(ReplayError, match="has no step 'scor': it has check, score, shout"):
            review(noukai)
    with trace_scope_sync(client=noukai) as scope, pytest.raises(TypeError, match="that replays"):
        scope.whatif("reply")
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    with trace_scope_sync(client=noukai) as scope, pytest.raises(ReplayDisabledError):
        scope.whatif("reply")


KEY = {"Authorization": "Bearer nk_dev"}
