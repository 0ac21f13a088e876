"""OpenTelemetry in the backend and the engine: runs go on with the trace of their caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from noukai_sdk import FlowExecutionError, Noukai
from noukai_sdk.local import Executor, LlmConfig, Node, Workflow
from tests.support.servers import wait_until
from tests.support.spans import Spans, attributes, parent_of, provider_set

from .backends import ASKS_WEATHER, Backend, serving


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    with provider_set(monkeypatch) as spans:
        yield spans


@pytest.fixture
def backend(tmp_path: Path, spans: Spans) -> Iterator[Backend]:
    with serving(tmp_path) as backend:
        yield backend


@pytest.fixture
def client(backend: Backend) -> Iterator[Noukai]:
    url = f"{backend.url}/api/v1"
    with Noukai("nk_dev", base_url=url, org="acme", project="tests") as client:
        yield client


def tree(spans: Spans, root: ReadableSpan) -> list[str]:
    """Return the names of our spans below a span, each with its depth, in the order of their starts."""
    by_id = {span.context.span_id: span for span in spans.ended}

    def depth(span: ReadableSpan) -> int | None:
        count = 0
        while span.context.span_id != root.context.span_id:
            above = by_id.get(parent_of(span) or 0)
            if above is None:
                return None
            count += above.instrumentation_scope.name == "noukai_sdk"  # type: ignore[union-attr]  # the SDK sets it
            span = above
        return count

    ours = [s for s in spans.ended if s.instrumentation_scope.name == "noukai_sdk"]  # type: ignore[union-attr]  # the SDK sets it
    ours.sort(key=lambda span: span.start_time or 0)
    return [f"{'  ' * level}{span.name}" for span in ours if (level := depth(span)) is not None]


THREE = [
    "invoke_workflow acme/tests/three",
    "  run acme/tests/three",
    "    step one",
    "      chat offline",
    "    step two",
    "      chat offline",
    "    step three",
    "      chat offline",
]


def test_execute_and_stream_have_spans_of_run_steps_and_models_in_callers_trace(
    client: Noukai, spans: Spans
) -> None:
    result = client.flow("three").execute("hi")
    # The span of a request ends a moment after its client has the response.
    wait_until(lambda: len(tree(spans, spans.call)) == len(THREE))
    assert tree(spans, spans.call) == THREE
    (run,) = spans.named("run ")
    values = attributes(run)
    assert values["noukai.execution.id"] == result.execution_id
    assert values["noukai.outcome"] == "completed"
    chat = attributes(spans.named("chat")[0])
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.usage.output_tokens"] > 0

    for _ in client.flow("three").events("hi", run_remaining=True):
        pass
    wait_until(lambda: len(tree(spans, spans.calls[1])) == len(THREE))
    assert tree(spans, spans.calls[1]) == THREE


def test_job_goes_on_with_trace_of_its_submission(client: Noukai, spans: Spans) -> None:
    job = client.flow("three").execute_async("hi")
    job.wait(timeout=30, poll_interval=0.05)
    wait_until(lambda: len(tree(spans, spans.call)) == len(THREE))
    assert tree(spans, spans.call) == THREE


def test_failed_run_and_its_step_are_errors_and_pause_is_none(
    client: Noukai, backend: Backend, spans: Spans
) -> None:
    with pytest.raises(FlowExecutionError):
        client.flow("broken").execute("hi")
    wait_until(lambda: spans.named("run "))
    (run,) = spans.named("run ")
    assert run.status.status_code is StatusCode.ERROR
    assert attributes(run)["noukai.outcome"] == "failed"
    assert spans.named("step bad")[0].status.status_code is StatusCode.ERROR
    assert spans.named("step good")[0].status.status_code is StatusCode.UNSET

    paused = client.flow("asks").execute(ASKS_WEATHER["message"], tools=ASKS_WEATHER["tools"])
    assert paused.status == "tool_calls_required"
    wait_until(lambda: len(spans.named("run ")) == 2)
    run = spans.named("run ")[1]
    assert attributes(run)["noukai.outcome"] == "paused"
    assert run.status.status_code is StatusCode.UNSET
    assert spans.named("step ask")[0].status.status_code is StatusCode.UNSET


def test_run_of_executor_has_spans_under_current_one(spans: Spans) -> None:
    seen: list[Any] = []

    def look(message: str) -> str:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return message

    workflow = Workflow("greet")
    first = workflow.add_node(Node.function("look", look))
    workflow.connect(first, workflow.add_node(Node.agent("write", "Write: {{node.look}}")))
    executor = Executor(LlmConfig.offline())
    with closing(executor), spans.start("program"):
        assert executor.execute(workflow, {"message": "hi"}).is_success()
    (program,) = spans.named("program")
    assert tree(spans, program) == [
        "invoke_workflow",
        "  step look",
        "  step write",
        "    chat offline",
    ]
    assert seen == [spans.named("step look")[0].context.span_id]


def test_run_of_executor_without_provider_makes_no_span(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = Workflow("greet")
    workflow.add_node(Node.agent("write", "Write something"))
    executor = Executor(LlmConfig.offline())
    with monkeypatch.context() as patch, closing(executor):
        patch.setattr("opentelemetry.trace._TRACER_PROVIDER", None)
        executor.execute(workflow)
    assert spans.ended == []
