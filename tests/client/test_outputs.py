"""Results as values of ``response_model``, in every way to call a flow."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from noukai_sdk import Noukai, OutputError, PausedResult, trace_scope_sync
from tests.support.service import (
    CALL,
    DONE,
    PAUSED,
    STARTED,
    Reply,
    Service,
    finished,
    stream,
)
from tests.support.sides import SYNC, Side


class Grade(BaseModel):
    model_config = ConfigDict(strict=True)

    grade: int
    marks: tuple[int, ...] = ()


@dataclasses.dataclass
class GradeData:
    grade: int


class GradeDict(TypedDict):
    grade: int


FENCED = 'Here you are:\n```json\n{"grade": 3, "marks": [1, 2]}\n```\nGood luck!'
FITS: list[tuple[Any, Any, Any]] = [
    ({"grade": 3, "marks": [1, 2]}, Grade, Grade(grade=3, marks=(1, 2))),
    ('{"grade": 3}', Grade, Grade(grade=3)),
    (FENCED, Grade, Grade(grade=3, marks=(1, 2))),
    ('```\n{"grade": 3}\n```', GradeData, GradeData(3)),
    ({"grade": 3}, GradeDict, {"grade": 3}),
    ([{"grade": 3}], list[Grade], [Grade(grade=3)]),
    (" 5 ", int, 5),
    ("5", str, "5"),
    (FENCED, str, FENCED),
    ('"yes"', Literal["yes", "no"], "yes"),
    ("no", Literal["yes", "no"], "no"),
    ("2026-11-22", datetime.date, datetime.date(2026, 11, 22)),
]
MISFITS: list[tuple[Any, Any, str, str]] = [
    ("The grade is 3.", Grade, "The grade is 3.", "not a valid Grade"),
    ({"grade": "three"}, Grade, '{"grade":"three"}', "grade: Input should be a valid integer"),
    ('{"marks": []}', Grade, '{"marks": []}', "grade: Field required"),
    (None, int, "null", "not a valid int"),
]


def done(result: Any, **more: Any) -> dict[str, Any]:
    return {**DONE, "result": result, **more}


@pytest.mark.parametrize(("result", "model", "expected"), FITS, ids=str)
def test_result_that_fits_is_output(
    service: Service, result: Any, model: Any, expected: Any
) -> None:
    service.reply(done(result))
    with SYNC.make() as client:
        got = client.flow("grade-3").execute("hi", response_model=model)
    assert (got.output, got.result) == (expected, result)
    assert type(got.output) is type(expected)
    assert pickle.loads(pickle.dumps(got)).output == expected


@pytest.mark.parametrize(("result", "model", "text", "problem"), MISFITS, ids=str)
def test_result_that_does_not_fit_raises_with_its_text(
    service: Service, result: Any, model: Any, text: str, problem: str
) -> None:
    service.reply(done(result))
    with SYNC.make() as client, pytest.raises(OutputError, match=problem) as caught:
        client.flow("grade-3").execute("hi", response_model=model)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.text, error.result, error.execution_id) == (text, result, "e")


async def test_output_after_tool_rounds_and_resume_is_typed(side: Side, service: Service) -> None:
    service.reply(PAUSED, done({"grade": 1}), PAUSED, PAUSED, done({"grade": 2}))

    def handler(calls: list[Any]) -> list[dict[str, Any]]:
        return [{"tool_call_id": call["id"], "output": 1} for call in calls]

    async with side.flow() as flow:
        options: dict[str, Any] = {"message": "hi", "response_model": Grade, "tools": [{}]}
        result = await side.call(flow.execute, tool_handler=handler, **options)
        assert result.output == Grade(grade=1)
        result = await side.call(flow.execute, **options)
        while isinstance(result, PausedResult):
            assert result.tokens is None
            with pytest.raises(OutputError, match="waits for tool results"):
                _ = result.output
            result = await side.resume(result, handler([CALL]))
        assert result.output == Grade(grade=2)


async def test_output_of_job_and_stream_is_typed(side: Side, service: Service) -> None:
    accepted = Reply({"executionId": "e", "status": "pending"}, 202)
    completed = {"executionId": "e", "status": "completed", "result": '{"grade": 3}'}
    failed = {"executionId": "e", "status": "failed", "error": {"code": "X"}}
    run = stream(STARTED, finished("a"), {"eventType": "flow_completed", "result": FENCED})
    service.reply(accepted, completed, failed, completed, run, run)
    async with side.flow() as flow:
        job = await side.call(flow.execute_async, "hi", response_model=Grade)
        assert (await side.call(job.wait)).output == Grade(grade=3)
        status = await side.call(job.poll)
        with pytest.raises(OutputError, match="the run failed"):
            _ = status.output
        again = flow.job("e", response_model=GradeData)
        assert (await side.call(again.poll)).output == GradeData(3)
        for method in (flow.events, flow.steps):
            result = await side.call(method("hi", response_model=Grade).final_result)
            assert result.output == Grade(grade=3, marks=(1, 2))
            assert (result.result, result.execution_id) == (FENCED, "e")


def test_failed_run_has_no_typed_output(service: Service) -> None:
    service.reply(done(None, status="failed"))
    with SYNC.make() as client:
        flow = client.flow("grade-3")
        assert flow.execute("hi").output is None
        result = flow.execute("hi", response_model=Grade)
    assert result.status == "failed"
    with pytest.raises(OutputError, match="the run failed, so it has no output of the type Grade"):
        _ = result.output


def test_output_in_replay_is_typed_and_cassette_has_raw_result(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "1")
    service.reply(done({"grade": 3}), done({"grade": "?"}))
    file = tmp_path / "typed.jsonl"

    def calls(client: Noukai) -> list[Any]:
        flow = client.flow("grade-3")
        first = flow.execute("one", response_model=Grade)
        with pytest.raises(OutputError) as caught:
            flow.execute("two", response_model=Grade)
        return [first.output, first.result, first.request_id, caught.value.text]

    with SYNC.make() as client:
        with trace_scope_sync(client=client, record=file):
            live = calls(client)
        recorded = file.read_text()
        with trace_scope_sync(client=client, cassette=file):
            assert calls(client) == live
    assert live == [Grade(grade=3), {"grade": 3}, "req-1", '{"grade":"?"}']
    assert len(service.requests) == 2
    assert json.dumps("output") not in recorded


def test_response_model_not_valid_raises_before_request(service: Service) -> None:
    with SYNC.make() as client:
        flow = client.flow("grade-3")
        for call in (flow.execute, flow.steps, flow.events, flow.execute_async):
            for not_valid in (object(), "NotDefined"):
                with pytest.raises(TypeError, match="response_model must be a type"):
                    call("hi", response_model=not_valid)
    assert not service.requests
