"""Steps that run other flows: by name, written in place, and again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, WorkflowResult
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.llm.errors import LlmConfigError

SHOUT = """
parameters: {mark: "!"}
steps:
  - {id: loud, transform: uppercase}
  - {id: end, function: "_marks.py:mark", arguments: {text: "{{input}}", mark: "{{parameters.mark}}"}}
"""
MARKS = "def mark(text, mark): return text + mark\n"
ALL_KINDS = """
steps:
  - id: kind
    route: "{{message}}"
    branches: [bug, yes, 3]
    default: other
  - id: whole
    needs: [{kind: [bug, 3]}]
    flow: shout
    inputs: {mark: "?"}
  - id: each
    needs: [{kind: yes}]
    flow:
      - {id: words, transform: words}
      - {id: loud, for_each: "{{input}}", flow: acme/p/shout, on_error: keep}
    inputs: {message: "{{input}} and more"}
  - id: again
    needs: [{kind: other}]
    repeat: {transform: "{{input}}{{parameters.round}}"}
    until: "len(output) > 8"
    at_most: 5
    on_limit: keep
  - id: end
    needs: [whole, each, again]
    transform: "{{node.whole}}{{node.each}}{{node.again}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "shout.yaml", SHOUT)
    write(tmp_path, "_marks.py", MARKS)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / "acme" / "p" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def catalog_of(folder: Path, **settings: Any) -> FlowCatalog:
    return FlowCatalog(folder, bundled=False, **settings)


def run(catalog: FlowCatalog, message: str, slug: str = "all") -> WorkflowResult:
    result = Executor().execute(catalog.get("acme", "p", slug), inputs=message)
    result.raise_for_failure()
    return result


def test_flow_file_with_routes_flows_and_repetitions_runs(folder: Path) -> None:
    write(folder, "all.yaml", ALL_KINDS)
    catalog = catalog_of(folder)
    assert catalog.problems() == []
    assert run(catalog, "Bug.").result == "BUG.?"
    assert run(catalog, "yes").outputs["each"] == ["YES!", "AND!", "MORE!"]
    assert run(catalog, "hello").result == "hello1234"
    assert [step.kind for step in catalog.get("acme", "p", "all").steps] == [
        *("route", "flow", "flow", "repeat", "transform"),
    ]


def test_inner_flow_that_changes_or_breaks_changes_its_flow(folder: Path) -> None:
    write(folder, "all.yaml", "steps: [{id: one, flow: ../p/shout.yaml}]")
    catalog = catalog_of(folder)
    assert run(catalog, "a").result == "A!"
    write(folder, "_marks.py", "def mark(text, mark): return text + mark * 2\n")
    assert run(catalog, "a").result == "A!!"
    write(folder, "shout.yaml", "steps: [{id: up, transform: upp}]")
    assert run(catalog, "a").result == "A!!"  # the last good version
    inner = "acme/p/shout.yaml:1: steps[0].transform: 'upp' is not one of"
    outer_problem, inner_problem = map(str, catalog.problems())
    assert outer_problem.startswith(f"acme/p/all.yaml:1: steps[0].flow: {inner}")
    assert inner_problem.startswith(inner)
    write(folder, "shout.yaml", "steps: [{id: low, transform: lowercase}]")
    assert run(catalog, "A").result == "a"


def test_published_version_has_inner_flows_as_they_were(folder: Path) -> None:
    write(folder, "middle.yaml", "steps: [{id: one, flow: shout}]")
    write(folder, "all.yaml", "steps: [{id: one, flow: middle}, {id: two, flow: shout}]")
    flow = catalog_of(folder).get("acme", "p", "all")
    assert flow.files is not None
    for name in ("shout.yaml", "middle.yaml", "_marks.py"):
        (folder / "acme" / "p" / name).unlink()
    frozen = FlowCatalog(folder, bundled=False).frozen(
        "acme", "p", "all", 1, flow.files, flow.model or ""
    )
    assert frozen.content_hash == flow.content_hash
    assert Executor().execute(frozen, inputs="a").result == "A!!"


