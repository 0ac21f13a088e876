"""What a replayed ``execute`` gives: recorded results, recorded failures, and refusals."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

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
)
from noukai_sdk.errors import NoukaiError
from tests.replay.service import Service, Side, execution, step

pytestmark = pytest.mark.anyio


async def test_a_call_gets_what_was_recorded(service: Service, side: Side) -> None:
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
    assert service.fetches == ["s-1"]


async def test_calls_get_their_recordings_in_order(service: Service, side: Side) -> None:
    service.record(*(execution(n) for n in range(3)))
    async with side.scope() as scope:
        results = [(await side.execute(f"m{n}")).result for n in range(3)]
    assert results == ["answer to m0", "answer to m1", "answer to m2"]
    assert scope.report.clean
    assert [hit.position for hit in scope.report.hits] == [0, 1, 2]


async def test_flows_are_counted_apart(service: Service, side: Side) -> None:
    service.record(execution(0, "a"), execution(1, "b", slug="other"), execution(2, "c"))
    async with side.scope():
        assert (await side.execute("b", slug="x/y/other")).result == "answer to b"
        assert (await side.execute("a")).result == "answer to a"
        assert (await side.execute("c")).result == "answer to c"


async def test_kinds_are_counted_apart(service: Service, side: Side) -> None:
    service.record(execution(0, "a", triggerType="step"), execution(1, "b"))
    async with side.scope():
        assert (await side.execute("b")).result == "answer to b"
        assert [each.output for each in await side.steps("a")] == ["answer to a"]


async def test_where_the_kind_was_not_recorded_any_call_is_answered_in_order(
    service: Service, side: Side
) -> None:
    service.record(
        execution(0, "a", triggerType=None),
        execution(1, "b", triggerType="step"),
        execution(2, "c", triggerType="something new"),
    )
    async with side.scope():
        assert (await side.execute("a")).result == "answer to a"
        assert [each.output for each in await side.steps("b")] == ["answer to b"]
        assert [each.output for each in await side.steps("c")] == ["answer to c"]


async def test_null_fields_do_no_harm(service: Service, side: Side) -> None:
    service.record(execution(0, flowId=None, traceCaptureMode=None, triggerType=None))
    async with side.scope():
        assert (await side.execute()).flow_id is None


@pytest.mark.parametrize("output", [None, 0, False, "", [], {}, {"a": [1, {"b": None}]}, 1.5])
async def test_results_keep_their_json_type(service: Service, side: Side, output: Any) -> None:
    service.record(execution(0, steps=[step(output=output)]))
    async with side.scope():
        result = (await side.execute()).result
    assert result == output
    assert type(result) is type(output)


async def test_the_rendered_prompt_is_for_the_service_alone(service: Service, side: Side) -> None:
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


async def test_the_last_step_has_the_result(service: Service, side: Side) -> None:
    steps = [step("first", "draft"), step("last", "final"), step("never", status="skipped")]
    service.record(execution(0, steps=steps))
    async with side.scope():
        result = await side.execute()
    assert (result.result, result.block_count) == ("final", 2)


async def test_of_a_step_that_was_tried_again_the_last_attempt_counts(
    service: Service, side: Side
) -> None:
    steps = [
        step("a", attempt=1, status="failed", errorSnapshot={"code": "X"}),
        step("a", "second try", attempt=2),
    ]
    service.record(execution(0, steps=steps), execution(1, steps=steps[::-1]))
    async with side.scope():
        assert (await side.execute()).result == "second try"
        assert (await side.execute("m1")).result == "second try"


async def test_a_result_of_a_run_without_steps_is_null(service: Service, side: Side) -> None:
    service.record(execution(0, steps=[]))
    async with side.scope():
        assert (await side.execute()).result is None


async def test_our_backends_result_wins_over_the_steps(service: Service, side: Side) -> None:
    service.record(execution(0, result=None), execution(1, result={"x": 1}))
    async with side.scope():
        assert (await side.execute()).result is None
        assert (await side.execute("m1")).result == {"x": 1}


async def test_a_failure_that_was_a_result_is_one_again(service: Service, side: Side) -> None:
    service.record(execution(0, status="failed", result="half"))
    async with side.scope():
        result = await side.execute()
    assert (result.status, result.result) == ("failed", "half")


BY_STATUS = [
    (401, None, AuthenticationError),
    (402, None, InsufficientCreditsError),
    (403, None, PermissionDeniedError),
    (404, "RUN_NOT_FOUND", FlowNotFoundError),
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


@pytest.mark.parametrize(("status", "code", "kind"), BY_STATUS)
async def test_a_recorded_failure_is_raised_again(
    service: Service, side: Side, status: int | None, code: str | None, kind: type[NoukaiError]
) -> None:
    error = {"statusCode": status, "code": code, "message": "it broke"}
    service.record(execution(0, status="failed", error=error, result=None))
    async with side.scope() as scope:
        with pytest.raises(kind) as caught:
            await side.execute()
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert caught.value.code == code
    assert caught.value.execution_id == "exec-0"
    assert "it broke" in str(caught.value)
    assert scope.report.clean


async def test_a_hosted_failure_comes_from_the_step_that_ended_the_run(
    service: Service, side: Side
) -> None:
    tried = {"code": "TRIED_AGAIN", "message": "no matter"}
    ended = {"code": "CREDITS_EXHAUSTED", "message": "no credits left"}
    steps = [
        step("a", status="failed", errorSnapshot=tried, attempt=1),
        step("a", "fine", attempt=2),
        step("b", status="failed", errorSnapshot={"code": "BESIDE"}),
        step("c", status="failed", errorSnapshot=ended),
    ]
    service.record(execution(0, status="failed", errorAtStep="c", steps=steps))
    async with side.scope():
        with pytest.raises(InsufficientCreditsError, match="no credits left") as caught:
            await side.execute()
    assert caught.value.code == "CREDITS_EXHAUSTED"


@pytest.mark.parametrize(
    ("snapshot", "code", "said"),
    [
        ("it broke", None, "it broke"),
        (None, None, "the recorded run failed"),
        ({}, None, "the recorded run failed"),
        ({"code": 7, "message": ["odd"]}, "7", "odd"),
    ],
)
async def test_hosted_failures_of_any_form(
    service: Service, side: Side, snapshot: Any, code: str | None, said: str
) -> None:
    steps = [step(status="failed", errorSnapshot=snapshot)]
    service.record(execution(0, status="failed", steps=steps))
    async with side.scope():
        with pytest.raises(FlowExecutionError, match=said) as caught:
            await side.execute()
    assert caught.value.code == code


async def test_a_failure_that_no_step_tells_of(service: Service, side: Side) -> None:
    service.record(execution(0, status="failed", steps=[]))
    async with side.scope():
        with pytest.raises(FlowExecutionError, match="the recorded run failed"):
            await side.execute()


@pytest.mark.parametrize("status", ["pending", "running", "cancelled", "something new"])
async def test_a_run_that_had_not_ended_is_a_miss(
    service: Service, side: Side, status: str
) -> None:
    service.record(execution(0, status=status, completedAt=None))
    with pytest.raises(ReplayMissError, match="not complete") as caught:
        async with side.scope() as scope:
            await side.execute()
    assert "not complete" in str(caught.value.reason)
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


@pytest.mark.parametrize(
    "fields",
    [
        {"traceCaptureMode": "off", "snapshotsAvailable": False},
        {"traceCaptureMode": "metadata_only"},
        {"traceCaptureMode": None, "snapshotsAvailable": False},
    ],
)
async def test_a_session_without_snapshots_opens_no_scope(
    service: Service, side: Side, fields: dict[str, Any]
) -> None:
    service.record(execution(0, **fields), execution(1, **fields))
    with pytest.raises(ReplayNoSnapshotsError, match="capture mode to full or redacted"):
        async with side.scope():
            raise AssertionError("not reached")


async def test_one_call_without_snapshots_is_refused_and_sticks(
    service: Service, side: Side
) -> None:
    service.record(execution(0), execution(1, slug="other", traceCaptureMode="off"))
    with pytest.raises(ReplayNoSnapshotsError, match="'other'") as caught:
        async with side.scope() as scope:
            await side.execute()
            with pytest.raises(ReplayNoSnapshotsError):
                await side.execute(slug="x/y/other")
    assert caught.value.execution_id == "exec-1"
    assert caught.value.report is scope.report
    assert scope.report.summary() == "hits=1; misses=1; drift=0; leftovers=0"


async def test_redacted_snapshots_are_snapshots(service: Service, side: Side) -> None:
    service.record(execution(0, traceCaptureMode="redacted"))
    async with side.scope():
        assert (await side.execute()).result == "answer to m0"


async def test_a_truncated_output_is_served_and_reported(service: Service, side: Side) -> None:
    service.record(execution(0, steps=[step(output="a lot of te", truncated=True)]))
    async with side.scope() as scope:
        assert (await side.execute()).result == "a lot of te"
    assert [entry.detail for entry in scope.report.drift] == [
        "the recorded output was truncated by the service"
    ]


async def test_a_session_without_calls_is_one(service: Service, side: Side) -> None:
    service.record()
    async with side.scope() as scope:
        pass
    assert scope.report.clean
    with pytest.raises(ReplayMissError, match="holds no calls"):
        async with side.scope():
            await side.execute()


async def test_jobs_of_a_service_session_are_refused(service: Service, side: Side) -> None:
    jobs = [
        execution(0, triggerType="job"),
        execution(1, triggerType="job", status="failed", error={"statusCode": 500}),
        execution(2, slug="unsaid", triggerType=None),
    ]
    service.record(*jobs)
    with pytest.raises(ReplayMissError, match="use a cassette file") as caught:
        async with side.scope() as scope:
            for message, slug in (("m0", "grade-3"), ("m1", "grade-3"), ("m2", "unsaid")):
                with pytest.raises(ReplayMissError, match="service session"):
                    await side.submit(message, slug=f"acme/spelling/{slug}")
    assert caught.value.kind == "job"
    assert scope.report.summary() == "hits=0; misses=3; drift=0; leftovers=0"


async def test_a_deleted_flow_of_our_backend_keeps_its_name(service: Service, side: Side) -> None:
    call = {"slug": "grade-3", "request": {"message": "m0"}}
    service.record(execution(0, slug=None, call=call))
    async with side.scope():
        assert (await side.execute()).result == "answer to m0"


@pytest.mark.parametrize(
    "broken",
    [
        {"toolRounds": [{"paused": {"status": "tool_calls_required"}}]},
        {"toolRounds": [{"paused": {}}]},
    ],
)
async def test_a_malformed_recording_is_refused_and_sticks(
    service: Service, side: Side, broken: dict[str, Any]
) -> None:
    service.record(execution(0, **broken))
    with pytest.raises(ReplayInvalidSessionError, match="malformed: PausedResult"):
        async with side.scope() as scope:
            with pytest.raises(ReplayInvalidSessionError) as caught:
                await side.execute(tools=[{"type": "function"}])
            assert caught.value.execution_id == "exec-0"
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


async def test_what_cannot_be_sent_cannot_be_replayed(service: Service, side: Side) -> None:
    service.record(execution(0))
    async with side.scope() as scope:
        with pytest.raises(TypeError, match="JSON"):
            await side.execute(parameters={"a": object()})
        assert (await side.execute()).result == "answer to m0"
    assert scope.report.clean
