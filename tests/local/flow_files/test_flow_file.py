from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk.local.flow_files.flow_file import FlowFile, FlowFileError
from noukai_sdk.local.workflow.kinds import Agent, Condition, Function, Transform
from noukai_sdk.local.workflow.plan import Flow


def read(directory: Path, text: str) -> Flow:
    path = directory / "c.yaml"
    path.write_text(text)
    return FlowFile(path=path, file="a/b/c.yaml", org="a", project="b", slug="c").read()


def problems_in(directory: Path, text: str) -> list[str]:
    with pytest.raises(FlowFileError) as caught:
        read(directory, text)
    return [str(problem) for problem in caught.value.problems]


def characters(iterable: str) -> list[str]:
    return list(iterable)


FULL = """
description: All there is
capture: redacted
model: smollm2
parameters:
  tone: dry
steps:
  - id: split
    function: tests.local.flow_files.test_flow_file:characters
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


def test_flow_file_with_every_field_is_read(tmp_path: Path) -> None:
    flow = read(tmp_path, FULL)
    split, each, many, loud, ask, end = flow.steps
    assert flow.description == "All there is"
    assert (flow.capture_mode, flow.parameters) == ("redacted", {"tone": "dry"})
    assert split.work == Function(split.work.call, {"iterable": "{{message}}"})
    assert split.work.call.__name__ == "characters"
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
    assert (loud.work, loud.needs, loud.when) == (Transform("uppercase"), ("many",), {})
    assert (ask.needs, ask.when, ask.tools) == (("many",), {"many": (False,)}, True)
    assert ask.model == "offline"
    assert end.needs == ("loud", "ask")
    kinds = ["function", "agent", "condition", "transform", "agent", "transform"]
    assert [step.kind for step in flow.steps] == kinds


def test_flow_file_steps_out_of_order_are_sorted(tmp_path: Path) -> None:
    flow = read(tmp_path, "steps:\n  - {id: b, needs: [a]}\n  - {id: a, needs: []}\n  - {id: c}\n")
    assert [step.id for step in flow.steps] == ["a", "b", "c"]
    assert flow.steps[2].needs == ("a",)


@pytest.mark.parametrize("value", ["off", "'off'", "false"])
def test_flow_file_capture_off_needs_no_quotes(tmp_path: Path, value: str) -> None:
    assert read(tmp_path, f"capture: {value}\nsteps: [{{id: a}}]").capture_mode == "off"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ":1: steps: a flow file is a mapping with the key 'steps'"),
        ("- a", ":1: steps: a flow file is a mapping with the key 'steps'"),
        ("steps: []", ":1: steps: List should have at least 1 item"),
        ("model: 3\nsteps: [{id: a}]", ":1: model: Input should be a valid string"),
        ("capture: all\nsteps: [{id: a}]", ":1: capture: Input should be 'full'"),
        ("steps:\n  - id: a\n    prompt: 3", ":3: steps[0].prompt: Input should be"),
        (
            "steps:\n  - id: a\n    promt: x",
            ":3: steps[0].promt: unknown field `promt`: did you mean `prompt`?",
        ),
        ("stepz: 1\nsteps: [{id: a}]", ":1: stepz: unknown field `stepz`: did you mean `steps`?"),
        ("other: 1\nsteps: [{id: a}]", ":1: other: unknown field `other`"),
        ("steps:\n  - id: a\n    temperature: 3", ":3: steps[0].temperature: Input should be less"),
        ("steps:\n  - id: a\n    needs: b", ":3: steps[0].needs: Input should be"),
        ("steps:\n  - id: a b", ":2: steps[0].id: String should match pattern"),
        ("steps:\n  - prompt: a", ":2: steps[0].id: a step needs an id"),
        # Two nodes with one id are not reported as a cycle too.
        ("steps:\n  - id: a\n  - {id: a, name: b}", ":3: steps[1].id: an earlier node has the id"),
        (
            "steps:\n  - id: a\n    name: x\n  - id: b\n    name: x",
            ":5: steps[1].name: an earlier node has the name 'x' too",
        ),
        ("steps:\n  - id: a\n    needs: [b]", ":3: steps[0].needs: there is no node 'b'"),
        (
            "steps:\n  - {id: a, needs: [b]}\n  - {id: b, needs: [a]}",
            ":1: needs: these nodes wait for each other: a -> b -> a",
        ),
        (
            "steps:\n  - id: a\n    prompt: |\n      x\n      {{node.b}}",
            ":3: steps[0].prompt: {{node.b}}: there is no node of that name",
        ),
        ("steps:\n  - id: a\n    condition: 1 +", ":3: steps[0].condition: not a valid expression"),
        ("steps:\n  - id: a\n    transform: up", ":3: steps[0].transform: 'up' is not one of"),
        (
            "steps:\n  - id: a\n    transform: text\n    prompt: x",
            ":4: steps[0].prompt: 'prompt' is not allowed in a step with 'transform'",
        ),
        (
            "steps:\n  - id: a\n    arguments: {}",
            ":3: steps[0].arguments: 'arguments' is not allowed in a step that asks a model",
        ),
        (
            "steps:\n  - id: g\n    parallel: [{id: a}]",
            ":2: steps[0].id: 'id' is not allowed in a group",
        ),
        (
            "steps:\n  - parallel:\n      - parallel: [{id: a}]",
            ":3: steps[0].parallel[0].parallel: a group cannot contain a group",
        ),
        (
            "steps:\n  - parallel:\n      - id: a\n        prompt: '{{node.x}}'",
            ":4: steps[0].parallel[0].prompt: {{node.x}}: there is no node of that name",
        ),
        (
            "steps:\n  - id: a\n    function: nonesuch_module:f",
            ":3: steps[0].function: nonesuch_module cannot be imported",
        ),
        (
            "steps:\n  - id: a\n    function: tests.support.engine:nonesuch",
            "tests.support.engine has no function 'nonesuch'",
        ),
        ("steps:\n  - id: a\n    function: json", ":3: steps[0].function: write 'module:function'"),
        ("steps:\n  - id: a\n    function: _x.py:f", ":3: steps[0].function: _x.py does not exist"),
    ],
)
def test_flow_file_invalid_is_one_problem_with_line_and_field(
    tmp_path: Path, text: str, problem: str
) -> None:
    (listed,) = problems_in(tmp_path, text)
    assert listed.startswith("a/b/c.yaml:")
    assert problem in listed


def test_flow_file_with_several_problems_lists_all(tmp_path: Path) -> None:
    text = "steps:\n  - id: a\n    prompt: '{{x}}'\n  - id: b\n    prompt: '{{node.c}}'\n"
    assert [line.split(":")[1] for line in problems_in(tmp_path, text)] == ["3", "5"]


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
def test_flow_file_any_value_is_a_flow_or_has_problems(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    with contextlib.suppress(FlowFileError):
        assert read(tmp_path_factory.getbasetemp(), yaml.safe_dump({"steps": value})).steps


def test_flow_content_hash_covers_the_named_files_and_the_frozen_flow_does_not_read_them(
    tmp_path: Path,
) -> None:
    text = "steps: [{id: one, function: '_tools.py:shout'}]"
    (tmp_path / "_tools.py").write_text("def shout(x): return x + '!'")
    flow = read(tmp_path, text)
    assert read(tmp_path, text).content_hash == flow.content_hash
    (tmp_path / "_tools.py").write_text("def shout(x): return x + '?'")
    assert read(tmp_path, text).content_hash != flow.content_hash
    (tmp_path / "_tools.py").unlink()
    path = tmp_path / "c.v1.yaml"
    frozen = FlowFile(path, "c.v1.yaml", "a", "b", "c", version=1, frozen=flow.files).read()
    assert isinstance(frozen.steps[0].work, Function)
    assert frozen.steps[0].work.call("hey") == "hey!"
    assert frozen.content_hash == flow.content_hash
