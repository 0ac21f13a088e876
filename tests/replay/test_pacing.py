"""The pace of a replay: programs stepped by hand, on a clock of the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noukai_sdk import FlowExecutionError, JobStatus
from noukai_sdk.protocol.program import Effect, Program, SendRequest, Sleep
from noukai_sdk.replay import recording_builder
from noukai_sdk.replay.pacing import InstantPace, RecordedPace
from noukai_sdk.replay.recorder import Recorder
from noukai_sdk.replay.recording import Recording
from tests.replay.timed import live_program, record, replay, replay_program, timeline
from tests.support.replays import TOOLS
from tests.support.stepping import After, Clock, frames, make_call, respond


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(100.0)
    monkeypatch.setattr(recording_builder.time, "perf_counter", lambda: clock.now)
    return clock


def started(step: str) -> dict[str, Any]:
    return {"eventType": "step_started", "stepId": step}


def output(step: str, text: str) -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": step, "outputData": text}


PAUSED = {"eventType": "step_paused", "stepId": "a", "executionId": "e"}
COMPLETED = {"eventType": "flow_completed", "result": "r"}
STREAM = make_call("step")
TWO_CALLS = [
    After(
        0.1,
        [
            After(0.2, frames(started("a"), output("a", "x"))),
            After(0.3, frames(output("a", "y"))),
            frames(output("a", "z"), PAUSED),
        ],
    ),
    After(0.4, [After(0.5, frames(started("b"))), After(1.0, frames(COMPLETED))]),
]


def times(seen: list[tuple[float, Any]]) -> Any:
    return pytest.approx([at for at, _ in seen])


def test_recorded_pace_of_a_stream_is_its_recorded_time(clock: Clock) -> None:
    seen, recording = record(clock, STREAM, TWO_CALLS)
    assert times(seen) == [0.3, 0.3, 0.6, 0.6, 0.6, 1.5, 2.5, 2.5]
    assert [count for _, count in recording.chunks] == [0, 2, 1, 2, 0, 1, 1]
    assert replay(clock, STREAM, recording, RecordedPace) == seen


@pytest.mark.parametrize(
    ("consumer", "expected"),
    [
        # As when it was recorded.
        (0.1, [0.3, 0.4, 0.8, 0.9, 1.0, 2.0, 3.1, 3.2]),
        # The chunks arrived meanwhile, but the second request went out later.
        (1.0, [0.3, 1.3, 2.3, 3.3, 4.3, 6.2, 7.3, 8.3]),
        # No chunk is there sooner than it was, but the second request goes out sooner.
        (0.0, [0.3, 0.3, 0.8, 0.9, 0.9, 1.8, 2.9, 2.9]),
    ],
)
def test_recorded_pace_does_not_depend_on_the_consumer(
    clock: Clock, consumer: float, expected: list[float]
) -> None:
    recorded, recording = record(clock, STREAM, TWO_CALLS, consumer=0.1)
    assert times(recorded) == [0.3, 0.4, 0.8, 0.9, 1.0, 2.0, 3.1, 3.2]
    assert times(replay(clock, STREAM, recording, RecordedPace, consumer)) == expected


def test_instant_pace_lets_other_tasks_run_where_a_chunk_began(clock: Clock) -> None:
    seen, recording = record(clock, STREAM, TWO_CALLS)
    items = list(replay_program(STREAM, recording, InstantPace))
    assert [item for item in items if not isinstance(item, Effect)] == [e for _, e in seen[:-1]]
    kinds = ["wait" if isinstance(item, Sleep) else item.type for item in items]
    assert kinds == [
        "wait",  # of the call itself
        "wait",
        "step_started",
        "step_output",
        "wait",
        "step_output",
        "wait",
        "step_output",
        "step_paused",
        "wait",
        "step_started",
        "wait",
        "flow_completed",
    ]
    assert all(item.seconds == 0 for item in items if isinstance(item, Sleep))


PAUSE = {
    "status": "tool_calls_required",
    "executionId": "e",
    "pausedAtStep": "a",
    "toolCalls": [{"id": "call_1"}],
}
DONE = {"status": "completed", "result": 1}
RESULTS = [{"tool_call_id": "call_1", "output": 1}]


def test_recorded_pace_of_tool_rounds_waits_for_the_service_not_for_the_tool(clock: Clock) -> None:
    def handler(calls: Any) -> Any:
        clock.now += 5
        return RESULTS

    request = {"message": "hi", "tools": TOOLS}
    call = make_call(request=request, tool_handler=handler)
    seen, recording = record(clock, call, [After(0.5, respond(PAUSE)), After(0.7, respond(DONE))])
    assert times(seen) == [0.5 + 5 + 0.7]
    assert recording.chunks == ((0.0, 0), (0.5, 1), (5.5, 0), (6.2, 1))
    assert replay(clock, call, recording, RecordedPace) == seen
    assert times(replay(clock, call, recording, InstantPace)) == [5]


@pytest.mark.parametrize("kind", ["execute", "step", "job"])
def test_recorded_pace_of_an_error_is_its_recorded_time(clock: Clock, kind: Any) -> None:
    refused = respond({"detail": {"code": "BUSY", "message": "later"}}, 503)
    seen, recording = record(clock, make_call(kind), [After(0.8, refused)])
    assert seen == [(0.8, FlowExecutionError)]
    assert replay(clock, make_call(kind), recording, RecordedPace) == seen
    assert replay(clock, make_call(kind), recording, InstantPace) == [(0, FlowExecutionError)]


def test_recorded_pace_counts_a_retried_request_as_one(clock: Clock) -> None:
    def retried() -> Program[Any]:
        for _ in range(2):
            yield SendRequest(None)  # type: ignore[arg-type]  # never read here
            yield Sleep(1)
        raise FlowExecutionError("no")

    recorder = Recorder()
    program = recorder.listen(make_call(), retried())
    seen = timeline(clock, program, [After(1, respond()), After(1, respond())])
    assert seen == [(4, FlowExecutionError)]
    (recording,) = recorder.recordings()
    assert replay(clock, make_call(), recording, RecordedPace) == seen


def test_recorded_pace_of_a_job_sleeps_between_polls(clock: Clock) -> None:
    call = make_call("job")
    recorder = Recorder()
    submitted = After(0.2, respond({"executionId": "j", "status": "pending"}))
    ((at, job),) = timeline(clock, recorder.listen(call, live_program(call)), [submitted])
    assert at == 0.2
    running, done = (
        After(0.1, respond({"executionId": "j", "status": status, "result": 1}))
        for status in ("running", "completed")
    )
    ((at, status),) = timeline(clock, job.wait(60, 2), [running, running, done])
    assert at == pytest.approx(4.3)
    assert isinstance(status, JobStatus)

    (recording,) = recorder.recordings()
    ((at, job),) = replay(clock, call, recording, RecordedPace)
    assert at == 0.2
    assert timeline(clock, job.wait(60, 2)) == [(4, status)]


def test_recorded_pace_of_a_recording_without_chunks_is_its_duration(clock: Clock) -> None:
    recording = Recording(
        slug="grade-3", kind="execute", started_at=5, completed_at=7.5, result=DONE
    )
    assert times(replay(clock, make_call(), recording, RecordedPace)) == [2.5]
    unknown = replace(recording, completed_at=None)
    assert times(replay(clock, make_call(), unknown, RecordedPace)) == [0]
    events = ({"eventType": "step_paused"}, {"eventType": "flow_completed"})
    short = Recording(slug="grade-3", kind="step", events=events, chunks=((1.5, 1),))
    assert times(replay(clock, STREAM, short, RecordedPace)) == [1.5] * 3


def test_recorded_pace_of_a_pause_resumed_by_hand_counts_from_the_resume(clock: Clock) -> None:
    call = make_call(request={"message": "hi", "tools": TOOLS})
    recorder = Recorder()
    program = recorder.listen(call, live_program(call))
    ((at, paused),) = timeline(clock, program, [After(0.5, respond(PAUSE))])
    assert at == 0.5
    clock.now += 60
    resumed = timeline(clock, paused.resume(RESULTS), [After(0.7, respond(DONE))])
    assert times(resumed) == [0.7]

    (recording,) = recorder.recordings()
    ((at, paused),) = replay(clock, call, recording, RecordedPace)
    assert at == 0.5
    clock.now += 10
    ((at, result),) = timeline(clock, paused.resume(RESULTS))
    assert at == pytest.approx(0.7)
    assert result.result == 1
