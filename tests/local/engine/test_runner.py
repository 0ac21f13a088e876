"""``run_flow``, as a service uses it: between calls the state goes through JSON, as in a database."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local.engine.runner import RunState, check_run, run_flow
from noukai_sdk.local.llm.chat import ChatDelta
from noukai_sdk.local.workflow.node import Node
from noukai_sdk.local.workflow.plan import Flow
from noukai_sdk.models.events import StreamEvent, TokenBreakdown
from tests.support.engine import (
    GET_WEATHER,
    FakeModel,
    FakeModels,
    last_text,
    run_steps,
    tool_call,
    workflow_of,
)

pytestmark = pytest.mark.anyio


def flow_of(*nodes: Node, edges: str = "", **settings: Any) -> Flow:
    return workflow_of(*nodes, edges=edges, **settings).as_flow("a", "b", "c", model="offline")


def chain(*names: str) -> Flow:
    edges = " ".join(f"{one}>{other}" for one, other in pairwise(names))
    return flow_of(*map(Node.agent, names), edges=edges)


def stored(state: RunState) -> RunState:
    return RunState(**json.loads(json.dumps(asdict(state))))


async def collect(
    flow: Flow, state: RunState, model: FakeModel | None = None, max_steps: int | None = None
) -> list[Any]:
    events: list[StreamEvent] = []
    with anyio.fail_after(20):
        steps = run_steps(flow, state, models=FakeModels(model or FakeModel()), max_steps=max_steps)
        async with aclosing(steps) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - kept if the stream fails half way
    return events


def types(events: list[Any]) -> list[str]:
    return [event.type for event in events]


async def test_flow_of_two_steps_emits_these_events() -> None:
    state = RunState("run-1", message="hi")
    model = FakeModel(lambda r: ["<", last_text(r), ">"])
    events = await collect(chain("one", "two"), state, model)
    assert types(events) == [
        *["step_started", "step_input", *["step_output"] * 3, "step_completed"] * 2,
        "flow_completed",
    ]
    started, step_input, *chunks, completed = events[:6]
    assert (started.step_id, started.name, started.step_index) == ("one", "one", 0)
    messages = [{"role": "user", "content": "hi"}]
    assert step_input.input_data == {"model": "fake", "messages": messages, "request": {}}
    assert [chunk.output_data for chunk in chunks] == ["<", "hi", ">"]
    assert (completed.output, completed.step_index) == ("<hi>", 0)
    assert completed.tokens == TokenBreakdown(prompt=3, completion=2, total=5)
    assert completed.duration_ms >= 0
    assert (events[11].step_index, events[11].output) == (1, "<<hi>>")
    assert (events[-1].execution_id, events[-1].result) == ("run-1", "<<hi>>")
    assert state.outputs == {"one": "<hi>", "two": "<<hi>>"}
    assert state.step_index == 2


async def test_step_input_event_has_settings_and_loop_index() -> None:
    def shout(text: str) -> str:
        return text.upper()

    node = Node.agent("a", for_each="{{message}}", temperature=0, tools=[shout])
    events = await collect(flow_of(node), RunState("e", message=["x", "y"]))
    places = [(event.type, event.loop_index) for event in events[1:-2]]
    assert places == [("step_input", 0), ("step_output", 0), ("step_input", 1), ("step_output", 1)]
    assert types(events).count("step_completed") == 1
    assert events[1].input_data["temperature"] == 0
    assert events[1].input_data["tools"][0]["function"]["name"] == "shout"


async def test_run_step_by_step_emits_same_events_as_at_once() -> None:
    flow = chain("one", "two", "three")
    at_once = await collect(flow, RunState("e", message="hi"))
    state, by_step = RunState("e", message="hi"), []
    for place in range(3):
        events = await collect(flow, state, max_steps=1)
        assert (types(events)[-1] == "flow_completed") is (place == 2)
        by_step += events
        assert state.step_index == place + 1
        state = stored(state)
    drop = {"duration_ms"}
    assert [e.model_dump(exclude=drop) for e in by_step] == [
        e.model_dump(exclude=drop) for e in at_once
    ]
    state = RunState("e", message="hi")
    events = await collect(flow, state, max_steps=2)
    assert (types(events)[-1], state.step_index) == ("step_completed", 2)
    # With no steps left, the run just completes.
    await collect(flow, state)
    for max_steps in (None, 1):
        (event,) = await collect(flow, state, max_steps=max_steps)
        assert event.result == "<<<hi>>>"


async def test_step_that_fails_ends_stream() -> None:
    for max_steps in (None, 3):
        state = RunState("e", message="hi")
        replies = iter(["fine", RuntimeError("boom")])
        model = FakeModel(lambda r, replies=replies: next(replies))
        events = await collect(chain("one", "two", "three"), state, model, max_steps)
        assert types(events)[-1] == "step_error"
        assert (events[-1].step_id, events[-1].error.code) == ("two", "STEP_FAILED")
        assert (state.step_index, state.outputs) == (1, {"one": "fine"})


@pytest.mark.parametrize("late_error", [None, OSError("late")])
async def test_step_that_ends_after_failure_emits_nothing(late_error: Exception | None) -> None:
    failed = anyio.Event()

    async def slow() -> str:
        with anyio.CancelScope(shield=True):
            await failed.wait()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
        if late_error is not None:
            raise late_error
        return "completed all the same"

    async def fail() -> None:
        failed.set()
        raise ValueError("first")

    flow = flow_of(Node.function("slow", slow), Node.function("fail", fail))
    events = await collect(flow, RunState("e", message="x"))
    assert types(events).index("step_error") == len(events) - 1
    assert "first" in events[-1].error.message


async def test_skipped_step_completes_without_output_and_is_counted() -> None:
    flow = flow_of(
        Node.condition("yes", "{{message}} == 'yes'"),
        Node.agent("then"),
        Node.agent("else"),
        Node.agent("end"),
        edges="yes>then yes!else then>end else>end",
    )
    state, events = RunState("e", message="no"), []
    while state.step_index < 4:
        events += await collect(flow, state, max_steps=1)
        state = stored(state)
    completed = [event for event in events if event.type == "step_completed"]
    assert [(e.step_id, e.step_index, e.skipped, e.output) for e in completed] == [
        ("yes", 0, None, False),
        ("then", 1, True, None),
        ("else", 2, None, "<no>"),
        ("end", 3, None, "<<no>>"),
    ]
    assert events[-1].result == "<<no>>"


def weather_model() -> FakeModel:
    """Return a model that asks for a tool until it has two results."""

    def reply(request: Any) -> Any:
        results = [turn["content"] for turn in request.messages if turn["role"] == "tool"]
        if len(results) == 2:
            return f"It is {' and '.join(results)}"
        usage = TokenBreakdown(prompt=10, completion=1, total=11)
        call = tool_call(call_id=f"call_{len(results)}")
        return ChatDelta(tool_calls=(call,), usage=usage)

    return FakeModel(reply)


async def test_run_resumed_after_tool_pause_goes_on_in_same_step() -> None:
    flow = flow_of(
        Node.agent("first"),
        Node.agent("ask", tools=True),
        Node.agent("last"),
        edges="first>ask ask>last",
    )
    state = RunState("e", message="hi", tools=[GET_WEATHER])
    asking = weather_model()
    plain = FakeModel()

    class Models:
        async def get(self, spec: Any) -> FakeModel:
            return asking if state.step_index == 1 else plain

    pauses, all_events = [], []
    while True:
        events = [event async for event in run_steps(flow, state, models=Models())]
        all_events += events
        if events[-1].type != "tool_calls_required":
            break
        pauses.append(events[-1])
        state = stored(state)
        result = {"role": "tool", "tool_call_id": events[-1].tool_calls[0]["id"], "content": "wet"}
        state.tool_messages = [*events[-1].tool_call_messages, result]

    assert [(p.step_id, p.step_index, p.iterations_used) for p in pauses] == [
        ("ask", 1, 1),
        ("ask", 1, 2),
    ]
    assert pauses[0].accumulated_outputs == {"first": "<hi>"}
    assert [turn["role"] for turn in pauses[1].tool_call_messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    answered = next(e for e in all_events if e.type == "step_completed" and e.step_id == "ask")
    assert answered.output == "It is wet and wet"
    # Two rounds that ended in a pause, and the last response.
    assert answered.tokens == TokenBreakdown(prompt=23, completion=4, total=27)
    assert all_events[-1].result == "<It is wet and wet>"
    assert (state.iterations_used, state.tool_messages) == (0, None)


async def test_tool_limit_counts_rounds_before_pause() -> None:
    flow = flow_of(Node.agent("ask", tools=True, max_tool_iterations=2))
    state = RunState("e", message="hi", tools=[GET_WEATHER], iterations_used=2)
    state.tool_messages = [{"role": "user", "content": "x"}]
    events = await collect(flow, state, FakeModel(lambda r: ChatDelta(tool_calls=(tool_call(),))))
    assert (events[-1].type, events[-1].error.code) == ("step_error", "TOOL_ITERATION_LIMIT")


@pytest.mark.parametrize(
    "ask",
    [Node.agent("ask", tools=True), Node.agent("ask", tools=True, for_each="{{message}}")],
)
async def test_tools_in_step_that_cannot_pause_raise(ask: Node) -> None:
    other = [Node.agent("other")] if ask.for_each is None else []
    flow = flow_of(ask, *other)
    state = RunState("e", message=["x"])
    assert len(check_run(flow, state).nodes) == len(flow.steps)
    state.tools = [GET_WEATHER]
    with pytest.raises(FlowExecutionError, match="cannot wait for tools") as caught:
        check_run(flow, state)
    assert caught.value.code == "TOOLS_IN_NON_SEQUENTIAL_STEP"


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (RunState("e", message="x", step_index=3), "INVALID_STEP_INDEX"),
        (RunState("e", message="x", step_index=-1), "INVALID_STEP_INDEX"),
        (RunState("e", message="x", step_index=1), "STALE_TREE"),
        (RunState("e"), "TEMPLATE_UNRESOLVED"),
        (
            RunState("e", message="x", block_overrides={"one": {"temperature": 9}}),
            "BLOCK_OVERRIDE_INVALID",
        ),
        (
            RunState("e", message="x", block_overrides={"one": {"prompt": "{{node.two}}"}}),
            "TEMPLATE_UNRESOLVED",
        ),
        (
            RunState("e", message="x", block_overrides={"one": {"prompt": "{{parameters.x}}"}}),
            "TEMPLATE_UNRESOLVED",
        ),
    ],
)
async def test_run_that_cannot_start_raises_before_any_event(state: RunState, code: str) -> None:
    with pytest.raises(FlowExecutionError) as caught:
        await collect(chain("one", "two"), state)
    assert (caught.value.code, caught.value.status_code) == (code, 400)


async def test_reference_in_completed_step_is_not_checked() -> None:
    flow = flow_of(Node.agent("one", "{{parameters.x}}"), Node.agent("two"), edges="one>two")
    state = RunState("e", step_index=1, outputs={"one": "from elsewhere"})
    events = await collect(flow, state)
    assert events[0].step_id == "two"
    assert events[-1].result == "<from elsewhere>"


async def test_parameters_of_call_replace_defaults() -> None:
    flow = flow_of(Node.agent("a", "{{parameters.x}}{{message}}"), parameters={"x": "default "})
    assert (await collect(flow, RunState("e", message="m")))[-1].result == "<default m>"
    state = RunState("e", message="m", parameters={"x": "own "})
    assert (await collect(flow, state))[-1].result == "<own m>"


async def test_block_overrides_replace_settings_and_ignore_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flow = flow_of(
        Node.agent("a", "old", system_prompt="old", temperature=1),
        Node.transform("t", "text"),
        edges="a>t",
    )
    overrides = {
        "a": {
            "prompt": "new {{message}}",
            "system": None,
            "temperature": 0.5,
            "maxTokens": 7,
            "model": None,
            "timeout": 60,
            "retry": 2,
            "unknown": 1,
        },
        "t": {"prompt": "no agent"},
        "step-id": {"temperature": 0.5},
    }
    model = FakeModel()
    await collect(flow, RunState("e", message="m", block_overrides=overrides), model)
    (request,) = model.requests
    assert request.messages == [{"role": "user", "content": "new m"}]
    assert (request.temperature, request.max_tokens) == (0.5, 7)
    assert "step-id" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "result"),
    [
        ({"one": "other"}, "join\n\na:\n<A other>\n\nb:\n<B <A other>>"),
        ({"a": "x"}, "join\n\na:\n<A x>\n\nb:\n<B <A x>>"),
        ({"b": {"any": 1}}, 'join\n\na:\n<A hi>\n\nb:\n<B {"any": 1}>'),
        ({"end": {"a": "only a"}}, "join\n\na:\nonly a\n\nb:\n<B <A hi>>"),
        ({"end": "no mapping"}, "join\n\na:\n<A hi>\n\nb:\n<B <A hi>>"),
    ],
)
async def test_input_overrides_replace_input_of_step(overrides: Any, result: str) -> None:
    flow = flow_of(
        Node.transform("one", "{{message}}"),
        Node.agent("a", "A {{node.one}}"),
        Node.agent("b", "B {{input}}"),
        Node.agent("end", "join"),
        edges="one>a a>b a>end b>end",
    )
    model = FakeModel()
    await collect(flow, RunState("e", message="hi", input_overrides=overrides), model)
    assert last_text(model.requests[-1]) == result


async def test_input_override_of_one_parent_reaches_references_to_it() -> None:
    flow = flow_of(
        Node.transform("a", "A{{parameters.x}}"),
        Node.transform("b", "B{{parameters.x}}"),
        Node.transform("end", "{{node.a}} {{node.b}}"),
        edges="a>end b>end",
    )
    state = RunState("e", parameters={"x": ""}, input_overrides={"end": {"b": "other"}})
    assert (await collect(flow, state))[-1].result == "A other"


def containing_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


async def test_outputs_become_json_or_fail_step() -> None:
    flow = flow_of(Node.function("f", lambda: {"path": Path("x"), "tuple": (1, 2)}))
    state = RunState("e")
    events = await collect(flow, state)
    assert events[-1].result == {"path": "x", "tuple": [1, 2]}
    assert stored(state).outputs == state.outputs
    for function in (object, containing_itself):
        events = await collect(flow_of(Node.function("f", function)), RunState("e"))
        assert events[-1].error.code == "OUTPUT_INVALID"


async def test_slow_listener_does_not_use_up_timeout() -> None:
    flow = flow_of(Node.agent("a", timeout=0.5))
    state = RunState("e", message="x")
    events = []
    async with aclosing(run_steps(flow, state, models=FakeModels(FakeModel()))) as stream:
        async for event in stream:
            events.append(event)
            if event.type == "step_input":
                await anyio.sleep(0.6)
    assert types(events)[-1] == "flow_completed"


async def test_emit_raises_stops_the_run_and_is_no_failure_of_the_step() -> None:
    model, types = FakeModel(), []

    async def emit(event: StreamEvent) -> None:
        types.append(event.type)
        if event.type == "step_output":
            raise OSError("nobody can take it")

    flow = flow_of(Node.agent("a", retry=3), Node.agent("b", retry=3))
    state = RunState("e", message="x")
    with pytest.raises(OSError, match="nobody can take it"):
        await run_flow(flow, state, models=FakeModels(model), emit=emit)
    assert (types.count("step_output"), types.count("step_failed")) == (1, 0)
    assert state.outputs == {}


async def test_stream_left_early_stops_model_and_starts_no_step() -> None:
    for last_type in ("step_output", "step_completed"):
        model = FakeModel(lambda r: ["chunk"] * 3)
        state = RunState("e", message="x")
        stream = run_steps(chain("one", "two"), state, models=FakeModels(model))
        async with aclosing(stream) as events:
            async for event in events:
                if event.type == last_type:
                    for _ in range(20):
                        await anyio.lowlevel.checkpoint()
                    break
        assert model.stopped == len(model.requests) == 1
