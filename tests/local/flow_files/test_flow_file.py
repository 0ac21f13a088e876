from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk.local.flow_files.flow_file import FlowFile, FlowFileError
from noukai_sdk.local.workflow.node import Agent, Condition, Function, Transform
from noukai_sdk.local.workflow.plan import Flow


def read(directory: Path, text: str) -> Flow:
    path = directory / "c.yaml"
    path.write_text(text)
    return FlowFile(path=path, file="a/b/c.yaml", org="a", project="b", slug="c").read()


def told(directory: Path, text: str) -> list[str]:
    with pytest.raises(FlowFileError) as caught:
        read(directory, text)
    return [str(problem) for problem in caught.value.problems]


FULL = """
description: All there is
capture: redacted
model: smollm2
parameters:
  tone: dry
steps:
  - id: split
    function: builtins:list
    arguments: {iterable: "{{message}}"}
    retry: 2
    timeout: 1.5
  - id: each
    name: Each one
    prompt: "{{item}} {{parameters.tone}}"
    system: Short.
    for_each: "{{node.split}}"
    concurrency: 3
    temperature: 0.5
    max_tokens: 20
    output: json
  - id: many
    condition: len(input) > 1
  - parallel:
      - id: loud
        transform: uppercase
      - id: ask
        model: offline
        tools: true
        max_tool_iterations: 2
        needs: [not many]
  - id: end
    transform: join
"""


def test_every_field_is_read(tmp_path: Path) -> None:
    flow = read(tmp_path, FULL)
    split, each, many, loud, ask, end = flow.steps
    assert (flow.description, flow.capture_mode, flow.parameters) == (
        "All there is",
        "redacted",
        {"tone": "dry"},
    )
    assert split.work == Function(list, {"iterable": "{{message}}"})
    assert (split.retry, split.timeout, split.needs) == (2, 1.5, ())
    assert each.work == Agent(
        prompt="{{item}} {{parameters.tone}}",
        model="smollm2",
        system="Short.",
        temperature=0.5,
        max_tokens=20,
        output="json",
    )
    assert (each.name, each.for_each, each.concurrency) == ("Each one", "{{node.split}}", 3)
    assert (many.work, many.needs) == (Condition("len(input) > 1"), ("each",))
    assert (loud.work, loud.needs, loud.unless) == (Transform("uppercase"), ("many",), frozenset())
    assert (ask.needs, ask.unless, ask.tools, ask.model) == (("many",), {"many"}, True, "offline")
    assert end.needs == ("loud", "ask")
    assert [step.kind for step in flow.steps] == [
        "function",
        "agent",
        "condition",
        "transform",
        "agent",
        "transform",
    ]


def test_steps_may_stand_in_any_order(tmp_path: Path) -> None:
    flow = read(tmp_path, "steps:\n  - {id: b, needs: [a]}\n  - {id: a, needs: []}\n  - {id: c}\n")
    assert [step.id for step in flow.steps] == ["a", "b", "c"]
    assert flow.steps[2].needs == ("a",)