def test_flows_that_run_each_other_are_a_problem_of_each(folder: Path) -> None:
    write(folder, "a.yaml", "steps:\n  - id: one\n    flow: b\n")
    write(
        folder, "b.yaml", "steps: [{id: one, repeat: [{id: x, flow: a}], until: '1', at_most: 1}]"
    )
    first, second = map(str, catalog_of(folder).problems())
    end = "these flows run each other:"
    a, b = "acme/p/a.yaml:3: steps[0].flow", "acme/p/b.yaml:1: steps[0].repeat[0].flow"
    assert first == f"{a}: {b}: {end} a -> b -> a"
    assert second == f"{b}: {a}: {end} b -> a -> b"


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (
            "flow: nonesuch",
            ":3: steps[0].flow: there is no flow nonesuch: nonesuch.yaml does not exist",
        ),
        (
            "flow: ../../../etc/x.yaml",
            ":3: steps[0].flow: ../../../etc/x.yaml is not in the flow folder",
        ),
        ("flow: a/b", ":3: steps[0].flow: 'a/b' is not a flow: write 'slug'"),
        ("flow: 3", ":3: steps[0].flow: Input should be a valid string"),
        ("flow: []", ":3: steps[0].flow: List should have at least 1 item"),
        (
            "flow:\n    - {id: x, promt: y}",
            ":4: steps[0].flow[0].promt: unknown field `promt`: did you",
        ),
        (
            "flow:\n    - {id: x, transform: up}",
            ":4: steps[0].flow[0].transform: 'up' is not one of",
        ),
        (
            "flow: [{id: x, prompt: '{{node.y}}'}]",
            ":3: steps[0].flow[0].prompt: {{node.y}}: there is no",
        ),
        ("flow: [{prompt: y}]", ":3: steps[0].flow[0].id: a step needs an id"),
        ("repeat: {prompt: x}", ":3: steps[0].repeat: a step with 'repeat' needs 'until' too"),
        (
            "repeat: {prompt: x, at_most: 2}\n    at_most: 1\n    until: '1'",
            "steps[0].repeat.at_most: 'at",
        ),
        ("repeat: {promt: x}", ":3: steps[0].repeat.promt: unknown field `promt`"),
        ("repeat: {prompt: x}\n    until: x +\n    at_most: 2", ":4: steps[0].until: not a valid"),
        (
            "repeat: {prompt: x}\n    until: '1'\n    at_most: 0",
            ":5: steps[0].at_most: Input should be",
        ),
        ("approval: '{{oops}}'", ":3: steps[0].approval: {{oops}} does not start with one of"),
        ("route: input", ":3: steps[0].route: a step with 'route' needs 'branches' too"),
        (
            "route: input\n    branches: [a, A.]",
            ":4: steps[0].branches: node 'a': two branches read 'a'",
        ),
        ("route: input\n    branches: [[a]]", ":4: steps[0].branches[0]"),
        ("prompt: x\n    needs: [{b: []}]", ":4: steps[0].needs: there is no node 'b'"),
        (
            "prompt: x\n    needs: [{b: {c: d}}]",
            ":4: steps[0].needs[0].b: A branch is a text, a number",
        ),
        (
            "prompt: x\n    on_error: stop",
            ":4: steps[0].on_error: Input should be 'fail' or 'keep'",
        ),
    ],
)
def test_step_that_runs_others_with_a_fault_is_a_problem_with_line_and_field(
    folder: Path, step: str, problem: str
) -> None:
    write(folder, "all.yaml", f"steps:\n  - id: a\n    {step}\n")
    first, *_ = map(str, catalog_of(folder).problems())
    assert problem in first.removeprefix("acme/p/all.yaml")


def test_flows_nested_too_deep_are_a_problem(folder: Path) -> None:
    for number in range(30):
        write(folder, f"f{number}.yaml", f"steps: [{{id: x, flow: f{number + 1}}}]")
    write(folder, "f30.yaml", "steps: [{id: x, transform: uppercase}]")
    catalog = catalog_of(folder)
    assert run(catalog, "a", "f10").result == "A"
    with pytest.raises(FlowExecutionError, match="nested more than 20 deep"):
        catalog.get("acme", "p", "f9")
    steps = "{id: x, transform: uppercase}"
    for _ in range(25):
        steps = f"{{id: x, flow: [{steps}]}}"
    write(folder, "inline.yaml", f"steps: [{steps}]")
    with pytest.raises(FlowExecutionError, match="nested more than 20 deep"):
        catalog.get("acme", "p", "inline")


def test_unknown_branch_in_flow_file_names_the_branches(folder: Path) -> None:
    text = "steps:\n  - {id: r, route: input, branches: [a, b]}\n  - {id: x, needs: [{r: c}]}"
    write(folder, "all.yaml", text)
    (problem,) = catalog_of(folder).problems()
    assert str(problem) == (
        "acme/p/all.yaml:3: steps[1].needs: 'r' has no branch 'c'; there are 'a', 'b'"
    )


def test_models_of_inner_flows_are_checked_and_default_to_the_outer_one(folder: Path) -> None:
    write(folder, "ask.yaml", "steps: [{id: ask}, {id: own, model: nonesuch}]")
    write(folder, "all.yaml", "model: outer\nsteps: [{id: one, flow: ask}]")

    def check(name: str) -> None:
        if name == "nonesuch":
            raise LlmConfigError("unknown")

    assert "steps[0].flow: acme/p/ask.yaml:1: steps[1].model: unknown" in str(
        catalog_of(folder, check_model=check).problems()[0]
    )
    (node,) = catalog_of(folder).get("acme", "p", "all").steps
    assert [step.model for step in node.work.plan.nodes] == ["outer", "nonesuch"]  # type: ignore[union-attr]  # its type is known here
