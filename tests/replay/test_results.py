"""A replayed ``execute``: recorded results, recorded failures, and refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from noukai_sdk import (
    AuthenticationError,
    ExecuteResult,
    FlowExecutionError,
    FlowNotFoundError,
    InsufficientCreditsError,
    PermissionDeniedError,
    RateLimitError,
    ReplayInvalidSessionError,
    ReplayMissError,
    ReplayNoSnapshotsError,
    RunNotFoundError,
)
from noukai_sdk.errors import NoukaiError
from tests.support.replays import AsyncSide, SessionService, SyncSide, execution, step

pytestmark = pytest.mark.anyio


async def test_execute_in_replay_returns_recorded_result(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0, "The cat sat."))
    async with side.scope() as scope:
        result = await side.execute("The cat sat.")
    assert result == ExecuteResult(
        status="completed",
        result="answer to The cat sat.",
        flow_id="flow-1",
        block_count=1,
        execution_id="exec-0",
        session_id="s-1",
    )
    assert (scope.mode, scope.session_id) == ("replay", "s-1")
    assert scope.report.clean
    assert service.fetches == ["s-1"]


async def test_flows_and_kinds_are_counted_apart(service: SessionService, side: SyncSide) -> None:
    service.record(
        execution(0, "a"),
        execution(1, "b", slug="other"),
        execution(2, "c", triggerType="step"),
        execution(3, "d"),
    )
    async with side.scope() as scope:
        assert await side.ask("b", slug="x/y/other") == ["answer to b"]
        assert await side.outputs("c") == ["answer to c"]
        assert await side.ask("a", "d") == ["answer to a", "answer to d"]
    assert [hit.position for hit in scope.report.hits] == [0, 0, 0, 1]


async def test_recordings_without_kind_serve_any_call_in_order(
    service: SessionService, side: SyncSide
) -> None:
    service.record(
        execution(0, "a", triggerType=None, flowId=None, traceCaptureMode=None),
        execution(1, "b", triggerType="step"),
        execution(2, "c", triggerType="something new"),
    )
    async with side.scope():
        assert await side.ask("a") == ["answer to a"]
        assert await side.outputs("b") == ["answer to b"]
        assert await side.outputs("c") == ["answer to c"]


async def test_session_of_lenient_service_is_read(service: SessionService, side: SyncSide) -> None:
    """Steps without a status, fractions of milliseconds, bare values in place of objects."""
    bare = {
        "stepId": "grade",
        "durationMs": 1.5,
        "inputSnapshot": "bare",
        "outputSnapshot": "answer",
    }
    service.record(execution(0, steps=[bare]), execution(1, steps=[bare], triggerType="step"))
    async with side.scope():
        assert await side.ask("m0") == ["answer"]
        assert await side.outputs("m1") == ["answer"]


async def test_results_keep_their_json_type(service: SessionService, side: SyncSide) -> None:
    outputs = [None, 0, False, "", [], {}, {"a": [1, {"b": None}]}, 1.5]
    service.record(
        *(execution(n, f"m{n}", steps=[step(output=output)]) for n, output in enumerate(outputs))
    )
    async with side.scope():
        results = await side.ask(*(f"m{n}" for n in range(len(outputs))))
    assert results == outputs
    assert [type(result) for result in results] == [type(output) for output in outputs]


async def test_rendered_prompt_is_left_out_of_results(
    service: SessionService, side: SyncSide
) -> None:
    inner = {"__rendered_prompt__": "kept", "list": [{"__rendered_prompt__": "kept"}]}
    output = {"grade": 3, "__rendered_prompt__": "You are a teacher", "inner": inner}
    service.record(
        execution(0, steps=[step(output=output)]),
        execution(1, triggerType="step", steps=[step(output=output)]),
    )
    async with side.scope():
        expected = {"grade": 3, "inner": inner}
        assert (await side.execute()).result == expected
        *_, completed, end = await side.events("m1")
    assert completed.output == end.result == expected


RETRIED = [
    step("a", attempt=1, status="failed", errorSnapshot={"code": "X"}),
    step("a", "second try", attempt=2),
]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"steps": [step("a", "draft"), step("b", "final"), step("c", status="skipped")]},
            ("completed", "final", 2),
        ),
        ({"steps": RETRIED}, ("completed", "second try", 1)),
        ({"steps": RETRIED[::-1]}, ("completed", "second try", 1)),
        ({"steps": []}, ("completed", None, 0)),
        # Our backend sends the result itself.
        ({"result": None}, ("completed", None, 1)),
        ({"result": {"x": 1}}, ("completed", {"x": 1}, 1)),
        ({"status": "failed", "result": "half"}, ("failed", "half", 1)),
        ({"traceCaptureMode": "redacted"}, ("completed", "answer to m0", 1)),
        # A deleted flow of our backend keeps its name in the call.
        (
            {"slug": None, "call": {"slug": "grade-3", "request": {"message": "m0"}}},
            ("completed", "answer to m0", 1),
        ),
    ],
)
async def test_result_is_taken_from_the_session(
    service: SessionService, side: SyncSide, fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    service.record(execution(0, **fields))
    async with side.scope():
        result = await side.execute()
    assert (result.status, result.result, result.block_count) == expected


BY_STATUS = [
    (401, None, AuthenticationError),
    (402, None, InsufficientCreditsError),
    (403, None, PermissionDeniedError),
    (404, "RUN_NOT_FOUND", RunNotFoundError),
    (429, None, RateLimitError),
    (400, "MISSING_MESSAGE", FlowExecutionError),
    (408, None, FlowExecutionError),
    (500, "INTERNAL_ERROR", FlowExecutionError),
    (503, "BILLING_UNAVAILABLE", FlowExecutionError),
    (None, "INSUFFICIENT_CREDITS", InsufficientCreditsError),
    (None, "CREDITS_EXHAUSTED", InsufficientCreditsError),
    (None, "FLOW_NOT_FOUND", FlowNotFoundError),
    (None, "BYOK_KEY_REJECTED", FlowExecutionError),
    (None, None, FlowExecutionError),
]


async def test_recorded_failure_is_raised_again(service: SessionService, side: SyncSide) -> None:
    errors = [
        {"statusCode": status, "code": code, "message": "it broke"} for status, code, _ in BY_STATUS
    ]
    service.record(
        *(execution(n, status="failed", error=error, result=None) for n, error in enumerate(errors))
    )
    async with side.scope() as scope:
        for number, (status, code, kind) in enumerate(BY_STATUS):
            with pytest.raises(NoukaiError, match="it broke") as caught:
                await side.execute(f"m{number}")
            error = caught.value
            assert (type(error), error.status_code, error.code) == (kind, status, code)
            assert error.execution_id == f"exec-{number}"
    assert scope.report.clean


ENDED = {"code": "CREDITS_EXHAUSTED", "message": "no credits left"}


@pytest.mark.parametrize(
    ("fields", "kind", "code", "message"),
    [
        (
            {
                "errorAtStep": "c",
                "steps": [
                    *RETRIED,
                    step("b", status="failed", errorSnapshot={"code": "OTHER_BRANCH"}),
                    step("c", status="failed", errorSnapshot=ENDED),
                ],
            },
            InsufficientCreditsError,
            "CREDITS_EXHAUSTED",
            "no credits left",
        ),
        (
            {"steps": [step(status="failed", errorSnapshot="it broke")]},
            FlowExecutionError,
            None,
            "it broke",
        ),
        (
            {"steps": [step(status="failed", errorSnapshot=None)]},
            FlowExecutionError,
            None,
            "the recorded run failed",
        ),
        (
            {"steps": [step(status="failed", errorSnapshot={})]},
            FlowExecutionError,
            None,
            "the recorded run failed",
        ),
        (
            {"steps": [step(status="failed", errorSnapshot={"code": 7, "message": ["odd"]})]},
            FlowExecutionError,
            "7",
            "odd",
        ),
        ({"steps": []}, FlowExecutionError, None, "the recorded run failed"),
    ],
)
async def test_hosted_failure_comes_from_the_step_that_ended_the_run(
    service: SessionService,
    side: SyncSide,
    fields: dict[str, Any],
    kind: type[NoukaiError],
    code: str | None,
    message: str,
) -> None:
    service.record(execution(0, status="failed", **fields))
    async with side.scope():
        with pytest.raises(kind, match=message) as caught:
            await side.execute()
    assert caught.value.code == code


@pytest.mark.parametrize("status", ["cancelled", "something new"])
async def test_run_that_had_not_ended_is_a_miss(
    service: SessionService, side: SyncSide, status: str
) -> None:
    service.record(execution(0, status=status, completedAt=None))
    with pytest.raises(ReplayMissError, match="not complete") as caught:
        async with side.scope() as scope:
            await side.execute()
    assert "not complete" in str(caught.value.reason)
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


@pytest.mark.filterwarnings("ignore::noukai_sdk.replay.player.ReplayConcurrencyWarning")
@pytest.mark.parametrize("status", ["running", "cancelled"])
async def test_loser_of_a_hedge_whose_run_had_not_ended_is_given_up_again(
    service: SessionService, async_side: AsyncSide, status: str
) -> None:
    error = {"message": "the caller went away before the run had ended"}
    slow = execution(0, "slow", status=status, completedAt=None, result=None, error=error)
    service.record(slow, execution(1, "fast", began=0.1, took=0.1))
    async with async_side.scope() as scope:
        calls = [asyncio.create_task(async_side.execute(text)) for text in ("slow", "fast")]
        done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.wait(others)
    assert [call.result().result for call in done] == ["answer to fast"]
    assert scope.report.summary() == "hits=2; misses=0; drift=0; leftovers=0"


@pytest.mark.parametrize(
    "fields",
    [
        {"traceCaptureMode": "off", "snapshotsAvailable": False},
        {"traceCaptureMode": "metadata_only"},
        {"traceCaptureMode": None, "snapshotsAvailable": False},
    ],
)
async def test_recording_without_snapshots_is_refused(
    service: SessionService, side: SyncSide, fields: dict[str, Any]
) -> None:
    service.record(execution(0, **fields), execution(1, **fields))
    with pytest.raises(ReplayNoSnapshotsError, match="capture mode to full or redacted"):
        async with side.scope():
            raise AssertionError("not reached")

    service.record(execution(0), execution(1, slug="other", **fields))
    async with side.scope() as scope:
        await side.execute()
        with pytest.raises(ReplayNoSnapshotsError, match="'other'") as caught:
            await side.execute(slug="x/y/other")
    assert caught.value.execution_id == "exec-1"
    assert caught.value.report is scope.report
    assert scope.report.summary() == "hits=1; misses=1; drift=0; leftovers=0"


async def test_truncated_output_is_served_and_reported(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0, steps=[step(output="a lot of te", truncated=True)]))
    async with side.scope() as scope:
        assert await side.ask("m0") == ["a lot of te"]
    assert [entry.detail for entry in scope.report.drift] == [
        "the recorded output was truncated by the service"
    ]


async def test_session_without_calls_replays_a_request_without_calls(
    service: SessionService, side: SyncSide
) -> None:
    service.record()
    async with side.scope() as scope:
        pass
    assert scope.report.clean
    with pytest.raises(ReplayMissError, match="holds no calls"):
        async with side.scope():
            await side.execute()


async def test_jobs_of_a_service_session_are_a_miss(
    service: SessionService, side: SyncSide
) -> None:
    service.record(
        execution(0, triggerType="job"),
        execution(1, triggerType="job", status="failed", error={"statusCode": 500}),
        execution(2, slug="any-kind", triggerType=None),
    )
    async with side.scope() as scope:
        for message, slug in (("m0", "grade-3"), ("m1", "grade-3"), ("m2", "any-kind")):
            with pytest.raises(
                ReplayMissError, match=r"service session.*use a cassette file"
            ) as caught:
                await side.submit(message, slug=f"acme/spelling/{slug}")
            assert caught.value.kind == "job"
    assert scope.report.summary() == "hits=0; misses=3; drift=0; leftovers=0"


async def test_malformed_recording_is_refused_and_reported(
    service: SessionService, side: SyncSide
) -> None:
    tools = [{"type": "function"}]
    for paused in ({"status": "tool_calls_required"}, {}):
        service.record(execution(0, toolRounds=[{"paused": paused}]))
        async with side.scope() as scope:
            with pytest.raises(
                ReplayInvalidSessionError, match="malformed: PausedResult"
            ) as caught:
                await side.execute(tools=tools)
            assert caught.value.execution_id == "exec-0"
        assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


async def test_request_that_is_not_json_fails_and_uses_no_recording(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0))
    async with side.scope() as scope:
        with pytest.raises(TypeError, match="JSON"):
            await side.execute(parameters={"a": object()})
        assert await side.ask("m0") == ["answer to m0"]
    assert scope.report.clean
