from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.local import Executor, Flow, Node, Workflow
from noukai_sdk.local.engine.runner import RunState
from noukai_sdk.local.flow_files.flow_file import FlowFile
from noukai_sdk.local.llm.pool import ModelPool
from tests.support.engine import GET_WEATHER, run_steps, workflow_of

pytestmark = pytest.mark.anyio


def chain() -> Workflow:
    return workflow_of(
        Node.agent("draft", "Write about {{message}}", temperature=0.7),
        Node.agent("polish", "Polish {{node.draft}}", system_prompt="Be {{parameters.tone}}"),
        edges="draft>polish",
        parameters={"tone": "kind"},
    )


CHAIN = """
parameters: {tone: kind}
steps:
  - id: draft
    prompt: Write about {{message}}
    temperature: 0.7
  - id: polish
    prompt: Polish {{node.draft}}
    system: Be {{parameters.tone}}
"""


def fan_out() -> Workflow:
    return workflow_of(
        Node.agent("start"),
        Node.agent("left", "Left of {{input}}"),
        Node.agent("right", "Right of {{input}}"),
        Node.agent("end", "Join"),
        edges="start>left start>right left>end right>end",
    )


FAN_OUT = """
steps:
  - id: start
  - parallel:
      - {id: left, prompt: "Left of {{input}}"}
      - {id: right, prompt: "Right of {{input}}"}
  - {id: end, prompt: Join}
"""


def condition() -> Workflow:
    return workflow_of(
        Node.condition("long", "len(input) > 3"),
        Node.agent("short answer"),
        Node.agent("long answer"),
        Node.transform("end", "uppercase"),
        edges="long!short-answer long>long-answer short-answer>end long-answer>end",
    )


CONDITION = """
steps:
  - {id: long, condition: len(input) > 3}
  - {id: short-answer, name: short answer, needs: [not long]}
  - {id: long-answer, name: long answer, needs: [long]}
  - {id: end, transform: uppercase, needs: [short-answer, long-answer]}
"""


def loop() -> Workflow:
    return workflow_of(
        Node.transform("words", "words"),
        Node.agent("each", "{{index}}. {{item}}", for_each="{{node.words}}", concurrency=2),
        Node.function("count", count),
        edges="words>each each>count",
    )


def count(items: list[str]) -> int:
    return len(items)


LOOP = """
steps:
  - {id: words, transform: words}
  - id: each
    prompt: "{{index}}. {{item}}"
    for_each: "{{node.words}}"
    concurrency: 2
  - {id: count, function: "tests.local.flow_files.test_file_and_code:count"}
"""


def tools() -> Workflow:
    return workflow_of(Node.agent("ask", tools=True), Node.agent("tell"), edges="ask>tell")


TOOLS = """
steps:
  - {id: ask, tools: true}
  - {id: tell}
"""

CASES = [
    pytest.param(chain, CHAIN, id="chain"),
    pytest.param(fan_out, FAN_OUT, id="fan-out"),
    pytest.param(condition, CONDITION, id="condition"),
    pytest.param(loop, LOOP, id="loop"),
    pytest.param(tools, TOOLS, id="tools"),
]
MESSAGE = "the weather in Paris and Rome"


def from_file(directory: Path, text: str) -> Flow:
    path = directory / "c.yaml"
    path.write_text(text)
    return FlowFile(path=path, file="c.yaml", org="a", project="b", slug="c").read()


def comparable(events: list[Any]) -> list[dict[str, Any]]:
    """Drop what differs between any two runs, and sort, so that the clock does not matter."""
    dumped = [
        event.model_dump(exclude={"duration_ms", "execution_id", "flow_id"}) for event in events
    ]
    return sorted(dumped, key=repr)


async def executed(flow: Workflow | Flow, has_tools: bool) -> list[Any]:
    events: list[Any] = []
    stream = Executor().execute_streaming(flow, MESSAGE, tools=[GET_WEATHER] if has_tools else [])
    async for event in stream:
        events.append(event)
        if event.type == "tool_calls_required":
            await event.resume(tool_results=results(event))
    assert stream.result is not None
    assert stream.result.is_success()
    return events


async def served(flow: Flow, has_tools: bool) -> list[Any]:
    """Run as the backend does: step calls over a stored state."""
    events: list[Any] = []
    state = RunState("e", message=MESSAGE, tools=[GET_WEATHER] if has_tools else None)
    models = ModelPool()
    while not events or events[-1].type != "flow_completed":
        steps = run_steps(flow, state, models=models, max_steps=1)
        events.extend([event async for event in steps])
        if events[-1].type == "tool_calls_required":
            state.tool_messages = [*events[-1].tool_call_messages, *results(events[-1])]
    return events


def results(event: Any) -> list[dict[str, Any]]:
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": "18 C"} for call in event.tool_calls
    ]


@pytest.mark.parametrize(("build", "text"), CASES)
async def test_flow_from_file_or_code_has_equal_events_and_picture(
    build: Callable[[], Workflow], text: str, tmp_path: Path
) -> None:
    has_tools = build is tools
    flow = from_file(tmp_path, text)
    by_code = await executed(build(), has_tools)
    by_file = await executed(flow, has_tools)
    assert comparable(by_file) == comparable(by_code)
    assert by_code[-1].type == "flow_completed"
    assert ("tool_calls_required" in [event.type for event in by_code]) is has_tools
    by_service = await served(flow, has_tools)
    assert comparable(by_service) == comparable([e for e in by_code if e.type != "run_started"])
    assert flow.to_mermaid() == build().to_mermaid()