@pytest.mark.parametrize("value", ["off", "'off'", "false"])
def test_capture_off_needs_no_quotes(tmp_path: Path, value: str) -> None:
    assert read(tmp_path, f"capture: {value}\nsteps: [{{id: a}}]").capture_mode == "off"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a/b/c.yaml:1: steps: a flow file is a mapping with the key 'steps'"),
        ("- a", "a/b/c.yaml:1: steps: a flow file is a mapping with the key 'steps'"),
        ("steps:\n  - id: [", "no YAML"),
        ("steps: [{id: a}]\n---\nsteps: []", "no YAML"),
        ("steps:\n  - id: !!python/object:os.system x", "a/b/c.yaml:2: no YAML"),
        ("steps: []", "a/b/c.yaml:1: steps: List should have at least 1 item"),
        ("model: 3\nsteps: [{id: a}]", "a/b/c.yaml:1: model: Input should be a valid string"),
        ("capture: all\nsteps: [{id: a}]", "a/b/c.yaml:1: capture: Input should be 'full'"),
        ("steps:\n  - id: a\n    prompt: 3", "a/b/c.yaml:3: steps[0].prompt: Input should be"),
        ("steps:\n  - id: a\n    promt: x", "a/b/c.yaml:3: steps[0].promt: Extra inputs"),
        ("steps:\n  - id: a\n    temperature: 3", "steps[0].temperature: Input should be less"),
        ("steps:\n  - id: a\n    needs: b", "a/b/c.yaml:3: steps[0].needs: Input should be"),
        ("steps:\n  - id: a b", "a/b/c.yaml:2: steps[0].id: String should match pattern"),
        ("steps:\n  - prompt: a", "a/b/c.yaml:2: steps[0].id: a step needs an id"),
        ("steps:\n  - id: a\n  - id: a", "a/b/c.yaml:3: steps[1].id: an earlier node has the id"),
        (
            "steps:\n  - id: a\n    name: x\n  - id: b\n    name: x",
            "a/b/c.yaml:5: steps[1].name: an earlier node has the name 'x' too",
        ),
        ("steps:\n  - id: a\n    needs: [b]", "a/b/c.yaml:3: steps[0].needs: there is no node 'b'"),
        (
            "steps:\n  - {id: a, needs: [b]}\n  - {id: b, needs: [a]}",
            "these nodes wait for each other: a -> b -> a",
        ),
        (
            "steps:\n  - id: a\n    prompt: |\n      x\n      {{node.b}}",
            "a/b/c.yaml:3: steps[0].prompt: {{node.b}}: there is no node of that name",
        ),
        ("steps:\n  - id: a\n    condition: 1 +", "a/b/c.yaml:3: steps[0].condition: not a valid"),
        ("steps:\n  - id: a\n    transform: up", "a/b/c.yaml:3: steps[0].transform: 'up' is not"),
        (
            "steps:\n  - id: a\n    transform: text\n    prompt: x",
            "a/b/c.yaml:4: steps[0].prompt: 'prompt' has no place in a step with 'transform'",
        ),
        (
            "steps:\n  - id: a\n    arguments: {}",
            "steps[0].arguments: 'arguments' has no place in a step that asks a model",
        ),
        (
            "steps:\n  - id: g\n    parallel: [{id: a}]",
            "a/b/c.yaml:2: steps[0].id: 'id' has no place in a group",
        ),
        (
            "steps:\n  - parallel:\n      - parallel: [{id: a}]",
            "a/b/c.yaml:3: steps[0].parallel[0].parallel: a group cannot hold a group",
        ),
        (
            "steps:\n  - parallel:\n      - id: a\n        prompt: '{{node.x}}'",
            "a/b/c.yaml:4: steps[0].parallel[0].prompt: {{node.x}}: there is no node of that name",
        ),
        (
            "steps:\n  - id: a\n    function: nonesuch_module:f",
            "a/b/c.yaml:3: steps[0].function: nonesuch_module cannot be imported",
        ),
        ("steps:\n  - id: a\n    function: json:nonesuch", "json has no function 'nonesuch'"),
        ("steps:\n  - id: a\n    function: json", "write 'module:function'"),
        ("steps:\n  - id: a\n    function: _x.py:f", "_x.py is not there"),
    ],
)
def test_a_bad_file_is_told_with_line_and_field(tmp_path: Path, text: str, problem: str) -> None:
    assert any(problem in line for line in told(tmp_path, text)), told(tmp_path, text)


def test_nodes_of_one_id_are_no_cycle(tmp_path: Path) -> None:
    lines = told(tmp_path, "steps:\n  - id: a\n  - id: a")
    assert not [line for line in lines if "wait for each other" in line]


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "steps:\n  - id: a\n    prompt: '{{x}}'\n  - id: b\n    prompt: '{{node.c}}'\n"
    assert [line.split(":")[1] for line in told(tmp_path, text)] == ["3", "5"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "prompt", "needs", "steps", "parallel", "for_each"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
@example({"steps": [{"id": "a", "for_each": "{{input}}", "needs": ["not a"]}]})
def test_any_value_is_a_flow_or_told(tmp_path_factory: Any, value: Any) -> None:
    import yaml

    directory = tmp_path_factory.getbasetemp()
    with contextlib.suppress(FlowFileError):
        assert read(directory, yaml.safe_dump({"steps": value})).steps
