from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk.errors import NoukaiError
from noukai_sdk.local.workflow.node import Node
from noukai_sdk.local.workflow.workflow import Workflow, WorkflowError


def workflow_of(*nodes: Node, edges: list[tuple[str, str]] | None = None) -> Workflow:
    workflow = Workflow("test")
    for node in nodes:
        workflow.add_node(node)
    for source, target in edges or []:
        workflow.connect(source, target)
    return workflow


def told(workflow: Workflow) -> list[str]:
    return [str(problem) for problem in workflow.problems()]


def test_ids_come_from_names_or_are_given() -> None:
    assert Node.agent("Data Analyzer (v2)!").id == "Data-Analyzer-v2"
    assert Node.agent("Größe 大").id == "Größe-大"
    assert Node.agent("x", agent_id="given").id == "given"
    assert Node.transform("x", "text", node_id="given").id == "given"


def test_kinds_models_and_tools_of_nodes() -> None:
    assert Node.function("f", len).kind == "function"
    assert Node.condition("c", "True").model is None
    assert Node.agent("a", tools=True).tools
    assert not Node.agent("a", tools=[len]).tools


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Node.agent("!!"), "must have a letter or a digit"),
        (lambda: Node.agent("a", temperature=2.5), "temperature must be 0 to 2"),
        (lambda: Node.agent("a", max_tokens=0), "max_tokens must be 1 or more"),
        (lambda: Node.agent("a", max_tool_iterations=0), "max_tool_iterations must be 1"),
        (lambda: Node.agent("a", retry=-1), "retry must be 0 or more"),
        (lambda: Node.function("a", len, timeout=0), "timeout must be more than 0"),
        (lambda: Node.function("a", len, concurrency=0), "concurrency must be 1 or more"),
        (lambda: Node.function("a", len, concurrency=1.5), "concurrency must be 1 .*, not 1.5"),
        (lambda: Node.function("a", len, timeout="1"), "timeout must be more than 0 .*, not '1'"),
        (lambda: Node.agent("a", temperature="1"), "temperature must be 0 to 2, not '1'"),
        (lambda: Node.agent("a", retry="1"), "retry must be 0 or more, not '1'"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_is_named_once() -> None:
    from noukai_sdk.local.llm.config import LlmConfig

    with pytest.raises(ValueError, match="not both"):
        Node.agent("a", model="offline", llm_config=LlmConfig.offline())
    assert Node.agent("a", llm_config=LlmConfig.ollama("x")).model == "ollama:x"


def test_a_function_must_be_callable() -> None:
    with pytest.raises(TypeError, match="must be callable"):
        Node.function("f", 3)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda wrong: Node.agent(wrong), "name must be a str, not int"),
        (lambda wrong: Node.agent("n", wrong), "node 'n': prompt must be a str, not int"),
        (lambda wrong: Node.agent("n", system_prompt=wrong), "system_prompt must be a str"),
        (lambda wrong: Node.agent("n", agent_id=wrong), "id must be a str, not int"),
        (lambda wrong: Node.agent("n", for_each=wrong), "for_each must be a str, not int"),
        (lambda wrong: Node.agent("n", tools=[len, wrong]), "a tool must be callable, not 3"),
        (lambda wrong: Node.condition("n", wrong), "expression must be a str, not int"),
        (lambda wrong: Node.transform("n", wrong), "transformation must be a str, not int"),
    ],
)
def test_texts_must_be_texts(make: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        make(3)


def test_an_id_can_be_added_once() -> None:
    with pytest.raises(ValueError, match="already"):
        workflow_of(Node.agent("a"), Node.agent("a"))


def test_a_good_workflow_has_no_problems() -> None:
    workflow = workflow_of(Node.agent("a"), Node.agent("b", "{{node.a}}"), edges=[("a", "b")])
    assert workflow.validate() is None
    assert workflow.problems() == []


def test_every_problem_is_listed_at_once() -> None:
    workflow = workflow_of(
        Node.agent("a", "{{topic}} {{node.missing}}"),
        Node.agent("b"),
        Node.agent("behind"),
        Node.agent("lonely"),
        Node.transform("t", "nope"),
        edges=[("a", "b"), ("b", "a"), ("b", "behind"), ("nobody", "t"), ("t", "nowhere")],
    )
    with pytest.raises(WorkflowError) as caught:
        workflow.validate()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, NoukaiError)
    text = str(caught.value)
    for part in (
        "there is no node 'nowhere' to connect to",
        "node 'lonely': connect: it is unreachable",
        "these nodes wait for each other: a -> b -> a",
        "node 'a': prompt: {{topic}} does not start with one of",
        "node 'a': prompt: {{node.missing}}: there is no node of that name",
        "node 't': transform: 'nope' is not one of",
        "node 't': needs: there is no node 'nobody'",
        "node 'behind': needs: it can never run",
    ):
        assert part in text
    assert len(caught.value.problems) == 8


