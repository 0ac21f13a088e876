"""The executor: every way to run, settings, stats, models, event streams, tool handlers, pauses."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, LlmConfig, Node, Workflow, WorkflowError, WorkflowResult
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.runtime.runtime import shutdown
from tests.support.engine import GET_WEATHER, workflow_of
from tests.support.servers import wait_until

Runner = Callable[..., WorkflowResult]


@pytest.fixture(
    params=["execute", "run_async", "run_async on trio", "stream", "stream in a thread"]
)
def run(request: pytest.FixtureRequest) -> Runner:
    """Every way to run a workflow, as one blocking function."""

    def run(executor: Executor, workflow: Any, inputs: Any = None, **more: Any) -> WorkflowResult:
        async def run_async() -> WorkflowResult:
            try:
                return await executor.run_async(workflow, inputs, **more)
            finally:
                await executor.aclose()

        async def read_stream() -> WorkflowResult | None:
            stream = executor.execute_streaming(workflow, inputs, **more)
            async for _ in stream:
                pass
            return stream.result

        if request.param == "execute":
            return executor.execute(workflow, inputs, **more)
        if request.param == "run_async":
            return asyncio.run(executor.run_async(workflow, inputs, **more))
        if request.param == "run_async on trio":
            return anyio.run(run_async, backend="trio")
        if request.param == "stream":
            result = asyncio.run(read_stream())
        else:
            stream = executor.execute_streaming(workflow, inputs, **more)
            list(stream)
            result = stream.result
        assert result is not None
        return result

    return run


def hello() -> Workflow:
    return workflow_of(
        Node.agent("Hello", "Say {{message}}"),
        Node.transform("Loud", "uppercase", node_id="loud_id"),
        edges="Hello>loud_id",
    )


def hanging() -> Workflow:
    return workflow_of(Node.function("hang", anyio.sleep_forever))


def test_workflow_run_in_any_way_returns_same_result(run: Runner) -> None:
    inputs = {"message": "cats", "extra": 1}
    result = run(Executor(LlmConfig.offline()), hello(), inputs)
    assert (result.is_success(), result.state()) == (True, "completed")
    assert result.execution_time_ms() > 0
    text = result.get_node_output("Hello")
    assert text == "Cats."
    assert result.result == text.upper()
    assert result.get_node_output("Loud") == result.get_node_output("loud_id") == text.upper()
    assert result.get_variable("Loud") == result.get_variable("loud_id") == text.upper()
    assert result.outputs["loud_id"] == result.outputs.get("Loud")
    assert "loud_id" in result.outputs
    assert "none" not in result.outputs
    assert result.outputs.get("none", 4) == 4
    with pytest.raises(KeyError, match="no output of a node 'none'; there are 'Hello'"):
        result.outputs["none"]
    assert result.get_variable("extra") == 1
    assert (result.get_variable("none"), result.get_variable("none", 3)) == (None, 3)
    outputs = {"Hello": text, "Loud": text.upper()}
    assert result.get_all_node_outputs() == outputs
    assert result.get_all_variables() == {**inputs, **outputs}
    assert result.variables() == list(result.get_all_variables().items())
    assert inputs == {"message": "cats", "extra": 1}
    assert result.tokens is not None
    assert (result.tokens.total or 0) > 0
    assert result.cost_usd == "0"
    assert list(result.errors) == []
    result.raise_for_failure()
    flow = FlowCatalog().get("acme", "samples", "two-step")
    assert list(run(Executor(), flow, "cats").outputs) == ["Draft", "Polish"]


def test_failed_run_is_in_result_and_stats(run: Runner) -> None:
    executor = Executor()
    result = run(executor, workflow_of(Node.transform("first", "first")), {"message": []})
    assert result.is_failed()
    assert result.errors[0].node == "first"
    stats = executor.get_stats()
    assert (stats["total_executions"], stats["failed_executions"]) == (1, 1)


def test_workflow_or_inputs_not_valid_raise(run: Runner) -> None:
    with pytest.raises(WorkflowError):
        run(Executor(), Workflow("empty"))
    with pytest.raises(FlowExecutionError, match="no message"):
        run(Executor(), hello())
    with pytest.raises(TypeError, match="must be a Workflow or a Flow, not str"):
        run(Executor(), "acme/samples/hello-world")
    for inputs in (3, ["x"], object()):
        with pytest.raises(TypeError, match="inputs must be a mapping or a str"):
            run(Executor(), hello(), inputs)


def test_stats_count_every_way_to_run_until_reset() -> None:
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


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_concurrency": 0},
        {"retry": -1},
    ],
)
def test_settings_out_of_range_raise_and_change_nothing(settings: dict[str, Any]) -> None:
    executor = Executor(max_concurrency=1)
    name = next(iter(settings))
    with pytest.raises(ValueError, match=name):
        Executor(**settings)
    with pytest.raises(ValueError, match=name):
        executor.configure(**{"max_concurrency": 2, **settings})
    assert executor.get_execution_mode() == "sequential"


def test_settings_of_wrong_type_raise_type_error_without_the_value() -> None:
    key = "sk-secret"
    for settings in ({"timeout": key}, {"max_concurrency": key}, {"retry": None}, {"config": key}):
        with pytest.raises(TypeError, match=f"{next(iter(settings))} must be") as caught:
            Executor(**settings)  # type: ignore[arg-type]  # on purpose
        assert key not in str(caught.value)


def test_settings_take_effect_from_next_run_on(run: Runner) -> None:
    executor = Executor()
    assert executor.get_execution_mode() == "dataflow"
    executor.configure(timeout=0.05)
    assert [error.code for error in run(executor, hanging()).errors] == ["RUN_TIMEOUT"]

    errors = [OSError("first")]

    async def flaky() -> str:
        if errors:
            raise errors.pop()
        return "second"

    executor.configure(timeout=None)
    executor.configure(retry=1, max_concurrency=1)
    assert run(executor, workflow_of(Node.function("flaky", flaky))).result == "second"
    assert executor.get_execution_mode() == "sequential"


def test_debug_logs_every_step(caplog: pytest.LogCaptureFixture) -> None:
    try:
        Executor(debug=True).execute(hello(), "x")
        assert "step Hello took" in caplog.text
    finally:
        logging.getLogger("noukai_sdk.local.trace").setLevel(logging.NOTSET)


def test_executor_serves_many_threads() -> None:
    executor = Executor()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: executor.execute(hello(), f"m{n}"), range(40)))
    for number, result in enumerate(results):
        assert result.get_node_output("Hello") == f"M{number}."
    assert executor.get_stats()["total_executions"] == 40


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_execute_inside_running_loop_works(backend: str) -> None:
    async def main() -> WorkflowResult:
        return Executor().execute(hello(), "x")

    assert anyio.run(main, backend=backend).is_success()


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_first_run_imports_the_official_client_while_the_loop_goes_on(provider: str) -> None:
    code = f"""
