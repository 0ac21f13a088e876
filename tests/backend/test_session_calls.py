"""GET /seq/sessions/{id}/calls: rows of the calls without their payloads, and one call."""

from __future__ import annotations

from noukai_sdk.models.session_lists import SessionCalls
from tests.support.servers import wait_until

from .backends import ASKS_WEATHER, MESSAGE, Backend, code_of
from .test_session_additions import HELLO, OTHER, OUTCOMES, put

TEXT = 'A "text"\n of \U0001f600 lines\u202e. ' + "x" * 2_000


def test_session_calls_pages_have_previews_and_sums_of_all_calls(stored: Backend) -> None:
    path = "/seq/sessions/many/calls"
    assert code_of(stored.get(path)) == (404, "SESSION_NOT_FOUND")
    stored.post(HELLO, {"message": TEXT}, "many")
    stored.post("tests/broken/execute", MESSAGE, "many")
    stored.post("tests/redacted/execute", {"message": "sk-1234567890abcdefghijklmn"}, "many")
    stored.post("tests/metadata/execute", MESSAGE, "many")
    stored.post("samples/weather/execute", ASKS_WEATHER, "many")
    put(stored, "many", "outcomes", OUTCOMES)

    calls = SessionCalls.model_validate(stored.get(path).json())
    assert calls.counts == {"running": 1, "completed": 3, "failed": 1}
    assert (calls.pinned, len(calls.outcomes)) == (False, 1)
    assert calls.parent is not None
    executions = {each["executionId"]: each for each in stored.session("many")}
    assert [call.execution_id for call in calls.calls] == list(executions)
    hello, broken, redacted, metadata, paused = calls.calls
    assert (hello.input or "").startswith('A "text" of \U0001f600 lines\u202e. xxx')
    assert len(hello.input or "") == 160
    assert executions[hello.execution_id]["result"].startswith((hello.output or "?")[:20])
    assert (broken.status, broken.error_at_step, broken.output) == ("failed", "bad", None)
    assert broken.error is not None
    assert "hung up" in broken.error.message
    assert "1234567890" not in str(redacted)
    assert (metadata.input, metadata.output, metadata.snapshots_available) == (None, None, False)
    assert (paused.status, paused.completed_at) == ("running", None)
    assert calls.tokens == sum(call.tokens or 0 for call in calls.calls)
    assert (broken.steps, broken.block_count) == (2, 2)

    page = stored.client.get(path, params={"offset": 1, "limit": 1}).json()
    assert [call["executionId"] for call in page["calls"]] == [broken.execution_id]
    assert page["counts"] == calls.counts
    running = stored.client.get(path, params={"status": "running"}).json()["calls"]
    assert [(call["executionId"], call["number"]) for call in running] == [(paused.execution_id, 5)]
    for query in ({"limit": "0"}, {"offset": "-1"}, {"status": "odd"}):
        assert code_of(stored.client.get(path, params=query)) == (400, "INVALID_REQUEST")


def test_session_call_is_that_of_the_session_with_usage_of_its_steps(backend: Backend) -> None:
    backend.post(HELLO, MESSAGE, "one-call")
    backend.post(HELLO, MESSAGE, "another-call")
    (expected,) = backend.session("one-call")
    (other,) = backend.session("another-call")
    path = "/seq/sessions/one-call/calls"
    call = backend.get(f"{path}/{expected['executionId']}").json()
    usage = [(s.pop("modelUsed"), s.pop("tokens"), s.pop("costUsd")) for s in call["steps"]]
    assert call == expected
    events = [each for each in expected["events"] if "tokens" in each]
    assert usage == [("offline", each["tokens"], each["costUsd"]) for each in events]
    # Of another session, and of another organisation.
    assert code_of(backend.get(f"{path}/{other['executionId']}")) == (404, "RUN_NOT_FOUND")
    response = backend.get(f"{path}/{expected['executionId']}", **OTHER)
    assert code_of(response) == (404, "SESSION_NOT_FOUND")
    assert code_of(backend.get(path, **OTHER)) == (404, "SESSION_NOT_FOUND")


def test_session_call_in_progress_has_the_output_so_far(fresh: Backend) -> None:
    job = fresh.submit("tests/gated", session="gated")
    assert fresh.fakes.reached.wait(30)
    path = f"/seq/sessions/gated/calls/{job}"

    def output_so_far() -> list[str]:
        events = fresh.get(path).json()["events"]
        held = [each for each in events if each.get("stepId") == "held"]
        return [each["outputData"] for each in held if each["eventType"] == "step_output"]

    assert wait_until(output_so_far, what="the first part of the output") == ["waiting "]
    call = fresh.get(path).json()
    assert call["status"] == "running"
    assert [step["status"] for step in call["steps"]] == ["completed", "running"]
    fresh.fakes.opened.set()
    assert fresh.finished("tests/gated", job)["status"] == "completed"