def test_an_empty_workflow_is_a_problem() -> None:
    assert told(Workflow("x")) == ["steps: there are no nodes: add at least one"]


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (Node.agent("x", "{{node.b}}"), "that node may not have run by then"),
        (Node.agent("x", "{{node.a.title}}"), "that node's output has no fields"),
        (Node.agent("x", "{{node.yes.title}}"), "that node's output has no fields"),
        (Node.agent("x", "{{item}}"), "only in a node with for_each"),
        (Node.agent("x", for_each="{{item}}"), "only in a node with for_each"),
        (Node.agent("x", for_each="all of {{input}}"), "not one reference to a list"),
        (Node.agent("x", system_prompt="{{oops}}"), "system: {{oops}}"),
        (Node.function("x", lambda a, b: 0), "needs more than one argument"),
        (Node.function("x", len, arguments={"a": ["{{oops}}"]}), "arguments: {{oops}}"),
        (Node.condition("x", "input +"), "condition: not a valid expression"),
        (Node.condition("x", "{{oops}} == 1"), "condition: {{oops}}"),
        (Node.transform("x", "{{oops}}"), "transform: {{oops}}"),
    ],
)
def test_a_bad_node_is_told(node: Node, problem: str) -> None:
    workflow = workflow_of(
        Node.agent("a"),
        Node.condition("yes", "True"),
        node,
        Node.agent("b"),
        edges=[("a", "yes"), ("yes", "x"), ("x", "b")],
    )
    assert any(problem in line and "'x'" in line for line in told(workflow)), told(workflow)


def test_unknown_needs_do_not_hide_other_problems() -> None:
    workflow = workflow_of(
        Node.agent("x"), Node.agent("y", "{{node.x}}"), edges=[("nobody", "y"), ("y", "x")]
    )
    assert len(told(workflow)) == 2


def test_outputs_with_fields_may_be_referred_to_by_field() -> None:
    workflow = workflow_of(
        Node.agent("json", output="json"),
        Node.agent("list", for_each="{{node.json.items}}"),
        Node.agent("end", "{{node.json.title}} {{node.list.0}} {{node.Named one.x}}"),
        Node.function("Named one", dict, node_id="f"),
        edges=[("json", "list"), ("list", "end"), ("Named one", "end")],
    )
    assert workflow.problems() == []


def test_a_reference_may_skip_generations() -> None:
    nodes = [Node.agent("n0"), Node.agent("n1"), Node.agent("n2", "{{node.n0}}{{node.n1}}")]
    assert workflow_of(*nodes, edges=[("n0", "n1"), ("n1", "n2")]).problems() == []


def test_a_node_that_needs_a_condition_both_ways_can_never_run() -> None:
    workflow = workflow_of(Node.condition("c", "True"), Node.agent("a"))
    workflow.connect("c", "a")
    workflow.connect("c", "a", when=False)
    assert told(workflow) == [
        "node 'a': needs: 'c' is needed twice; a node that needs both ways can never run"
    ]


def test_only_conditions_come_out_false() -> None:
    workflow = workflow_of(Node.agent("a"), Node.agent("b"))
    workflow.connect("a", "b", when=False)
    assert told(workflow) == ["node 'b': needs: 'a' is not a condition: it cannot come out false"]


def test_cycles_are_told_one_by_one() -> None:
    nodes = [Node.agent(name) for name in "abcd"]
    edges = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    cycles = [line for line in told(workflow_of(*nodes, edges=edges)) if "wait for each" in line]
    assert len(cycles) == 2


def test_nodes_without_any_edges_may_all_run_side_by_side() -> None:
    assert workflow_of(Node.agent("a"), Node.agent("b")).problems() == []


def test_names_that_are_used_twice_are_told() -> None:
    workflow = workflow_of(Node.agent("same", agent_id="a"), Node.agent("same", agent_id="b"))
    assert told(workflow) == ["node 'b': name: an earlier node has the name 'same' too"]


def test_connecting_twice_is_once_and_names_will_do() -> None:
    workflow = workflow_of(Node.agent("First one"), Node.agent("Second one"))
    workflow.connect("First one", "Second one")
    workflow.connect("First one", "Second one")
    assert workflow.nodes[1].needs == ("First-one",)
    assert [node.id for node in workflow.plan.nodes] == ["First-one", "Second-one"]


def test_the_plan_is_made_anew_after_a_change() -> None:
    workflow = workflow_of(Node.agent("a"))
    before = workflow.plan
    assert workflow.plan is before
    workflow.add_node(Node.agent("b"))
    assert len(workflow.plan.nodes) == 2
    workflow.connect("b", "a")
    assert [node.id for node in workflow.plan.nodes] == ["b", "a"]


def test_a_node_runs_alone_where_all_others_come_before_or_after() -> None:
    nodes = [Node.agent(name) for name in ["start", "left", "right", "end"]]
    edges = [("start", "left"), ("start", "right"), ("left", "end"), ("right", "end")]
    plan = workflow_of(*nodes, edges=edges).plan
    assert [plan.runs_alone(node) for node in plan.nodes] == [True, False, False, True]


def test_ten_thousand_nodes_in_a_row_are_no_trouble() -> None:
    workflow = Workflow("large")
    for place in range(10_000):
        prompt = f"{{{{node.n{place - 1}}}}}" if place else "x"
        workflow.add_node(Node.agent(f"n{place}", prompt))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    workflow.validate()


def test_the_picture_has_shapes_and_answers() -> None:
    workflow = workflow_of(
        Node.agent('Say "hi" <b>', agent_id="end"),
        Node.condition("Long?", "len(input) > 3"),
        Node.function("Count", len),
        Node.transform("Loud", "uppercase", for_each="{{input}}"),
        edges=[("end", "Long?"), ("Long?", "Count")],
    )
    workflow.connect("Long?", "Loud", when=False)
    assert workflow.to_mermaid().splitlines() == [
        "flowchart TD",
        '    n0["Say #34;hi#34; #60;b#62;"]',
        '    n1{"Long?"}',
        '    n2[["Count"]]',
        '    n3[/"Loud (each)"/]',
        "    n0 --> n1",
        "    n1 -->|yes| n2",
        "    n1 -->|no| n3",
    ]