import asyncio, sys, threading
from noukai_sdk.local import Executor, LlmConfig, Node, Workflow

class Importers:
    threads = set()
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {provider!r}:
            self.threads.add(threading.current_thread())

async def main():
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += {provider!r} in sys.modules and not run.done()
    workflow = Workflow("w")
    workflow.add_node(Node.agent("a", "Hi"))
    config = LlmConfig.{provider}("key", base_url="http://127.0.0.1:9", max_retries=0)
    run = asyncio.create_task(Executor(config).run_async(workflow))
    ticker = asyncio.create_task(tick())
    result = await run
    assert result.is_failed(), result
    assert ticks > 10, ticks
    assert Importers.threads and threading.main_thread() not in Importers.threads

sys.meta_path.insert(0, Importers())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_models_are_kept_between_runs_and_closed_with_loop(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_event_stream_yields_events_until_end_or_failure() -> None:
    events: list[Any] = list(Executor().execute_streaming(hello(), "x"))
    types = [event.type for event in events]
    assert types[:3] == ["run_started", "step_started", "step_input"]
    assert types[-1] == "flow_completed"
    assert types.count("step_completed") == 2
    assert events[0].step_count == 2
    events = list(Executor(timeout=0.05).execute_streaming(hanging()))
    assert (events[-1].type, events[-1].error.code) == ("step_error", "RUN_TIMEOUT")
    failing = workflow_of(Node.transform("f", "first"))
    events = list(Executor().execute_streaming(failing, {"message": []}))
    assert [event.type for event in events].count("step_error") == 1


def test_event_stream_left_early_stops_run() -> None:
    executor = Executor()
    for event in executor.execute_streaming(hanging()):
        if event.type == "step_started":
            break
    wait_until(lambda: executor.get_stats()["failed_executions"] == 1)

    async def main() -> None:
        stream = executor.execute_streaming(hanging())
        async for event in stream:
            if event.type == "step_input":
                break
        await stream.aclose()
        assert executor.get_stats()["failed_executions"] == 2
        assert stream.result is None

    asyncio.run(main())


def asking() -> Workflow:
    return workflow_of(Node.agent("ask", "{{message}}", tools=True))


def side_by_side() -> Workflow:
    return workflow_of(*(Node.agent(name, "{{message}}", tools=True) for name in "ab"))


def weather(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": {"c": 18}} for call in calls]


async def weather_async(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"role": "tool", "toolCallId": call["id"], "content": "18 C"} for call in calls]


@pytest.mark.parametrize("handler", [weather, weather_async, lambda calls: weather_async(calls)])
def test_tool_handler_answers_tool_calls(run: Runner, handler: Any) -> None:
    tools: dict[str, Any] = {"tools": [GET_WEATHER], "tool_handler": handler}
    result = run(Executor(), asking(), "weather in Paris and Rome", **tools)
    assert "Paris: " in result.result
    assert "Rome: " in result.result
    # With a handler, nodes that run side by side may have tools too.
    assert "Paris: " in run(Executor(), side_by_side(), "Paris", **tools).result["a"]
    types = [event.type for event in Executor().execute_streaming(asking(), "Paris", **tools)]
    assert "tool_calls_required" not in types


@pytest.mark.parametrize(
    ("results", "error"),
    [
        ([], "TOOL_RESULTS_MISMATCH"),
        ("text", "must be a list of dicts"),
        ([3], "a tool result must be a dict"),
        ([{"output": 1}], "needs the 'tool_call_id'"),
        ([{"tool_call_id": "x"}], "'x' needs 'output' or 'content'"),
        ([{"tool_call_id": "x", "output": 1}], "TOOL_RESULTS_MISMATCH"),
    ],
)
def test_tool_results_not_valid_fail_node(results: Any, error: str) -> None:
    result = Executor().execute(
        asking(), "Paris", tools=[GET_WEATHER], tool_handler=lambda calls: results
    )
    assert error in str(result.errors[0])


def test_tokens_and_cost_of_paused_run_are_the_sum_of_its_nodes() -> None:
    executor, workflow = Executor(), asking()
    first = executor.execute(workflow, "weather in Paris and Rome", tools=[GET_WEATHER])
    assert first.pause is not None
    assert first.tokens is not None  # the answer that asked for the tool was paid for
    second = executor.resume(workflow, first, weather(first.pause.tool_calls))
    assert second.pause is not None
    done = executor.resume(workflow, second, weather(second.pause.tool_calls))
    unpaused = Executor().execute(
        workflow, "weather in Paris and Rome", tools=[GET_WEATHER], tool_handler=weather
    )
    assert (done.tokens, done.cost_usd) == (unpaused.tokens, unpaused.cost_usd)
    assert done.tokens is not None
    details = [done.get_node_response_metadata(name) for name in done.names]
    used = [detail for detail in details if detail is not None]
    assert sum(detail["tokens"].total for detail in used) == done.tokens.total
    assert all(detail["model"] == "offline" and detail["latency_ms"] > 0 for detail in used)
    assert executor.get_stats()["total_tokens"] == done.tokens.total


def test_run_without_tool_handler_pauses_and_resumes(run: Runner) -> None:
    executor = Executor()
    first = run(executor, asking(), "weather in Paris and Rome", tools=[GET_WEATHER])
    assert (first.state(), first.is_paused(), first.result) == ("paused", True, None)
    assert first.pause is not None
    second = executor.resume(asking(), first, weather(first.pause.tool_calls))
    assert second.pause is not None
    done = asyncio.run(executor.resume_async(asking(), second, weather(second.pause.tool_calls)))
    assert done.is_success()
    assert "Rome: " in done.result
    with pytest.raises(ValueError, match="does not wait for tool results"):
        executor.resume(asking(), done, [])
    # A pause is a value: it can be resumed more than once.
    again = executor.resume(asking(), second, weather(second.pause.tool_calls))
    assert again.result == done.result
    with pytest.raises(FlowExecutionError, match="cannot wait for tools"):
        run(executor, side_by_side(), "Paris", tools=[GET_WEATHER])


def test_event_stream_resumed_inside_its_loop_goes_on() -> None:
    types: list[str] = []

    async def main() -> Any:
        message = "weather in Paris and Rome"
        stream = Executor().execute_streaming(asking(), message, tools=[GET_WEATHER])
        async for event in stream:
            types.append(event.type)
            if event.type == "tool_calls_required":
                await event.resume(tool_results=weather(event.tool_calls))
        return stream.result

    result = asyncio.run(main())
    assert types.count("tool_calls_required") == 2
    assert types.count("run_started") == 1
    assert types[-1] == "flow_completed"
    assert "Rome: " in result.result


@pytest.mark.parametrize(
    "test",
    ["{{node.my-step.answer}}", 'node["my-step"].answer', lambda value: value["answer"]],
    ids=["braces", "subscript", "function"],
)
def test_condition_on_the_text_false_skips_the_nodes_behind_it(test: Any) -> None:
    workflow = workflow_of(
        Node.function("my-step", lambda: {"answer": "False"}),
        Node.condition("check", test),
        Node.transform("yes", "uppercase"),
        edges="my-step>check check>yes",
    )
    result = Executor().execute(workflow, inputs="go")
    assert (result.outputs["check"], result.skipped) == (False, ["yes"])


def test_settings_have_the_names_of_graphbit_too() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionError("try again")

    workflow = workflow_of(Node.function("f", fail))
    executor = Executor(timeout_seconds=9.0)
    executor.configure(max_retries=1)
    assert executor.execute(workflow).is_failed()
    assert len(calls) == 2
    executor.configure(enable_metrics=False, max_retries=0)
    assert executor.execute(workflow).is_failed()
    assert executor.get_stats()["total_executions"] == 1
    executor.configure(timeout_seconds=0.01, enable_metrics=True)
    slow = workflow_of(Node.function("f", lambda: anyio.sleep(30)))
    (error,) = executor.execute(slow).errors
    assert (error.code, executor.get_stats()["total_executions"]) == ("RUN_TIMEOUT", 2)
    for both in ({"timeout": 1, "timeout_seconds": 1}, {"retry": 1, "max_retries": 1}):
        with pytest.raises(ValueError, match="not both"):
            executor.configure(**both)  # type: ignore[arg-type]  # two kinds of values
    with pytest.raises(ValueError, match="max_retries must be 0 or more"):
        executor.configure(max_retries=-1)


def test_lightweight_executor_fails_at_once_and_counts_nothing() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionError("try again")

    executor = Executor(lightweight_mode=True, retry=3)
    assert executor.execute(workflow_of(Node.function("f", fail, retry=3))).is_failed()
    assert (len(calls), executor.get_execution_mode()) == (1, "lightweight")
    assert executor.get_stats()["total_executions"] == 0


def test_messages_of_the_inputs_are_the_chat_before_the_message() -> None:
    history = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello, Ada."},
    ]
    workflow = workflow_of(Node.agent("a", "{{message}}"))
    events = Executor().execute_streaming(workflow, {"messages": history, "message": "And now?"})
    (sent,) = [event.input_data["messages"] for event in events if event.type == "step_input"]
    assert sent == [*history, {"role": "user", "content": "And now?"}]
    with pytest.raises(TypeError, match="must be a list of turns"):
        Executor().execute(workflow, {"messages": "hi"})
