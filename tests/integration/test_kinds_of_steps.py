"""Routes, flows in flows and repetitions over HTTP: the real backend, called by the real client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from noukai_sdk import FlowExecutionError, Noukai, trace_scope_sync
from tests.support.servers import Server, serve_backend

FLOWS = {
    "acme/tests/all.yaml": """
        steps:
          - {id: kind, route: "{{message}}", branches: [bug, 3], default: other}
          - {id: fix, needs: [{kind: bug}], flow: fix, for_each: "{{parameters.words}}"}
          - {id: never, needs: [{kind: 3}], transform: uppercase}
          - id: again
            needs: [{kind: [bug, other]}]
            repeat: {prompt: "Make this shorter: {{input}}"}
            until: "round == 3"
            at_most: 3
          - {id: rounds, needs: [again], repeat: {transform: "{{input}}!"}, until: "round == 2", at_most: 2}
          - {id: end, needs: [fix, rounds, never], transform: "{{node.kind}} {{node.fix}} {{node.rounds}}"}
    """,
    "acme/tests/fix.yaml": "steps: [{id: up, transform: uppercase}, {id: mark, transform: '{{input}}!'}]",
    "acme/tests/stuck.yaml": """
        steps: [{id: again, repeat: {transform: "{{input}}."}, until: "round > 9", at_most: 2}]
    """,
    "acme/tests/asks.yaml": "steps: [{id: inner, flow: [{id: ask, approval: 'Send {{message}}?'}]}]",
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("backend")
    for name, text in FLOWS.items():
        path = folder / "flows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with serve_backend(folder, flows=folder / "flows") as server:
        yield server


@pytest.fixture
def client(
    backend: Server, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Noukai]:
    use_service(backend.api)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    with Noukai(org="acme", project="tests") as client:
        yield client


CALL: dict[str, Any] = {"message": "Bug.", "parameters": {"words": ["a", "b"]}}


def test_kinds_of_steps_run_the_same_in_every_way_of_calling_and_replay(client: Noukai) -> None:
    flow = client.flow("all")

    def call() -> list[Any]:
        result = flow.execute(**CALL).result
        rounds, results = [], []
        for event in flow.events(**CALL):
            if event.type == "step_input" and event.step_id == "again":
                rounds.append(event.input_data["round"])
            if event.type == "flow_completed":
                results.append(event.result)
        done = [event for event in flow.steps(**CALL) if event.type == "step_completed"]
        return [result, rounds, results, [(each.step_index, each.step_id) for each in done]]

    with trace_scope_sync(client=client) as capture:
        captured = call()
    result, rounds, results, steps = captured
    assert result.startswith('bug ["A!", "B!"] ')
    assert result.endswith("!!")
    assert (rounds, results) == ([1, 2, 3], [result])
    assert steps == [*enumerate(["kind", "fix", "never", "again", "rounds", "end"])]
    assert flow.execute_async(**CALL).wait(timeout=30, poll_interval=0.02).result == result
    with trace_scope_sync(client=client, replay_session_id=capture.session_id) as replay:
        assert call() == captured
    assert replay.session_id == capture.session_id


def test_rounds_are_recorded_with_their_inputs_and_outputs(client: Noukai, backend: Server) -> None:
    flow = client.flow("all")
    with trace_scope_sync(client=client) as capture:
        flow.execute(**CALL)
        with pytest.raises(FlowExecutionError, match="not true after 2 rounds") as error:
            client.flow("stuck").execute("x")
    assert error.value.code == "REPEAT_LIMIT"
    headers = {"Authorization": "Bearer nk_dev"}
    response = httpx.get(f"{backend.api}/seq/sessions/{capture.session_id}", headers=headers)
    first, second = response.json()["executions"]

    def rows(execution: dict[str, Any], step_id: str) -> list[tuple[Any, ...]]:
        return [
            (step["loopIndex"], step["status"], step["inputSnapshot"], step["outputSnapshot"])
            for step in execution["steps"]
            if step["stepId"] == step_id
        ]

    whole, *rounds = rows(first, "rounds")
    text = whole[2]["message"] if whole[2] else rounds[0][2]["message"]
    assert (whole[1], whole[3]) == ("completed", f"{text}!!")
    assert rounds == [
        (0, "completed", {"message": text, "round": 1}, f"{text}!"),
        (1, "completed", {"message": f"{text}!", "round": 2}, f"{text}!!"),
    ]
    assert [(row[0], row[1]) for row in rows(second, "again")] == [
        (None, "failed"),
        (0, "completed"),
        (1, "failed"),
    ]
    assert [step[1] for step in rows(first, "never")] == ["skipped"]
    [described] = [
        step
        for step in httpx.get(f"{backend.api}/flows/acme/tests/all", headers=headers).json()[
            "steps"
        ]
        if step["id"] == "again"
    ]
    assert (described["when"], described["atMost"]) == ({"kind": ["bug", "other"]}, 3)
    assert [step["kind"] for step in described["steps"]] == ["agent"]


def test_flow_with_approval_is_refused_before_it_runs(client: Noukai) -> None:
    # No call can give an approval: the protocol has none.
    asks = client.flow("asks")
    calls = (
        lambda: asks.execute("x"),
        lambda: list(asks.steps("x")),
        lambda: list(asks.events("x")),
        lambda: asks.execute_async("x"),
    )
    for call in calls:
        with pytest.raises(FlowExecutionError, match="waits for approvals") as error:
            call()
        assert (error.value.status_code, error.value.code) == (400, "APPROVALS_NOT_SUPPORTED")
