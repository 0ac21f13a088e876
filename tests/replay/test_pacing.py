"""``pacing="recorded"``: programs stepped by hand, on a clock of the test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from noukai_sdk import FlowExecutionError, JobStatus
from noukai_sdk.models.results import PausedResult
from noukai_sdk.protocol.call import FlowCall
from noukai_sdk.protocol.program import Effect, Program, Response, SendRequest, Sleep
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.pacing import InstantPace, RecordedPace
from noukai_sdk.replay.player import Player, ReplayOptions
from noukai_sdk.replay.recorder import Recorder
from noukai_sdk.replay.recording import Recording
from tests.replay.stepping import Clock, call, ok


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


OPENED = Response(200, {}, b"")
END = None


def frames(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def started(step: str) -> dict[str, Any]:
    return {"eventType": "step_started", "stepId": step}


def output(step: str, text: str) -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": step, "outputData": text}


PAUSED = {"eventType": "step_paused", "stepId": "a", "executionId": "e"}
COMPLETED = {"eventType": "flow_completed", "result": "r"}
TWO_CALLS = [
    (0.1, OPENED),
    (0.2, frames(started("a"), output("a", "x"))),
    (0.3, frames(output("a", "y"))),
    (0.0, frames(output("a", "z"), PAUSED)),
    (0.0, END),
    (0.4, OPENED),
    (0.5, frames(started("b"))),
    (1.0, frames(COMPLETED)),
]


def record(clock: Clock, flow_call: FlowCall, answers: Any, consumer: float = 0.0) -> Any:
    recorder = Recorder()
    program = recorder.listen(flow_call, flow_call.live())
    seen = clock.run(program, answers, consumer)
    (recording,) = recorder.recordings()
    assert Recording.model_validate_json(recording.model_dump_json()) == recording
    return seen, recording


def replay(
    clock: Clock, flow_call: FlowCall, recording: Recording, pace: Any, consumer: float = 0.0
) -> Any:
    player = Player(Cassette(None, [recording]), ReplayOptions(pace=pace))
    return clock.run(player.play(flow_call, player.claim(flow_call)), consumer=consumer)


def boundaries(recording: Recording) -> list[int]:
    return [count for _, count in recording.chunks]


def test_a_stream_takes_the_time_that_it_took(clock: Clock) -> None:
    seen, recording = record(clock, call("step"), TWO_CALLS)
    assert [at for at, _ in seen] == [0.3, 0.3, 0.6, 0.6, 0.6, 1.5, 2.5, 2.5]
    assert boundaries(recording) == [0, 2, 1, 2, 0, 1, 1]
    assert replay(clock, call("step"), recording, RecordedPace) == seen


@pytest.mark.parametrize(
    ("consumer", "expected"),
    [
        # As when it was recorded.
        (0.1, [0.3, 0.4, 0.8, 0.9, 1.0, 2.0, 3.1, 3.2]),
        # The chunks came all the same meanwhile, but the second request went out later.
        (1.0, [0.3, 1.3, 2.3, 3.3, 4.3, 6.2, 7.3, 8.3]),
        # No chunk is there sooner than it was, but the second request goes out sooner.
        (0.0, [0.3, 0.3, 0.8, 0.9, 0.9, 1.8, 2.9, 2.9]),
    ],
)
def test_a_consumer_takes_its_own_time(
    clock: Clock, consumer: float, expected: list[float]
) -> None:
    recorded, recording = record(clock, call("step"), TWO_CALLS, consumer=0.1)
    assert [at for at, _ in recorded] == pytest.approx([0.3, 0.4, 0.8, 0.9, 1.0, 2.0, 3.1, 3.2])
    seen = replay(clock, call("step"), recording, RecordedPace, consumer)
    assert [at for at, _ in seen] == pytest.approx(expected)


def test_at_once_other_tasks_run_where_a_chunk_began(clock: Clock) -> None:
    seen, recording = record(clock, call("step"), TWO_CALLS)
    player = Player(Cassette(None, [recording]))
    program = player.play(call("step"), player.claim(call("step")))
    items = list(program)
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


def pause(number: int) -> dict[str, Any]:
    return {
        "status": "tool_calls_required",
        "executionId": "e",
        "pausedAtStep": "a",
        "toolCalls": [{"id": f"call_{number}"}],
    }


def test_tool_rounds_wait_for_the_service_and_not_for_the_tool(clock: Clock) -> None:
    answers = [(0.5, ok(**pause(1))), (0.7, ok(status="completed", result=1))]
    handled = call("execute", tool_handler=lambda calls: calls)
    seen, recording = record(clock, handled, answers)
    assert [at for at, _ in seen] == [0.5 + 5 + 0.7]
    assert recording.chunks == ((0.0, 0), (0.5, 1), (5.5, 0), (6.2, 1))
    assert replay(clock, handled, recording, RecordedPace) == seen
    assert replay(clock, handled, recording, InstantPace)[0][0] == 5


def test_a_pause_that_is_answered_by_hand(clock: Clock) -> None:
    answers = iter([(0.5, ok(**pause(1))), (0.7, ok(status="completed", result=1))])
    by_hand = call("execute", tool_handler=None)
    recorder = Recorder()
    ((at, paused),) = clock.run(recorder.listen(by_hand, by_hand.live()), answers)
    assert at == 0.5
    clock.now += 60
    assert paused._resume is not None
    ((at, _),) = clock.run(paused._resume([{"tool_call_id": "call_1", "output": 1}]), answers)
    assert at == pytest.approx(0.7)

    player = Player(Cassette(None, recorder.recordings()), ReplayOptions(pace=RecordedPace))
    ((at, paused),) = clock.run(player.play(by_hand, player.claim(by_hand)))
    assert at == pytest.approx(0.5)
    assert isinstance(paused, PausedResult)
    clock.now += 10
    ((at, result),) = clock.run(paused._resume([{"tool_call_id": "call_1", "output": 1}]))
    assert at == pytest.approx(0.7)
    assert result.result == 1


@pytest.mark.parametrize("kind", ["execute", "step", "job"])
def test_an_error_comes_when_it_came(clock: Clock, kind: str) -> None:
    refused = Response(503, {}, b'{"detail": {"code": "BUSY", "message": "later"}}')
    seen, recording = record(clock, call(kind), [(0.8, refused)])
    assert seen == [(0.8, FlowExecutionError)]
    assert replay(clock, call(kind), recording, RecordedPace) == seen
    assert replay(clock, call(kind), recording, InstantPace) == [(0, FlowExecutionError)]


def test_a_request_that_is_sent_again_is_one_request(clock: Clock) -> None:
    recorder = Recorder()

    def repeated() -> Program[Any]:
        yield SendRequest(None)  # type: ignore[arg-type]  # nobody looks at it here
        yield Sleep(2)
        yield SendRequest(None)  # type: ignore[arg-type]  # nobody looks at it here
        raise FlowExecutionError("no")

    seen = clock.run(recorder.listen(call("execute"), repeated()), [(1, OPENED), (1, OPENED)])
    assert seen == [(4, FlowExecutionError)]
    (recording,) = recorder.recordings()
    assert replay(clock, call("execute"), recording, RecordedPace) == seen


def test_a_submission_and_its_looks(clock: Clock) -> None:
    running = ok(executionId="j", status="running")
    done = ok(executionId="j", status="completed", result=1)
    answers = iter(
        [(0.2, ok(executionId="j", status="pending")), *[(0.1, running)] * 2, (0.1, done)]
    )
    recorder = Recorder()
    ((at, job),) = clock.run(recorder.listen(call("job"), call("job").live()), answers)
    assert at == 0.2
    ((at, status),) = clock.run(job.wait(60, 2), answers)
    assert at == pytest.approx(4.3)
    assert status.status == "completed"

    player = Player(Cassette(None, recorder.recordings()), ReplayOptions(pace=RecordedPace))
    ((at, job),) = clock.run(player.play(call("job"), player.claim(call("job"))))
    assert at == 0.2
    assert clock.run(job.wait(60, 2)) == [(4, status)]
    assert isinstance(status, JobStatus)


def test_a_source_that_knows_only_how_long_a_call_took(clock: Clock) -> None:
    recording = Recording(
        slug="flow", kind="execute", started_at=5, completed_at=7.5, result={"status": "completed"}
    )
    assert replay(clock, call("execute"), recording, RecordedPace)[0][0] == 2.5
    unknown = recording.model_copy(update={"completed_at": None})
    assert replay(clock, call("execute"), unknown, RecordedPace)[0][0] == 0


def test_a_file_whose_chunks_are_too_few_waits_no_longer(clock: Clock) -> None:
    recording = Recording(
        slug="flow",
        kind="step",
        events=({"eventType": "step_paused"}, {"eventType": "flow_completed"}),
        chunks=((1.5, 1),),
    )
    assert [at for at, _ in replay(clock, call("step"), recording, RecordedPace)] == [1.5] * 3
