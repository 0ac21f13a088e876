"""Limits for what a run renders, receives and stores, and for the jobs that wait."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from noukai_sdk.backend import bodies
from noukai_sdk.backend.errors import RequestError
from noukai_sdk.backend.queue_limit import QueueLimit
from noukai_sdk.backend.settings import Settings
from noukai_sdk.local.engine.sizes import SizeLimits

from .backends import MESSAGE, Backend, answered, code_of, parse, resume_body, serving

LIMITS = SizeLimits(max_prompt_bytes=5_000, max_output_bytes=4_000, max_run_bytes=50_000)
FLOWS = {
    "loop": "[{id: a, for_each: '{{parameters.items}}', transform: '{{message}} {{item}}'}]",
    "twice": "[{id: a, prompt: '{{message}}{{message}}', model: echo}]",
    "echo": "[{id: a, model: echo}]",
    "function": f"[{{id: a, function: '{__name__}:repeat', arguments: {{text: '{{{{input}}}}'}}}}]",
    "steps": "[{id: a, transform: trim}, {id: b, transform: trim}, {id: c, transform: trim},"
    " {id: d, transform: trim}, {id: e, transform: trim}, {id: f, transform: trim}]",
}


def repeat(text: str) -> str:
    return text * 10


@pytest.fixture
def limited(tmp_path: Path) -> object:
    with serving(tmp_path, sizes=LIMITS) as backend:
        for name, steps in FLOWS.items():
            backend.write_flow(name, f"steps: {steps}")
        yield backend


def test_run_beyond_size_limit_fails_with_its_code(limited: Backend) -> None:
    many = {"items": [1] * 40}
    cases = [
        ("loop", {"message": "x" * 900, "parameters": many}, "RUN_TOO_LARGE"),
        ("loop", {"message": "x" * 5_000, "parameters": many}, "PROMPT_TOO_LARGE"),
        ("twice", {"message": "x" * 2_501}, "PROMPT_TOO_LARGE"),
        ("echo", {"message": "x" * 900}, "RUN_TOO_LARGE"),  # chunks of three characters
        ("function", {"message": "x" * 401}, "OUTPUT_TOO_LARGE"),
        ("function", {"message": "x" * 5_000}, "PROMPT_TOO_LARGE"),
        ("steps", {"message": "x" * 3_000}, "RUN_TOO_LARGE"),
        (
            "echo",
            {"message": "a", "blockOverrides": {"a": {"prompt": "{{message}}" * 6_000}}},
            "PROMPT_TOO_LARGE",
        ),
    ]
    for number, (flow, body, code) in enumerate(cases):
        response = limited.post(f"tests/{flow}/execute", body, f"case-{number}")
        assert code_of(response) == (422, code), (flow, body)
        [execution] = limited.session(f"case-{number}")
        assert (execution["status"], execution["errorAtStep"]) == (
            "failed",
            execution["errorAtStep"],
        )
        assert execution["error"]["code"] == code
        assert len(limited.get(f"/seq/sessions/case-{number}").content) < 3 * LIMITS.max_run_bytes


def test_run_below_size_limits_completes(limited: Backend) -> None:
    loop = {"message": "x" * 50, "parameters": {"items": [1] * 20}}
    assert limited.post("tests/loop/execute", loop).json()["status"] == "completed"
    assert limited.post("tests/function/execute", {"message": "x" * 390}).status_code == 200


def test_run_size_counts_over_step_calls(limited: Backend) -> None:
    events = limited.step("tests/steps", {"message": "x" * 3_000})
    execution_id = events[0]["executionId"]
    for index in range(1, 6):
        body = {"executionId": execution_id, "stepIndex": index}
        events = parse(limited.post("tests/steps/step", body).text)
        if events[-1]["eventType"] == "step_error":
            break
    assert events[-1]["error"]["code"] == "RUN_TOO_LARGE"


def test_run_size_counts_tool_pauses(tmp_path: Path) -> None:
    sizes = SizeLimits(max_run_bytes=20_000)
    with serving(tmp_path, sizes=sizes) as backend:
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
        body = {"message": "Paris?", "tools": tools}
        pause = backend.post("samples/weather/execute", body).json()
        messages = answered(pause, "x" * 10_000)
        response = backend.post(
            "samples/weather/execute", resume_body(pause, toolCallMessages=messages)
        )
        assert code_of(response) == (422, "RUN_TOO_LARGE")


def test_job_beyond_queue_limit_is_refused_unless_it_is_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as backend:
        key = {"Idempotency-Key": "k"}
        first = backend.post("tests/three/jobs", MESSAGE, **key)
        monkeypatch.setattr(backend.service.queue_limit, "_of_org", 0)
        again = backend.post("tests/three/jobs", MESSAGE, **key)
        assert (again.status_code, again.json()) == (202, first.json())
        other = backend.post("tests/three/jobs", {"message": "other"}, **key)
        assert code_of(other) == (422, "IDEMPOTENCY_KEY_REUSED")
        new = backend.post("tests/three/jobs", MESSAGE, **{"Idempotency-Key": "new"})
        assert code_of(new) == (429, "QUEUE_FULL")
    with serving(tmp_path, max_pending_jobs=0) as backend:
        response = backend.post("tests/gated/jobs", MESSAGE)
        assert code_of(response) == (429, "QUEUE_FULL")
        assert response.headers["retry-after"] == "5"
        assert "of acme" in response.json()["detail"]["message"]
    with serving(tmp_path, max_pending_jobs_in_all=0) as backend:
        assert code_of(backend.post("tests/gated/jobs", MESSAGE)) == (429, "QUEUE_FULL")


@pytest.mark.anyio
async def test_queue_limit_counts_the_jobs_that_it_let_in_since_it_counted() -> None:
    counts: list[str | None] = []

    async def count(org: str | None, _most: int) -> int:
        counts.append(org)
        return 3

    limit = QueueLimit(count, of_org=5, in_all=100)
    await limit.admit("acme")
    await limit.admit("acme")
    with pytest.raises(RequestError, match="5 jobs of acme wait"):
        await limit.admit("acme")
    await limit.admit("other")
    assert counts == ["acme", None, "other"]


def test_large_body_is_parsed_beside_the_event_loop(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    parse_body = bodies.parse_body

    def noted(data: bytes, settings: Settings) -> bodies.Body:
        threads.append(threading.current_thread().name)
        return parse_body(data, settings)

    monkeypatch.setattr(bodies, "parse_body", noted)
    for items in (1, 100_000):
        body = {**MESSAGE, "parameters": {"items": [[]] * items}}
        assert fresh.post("samples/hello-world/execute", body).status_code == 200
    at_once, beside = threads
    assert (at_once == "AnyIO worker thread", beside) == (False, "AnyIO worker thread")
