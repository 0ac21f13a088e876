from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, LlmConfig, Node, Workflow, WorkflowError, WorkflowResult
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.runtime.runtime import shutdown
from noukai_sdk.models.events import StreamEvent
from tests.support.engine import GET_WEATHER, workflow_of
from tests.support.servers import wait_until

Runner = Any


@pytest.fixture(params=["execute", "run_async", "stream", "stream in a thread"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Every way to run a workflow, as one blocking function."""

    def run(executor: Executor, workflow: Any, inputs: Any = None, **more: Any) -> WorkflowResult:
        if request.param == "execute":
            return executor.execute(workflow, inputs, **more)
        if request.param == "run_async":
            return asyncio.run(executor.run_async(workflow, inputs, **more))
        if request.param == "stream":
            return asyncio.run(drained(executor, workflow, inputs, **more))
        stream = executor.execute_streaming(workflow, inputs, **more)
        list(stream)
        assert stream.result is not None
        return stream.result

    return run


async def drained(executor: Executor, *args: Any, **more: Any) -> WorkflowResult:
    stream = executor.execute_streaming(*args, **more)
    async for _ in stream:
        pass
    assert stream.result is not None
    return stream.result


def hello() -> Workflow:
    return workflow_of(
        Node.agent("Hello", "Say {{message}}"),
        Node.transform("Loud", "uppercase"),
        edges="Hello>Loud",
    )


def test_every_way_to_run_gives_the_same(run: Runner) -> None:
    result = run(Executor(LlmConfig.offline()), hello(), inputs={"message": "cats", "extra": 1})
    assert result.is_success()
    assert result.state() == "completed"
    assert result.execution_time_ms() > 0
    hello_text = result.get_node_output("Hello")
    assert 'Offline answer to "Say cats"' in hello_text
    assert result.result == hello_text.upper()
    assert result.get_variable("Loud") == hello_text.upper()
    assert result.get_variable("extra") == 1
    assert (result.get_variable("none"), result.get_variable("none", 3)) == (None, 3)
    assert result.get_all_variables() == {
        "message": "cats",
        "extra": 1,
        "Hello": hello_text,
        "Loud": hello_text.upper(),
    }
    assert result.variables() == list(result.get_all_variables().items())
    assert result.get_all_node_outputs() == {"Hello": hello_text, "Loud": hello_text.upper()}
    assert result.tokens is not None
    assert (result.tokens.total or 0) > 0
    assert result.cost_usd == "0"
    assert list(result.errors) == []
    result.raise_for_failure()


def test_outputs_are_found_by_name_and_by_id(run: Runner) -> None:
    workflow = workflow_of(Node.transform("The name", "text", node_id="the_id"))
    result = run(Executor(), workflow, "x")
    assert result.get_node_output("The name") == result.get_node_output("the_id") == "x"
    assert result.get_all_node_outputs() == {"The name": "x"}


def test_a_flow_runs_too(run: Runner) -> None:
    flow = FlowCatalog().get("acme", "samples", "two-step")
    result = run(Executor(), flow, "cats")
    assert list(result.outputs) == ["Draft", "Polish"]


def test_a_failure_is_in_the_result_and_in_the_stats(run: Runner) -> None:
    executor = Executor()
    result = run(executor, workflow_of(Node.transform("first", "first")), {"message": []})
    assert result.is_failed()
    assert result.errors[0].node == "first"
    stats = executor.get_stats()
    assert (stats["total_executions"], stats["failed_executions"]) == (1, 1)


def test_a_workflow_that_cannot_run_is_an_error(run: Runner) -> None:
    with pytest.raises(WorkflowError):
        run(Executor(), Workflow("empty"))
    with pytest.raises(FlowExecutionError, match="no message"):
        run(Executor(), hello())


@pytest.mark.parametrize("inputs", [3, ["x"], object()])
def test_inputs_are_a_mapping_or_a_text(inputs: Any) -> None:
    with pytest.raises(TypeError, match="inputs must be a mapping or a str"):
        Executor().execute(hello(), inputs)


def test_the_inputs_are_not_changed() -> None:
    inputs = {"message": "x"}
    Executor().execute(hello(), inputs)
    assert inputs == {"message": "x"}


def test_the_stats_count_both_ways() -> None:
    executor = Executor()
    assert executor.get_stats()["success_rate"] == 0
    executor.execute(hello(), "a")
    asyncio.run(executor.run_async(hello(), "b"))
    list(executor.execute_streaming(hello(), "c"))
    stats = executor.get_stats()
    assert (stats["total_executions"], stats["successful_executions"]) == (3, 3)
    assert stats["success_rate"] == 1.0
    assert stats["average_duration_ms"] == pytest.approx(stats["total_duration_ms"] / 3)
    assert stats["total_tokens"] > 0
    assert stats["total_cost_usd"] == "0"
    executor.reset_stats()
    assert executor.get_stats()["total_executions"] == 0


def test_only_workflows_and_flows_can_be_run() -> None:
    with pytest.raises(TypeError, match="must be a Workflow or a Flow, not str"):
        Executor().execute("acme/samples/hello-world")  # type: ignore[arg-type]  # on purpose, or known from the event's place


def test_settings_out_of_range_are_refused_and_change_nothing() -> None:
    executor = Executor(max_concurrency=1)
    for settings in (
        {"timeout": 0},
        {"timeout": "1"},
        {"max_concurrency": 0},
        {"max_concurrency": 1.5},
        {"retry": -1},
        {"retry": None},
    ):
        with pytest.raises(ValueError, match=next(iter(settings))):
            executor.configure(**settings)  # type: ignore[arg-type]  # on purpose, or known from the event's place
        with pytest.raises(ValueError, match=next(iter(settings))):
            Executor(**settings)  # type: ignore[arg-type]  # on purpose, or known from the event's place
    assert executor.get_execution_mode() == "sequential"


def test_settings_take_effect_from_the_next_run_on(run: Runner) -> None:
    executor = Executor()
    assert executor.get_execution_mode() == "dataflow"
    hanging = workflow_of(Node.function("hang", anyio.sleep_forever))
    executor.configure(timeout=0.05)
    assert [error.code for error in run(executor, hanging).errors] == ["RUN_TIMEOUT"]

    left = [OSError("first")]

    async def flaky() -> str:
        if left:
            raise left.pop()
        return "second"

    executor.configure(timeout=None, retry=1, max_concurrency=1)
    assert run(executor, workflow_of(Node.function("flaky", flaky))).result == "second"
    assert executor.get_execution_mode() == "sequential"


def test_debug_logs_every_step(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("noukai_sdk.local.trace")
    try:
        Executor(debug=True).execute(hello(), "x")
        assert "step Hello took" in caplog.text
    finally:
        logger.setLevel(logging.NOTSET)


def test_one_executor_serves_many_threads() -> None:
    executor = Executor()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: executor.execute(hello(), f"m{n}"), range(40)))
    for number, result in enumerate(results):
        assert f'"Say m{number}"' in result.get_node_output("Hello")
    assert executor.get_stats()["total_executions"] == 40


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_execute_works_inside_a_running_loop(backend: str) -> None:
    async def main() -> WorkflowResult:
        return Executor().execute(hello(), "x")

    assert anyio.run(main, backend=backend).is_success()


def test_models_are_kept_between_runs_and_closed_with_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from noukai_sdk.local.llm.providers.offline import OfflineModel

    opened: list[OfflineModel] = []
    closed: list[Any] = []

    class Counted(OfflineModel):
        def __init__(self) -> None:
            opened.append(self)

        async def aclose(self) -> None:
            closed.append(self)

    monkeypatch.setattr("noukai_sdk.local.llm.providers.offline.OfflineModel", Counted)
    shutdown()
    executor = Executor()
    executor.close()

    async def twice() -> None:
        await executor.run_async(hello(), "x")
        await executor.run_async(hello(), "x")

    asyncio.run(twice())
    assert (len(opened), closed) == (1, opened)
    asyncio.run(twice())
    assert (len(opened), closed) == (2, opened)
    executor.execute(hello(), "x")
    executor.execute(hello(), "x")
    assert (len(opened), len(closed)) == (3, 2)
    executor.close()
    executor.close()
    assert closed == opened

    async def closing() -> None:
        await executor.run_async(hello(), "x")
        await executor.aclose()
        await executor.aclose()
        assert closed == opened

    asyncio.run(closing())


def test_under_trio_models_are_closed_by_hand() -> None:
    async def main() -> None:
        executor = Executor()
        assert (await executor.run_async(hello(), "x")).is_success()
        await executor.aclose()

    anyio.run(main, backend="trio")


def test_a_stream_tells_what_a_flow_tells() -> None:
    events = list(Executor().execute_streaming(hello(), "x"))
    types = [event.type for event in events]
    assert types[0] == "run_started"
    assert types[-1] == "flow_completed"
    assert types[1:3] == ["step_started", "step_input"]
    assert types.count("step_completed") == 2
    assert events[0].step_count == 2  # type: ignore[union-attr]  # on purpose, or known from the event's place


def test_a_failed_stream_ends_with_the_failure() -> None:
    workflow = workflow_of(Node.function("hang", anyio.sleep_forever))
    events = list(Executor(timeout=0.05).execute_streaming(workflow))
    assert [event.type for event in events][-1] == "step_error"
    assert events[-1].error.code == "RUN_TIMEOUT"  # type: ignore[union-attr]  # on purpose, or known from the event's place
    events = list(
        Executor().execute_streaming(workflow_of(Node.transform("f", "first")), {"message": []})
    )
    assert [event.type for event in events].count("step_error") == 1


def hanging(stopped: threading.Event) -> Workflow:
    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    return workflow_of(Node.function("hang", hang))


def test_leaving_a_stream_early_stops_the_run() -> None:
    stopped = threading.Event()
    executor = Executor()
    for event in executor.execute_streaming(hanging(stopped)):
        if event.type == "step_started":
            break
    wait_until(lambda: executor.get_stats()["failed_executions"] == 1)

    async def main() -> None:
        stream = executor.execute_streaming(hanging(stopped))
        async for event in stream:
            if event.type == "step_input":
                break
        await stream.aclose()
        assert stopped.is_set()
        assert stream.result is None

    asyncio.run(main())


def test_cancelling_run_async_stops_the_run() -> None:
    stopped = threading.Event()

    async def main() -> None:
        with anyio.move_on_after(0.05):
            await Executor().run_async(hanging(stopped))

    asyncio.run(main())
    assert stopped.is_set()


def asking(**settings: Any) -> Workflow:
    return workflow_of(Node.agent("ask", "{{message}}", tools=True), **settings)


def weather(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": {"c": 18}} for call in calls]


async def weather_async(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "tool", "toolCallId": call["id"], "content": "18 C"} for call in calls]


@pytest.mark.parametrize("handler", [weather, weather_async, lambda calls: weather_async(calls)])
def test_a_handler_answers_tool_calls(run: Runner, handler: Any) -> None:
    result = run(
        Executor(), asking(), "weather in Paris and Rome", tools=[GET_WEATHER], tool_handler=handler
    )
    assert "Paris: " in result.result
    assert "Rome: " in result.result


def test_a_handler_may_answer_nodes_that_run_side_by_side() -> None:
    workflow = workflow_of(*(Node.agent(name, "{{message}}", tools=True) for name in "ab"))
    result = Executor().execute(workflow, "Paris", tools=[GET_WEATHER], tool_handler=weather)
    assert "Paris: " in result.result["a"]


def test_events_of_tool_calls_stay_inside_where_a_handler_answers() -> None:
    stream = Executor().execute_streaming(
        asking(), "Paris", tools=[GET_WEATHER], tool_handler=weather
    )
    assert "tool_calls_required" not in [event.type for event in stream]


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ([], "TOOL_RESULTS_MISMATCH"),
        ("text", "must be a list of dicts"),
        ([3], "a tool result must be a dict"),
        ([{"output": 1}], "needs the 'tool_call_id'"),
        ([{"tool_call_id": "x"}], "'x' needs 'output' or 'content'"),
        ([{"tool_call_id": "x", "output": 1}], "TOOL_RESULTS_MISMATCH"),
    ],
)
def test_wrong_results_fail_the_node(results: Any, told: str) -> None:
    result = Executor().execute(
        asking(), "Paris", tools=[GET_WEATHER], tool_handler=lambda calls: results
    )
    assert told in str(result.errors[0])


def test_without_a_handler_a_run_pauses_and_is_resumed(run: Runner) -> None:
    executor = Executor()
    result = run(executor, asking(), "weather in Paris and Rome", tools=[GET_WEATHER])
    assert (result.state(), result.is_paused(), result.result) == ("paused", True, None)
    assert result.pause is not None
    again = executor.resume(asking(), result, weather(result.pause.tool_calls))
    assert again.is_paused()
    assert again.pause is not None
    done = asyncio.run(executor.resume_async(asking(), again, weather(again.pause.tool_calls)))
    assert done.is_success()
    assert "Rome: " in done.result
    with pytest.raises(ValueError, match="the run is completed"):
        executor.resume(asking(), done, [])
    # A pause is a value: it can be gone on with more than once.
    assert executor.resume(asking(), again, weather(again.pause.tool_calls)).result == done.result


def test_a_node_that_does_not_run_alone_cannot_pause() -> None:
    workflow = workflow_of(*(Node.agent(name, "{{message}}", tools=True) for name in "ab"))
    with pytest.raises(FlowExecutionError, match="cannot wait for tools"):
        Executor().execute(workflow, "Paris", tools=[GET_WEATHER])


def test_a_stream_is_resumed_inside_its_loop() -> None:
    seen: list[StreamEvent] = []

    async def main() -> Any:
        stream = Executor().execute_streaming(
            asking(), "weather in Paris and Rome", tools=[GET_WEATHER]
        )
        async for event in stream:
            seen.append(event)
            if event.type == "tool_calls_required":
                await event.resume(tool_results=weather(event.tool_calls))
        return stream.result

    result = asyncio.run(main())
    types = [event.type for event in seen]
    assert types.count("tool_calls_required") == 2
    assert types.count("run_started") == 1
    assert types[-1] == "flow_completed"
    assert "Rome: " in result.result
