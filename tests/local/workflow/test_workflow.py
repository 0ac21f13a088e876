from __future__ import annotations

import pytest

from noukai_sdk.errors import NoukaiError
from noukai_sdk.local import Node, Workflow, WorkflowError
from tests.support.engine import workflow_of


def problems(workflow: Workflow) -> list[str]:
    return [str(problem) for problem in workflow.problems()]


def test_add_node_with_used_id_raises() -> None:
    with pytest.raises(ValueError, match="already"):
        workflow_of(Node.agent("a"), Node.agent("a"))


def test_connect_by_name_or_twice_is_one_connection_by_id() -> None:
    workflow = workflow_of(Node.agent("First one"), Node.agent("Second one"))
    workflow.connect("First one", "Second one")
    workflow.connect("First one", "Second one")
    assert workflow.nodes[1].needs == ("First-one",)
    assert [node.id for node in workflow.plan.nodes] == ["First-one", "Second-one"]


def test_plan_is_kept_until_the_workflow_changes() -> None:
    workflow = workflow_of(Node.agent("a"))
    assert workflow.plan is workflow.plan
    workflow.add_node(Node.agent("b"))
    assert len(workflow.plan.nodes) == 2
    workflow.connect("b", "a")
    assert [node.id for node in workflow.plan.nodes] == ["b", "a"]


def test_validate_workflow_with_many_faults_lists_all() -> None:
    workflow = workflow_of(
        Node.agent("a", "{{topic}} {{node.missing}}"),
        Node.agent("b"),
        Node.agent("behind"),
        Node.agent("lonely"),
        Node.transform("t", "nope"),
        edges="a>b b>a b>behind nobody>t t>nowhere",
    )
    with pytest.raises(WorkflowError) as caught:
        workflow.validate()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, NoukaiError)
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
        assert part in str(caught.value)
    assert len(caught.value.problems) == 8


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
def test_problems_of_invalid_node_name_its_field(node: Node, problem: str) -> None:
    workflow = workflow_of(
        Node.agent("a"),
        Node.condition("yes", "True"),
        node,
        Node.agent("b"),
        edges="a>yes yes>x x>b",
    )
    (listed,) = problems(workflow)
    assert listed.startswith("node 'x': ")
    assert problem in listed


def test_problems_of_invalid_graphs_are_listed() -> None:
    assert problems(Workflow("x")) == ["steps: there are no nodes: add at least one"]
    both_ways = workflow_of(Node.condition("c", "True"), Node.agent("a"), edges="c>a c!a")
    assert problems(both_ways) == []
    assert both_ways.nodes[1].when == {"c": (True, False)}
    unless_agent = workflow_of(Node.agent("a"), Node.agent("b"), edges="a!b")
    assert problems(unless_agent) == ["node 'b': needs: 'a' does not decide: it has no branches"]
    one_name = workflow_of(Node.agent("same", agent_id="a"), Node.agent("same", agent_id="b"))
    assert problems(one_name) == ["node 'b': name: an earlier node has the name 'same' too"]
    agents = [Node.agent(name) for name in "abcd"]
    two_cycles = workflow_of(*agents, edges="a>b b>a c>d d>c")
    assert [("wait for each other" in line) for line in problems(two_cycles)] == [True, True]
    # An unknown node does not hide the other problem.
    unknown = workflow_of(Node.agent("x"), Node.agent("y", "{{node.x}}"), edges="nobody>y y>x")
    assert len(problems(unknown)) == 2


def test_problems_of_valid_workflows_are_none() -> None:
    fields = workflow_of(
        Node.agent("json", output="json"),
        Node.agent("list", for_each="{{node.json.items}}"),
        Node.agent("end", "{{node.json.title}} {{node.list.0}} {{node.Named one.x}}"),
        Node.function("Named one", dict, node_id="f"),
        edges="json>list list>end f>end",
    )
    chain = [Node.agent("n0"), Node.agent("n1"), Node.agent("n2", "{{node.n0}}{{node.n1}}")]
    side_by_side = workflow_of(Node.agent("a"), Node.agent("b"))
    for workflow in (fields, workflow_of(*chain, edges="n0>n1 n1>n2"), side_by_side):
        assert problems(workflow) == []
        workflow.validate()


def test_validate_ten_thousand_nodes_in_a_row_passes() -> None:
    workflow = Workflow("large")
    for place in range(10_000):
        prompt = f"{{{{node.n{place - 1}}}}}" if place else "x"
        workflow.add_node(Node.agent(f"n{place}", prompt))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    workflow.validate()


def test_to_mermaid_has_shapes_and_labelled_branches() -> None:
    workflow = workflow_of(
        Node.agent('Say "hi" <b>', agent_id="end"),
        Node.condition("Long?", "len(input) > 3", node_id="long"),
        Node.function("Count", len),
        Node.transform("Loud", "uppercase", for_each="{{input}}"),
        edges="end>long long>Count long!Loud",
    )
    assert workflow.to_mermaid().splitlines() == [
        "flowchart TD",
        '    n0["Say #34;hi#34; #60;b#62;"]',
        '    n1{"Long?"}',
        '    n2[["Count"]]',
        '    n3[/"Loud (each)"/]',
        "    n0 --> n1",
        '    n1 -->|"yes"| n2',
        '    n1 -->|"no"| n3',
    ]


def test_validate_unknown_model_output_and_tool_are_problems() -> None:
    def positional(city: str, /) -> str:
        return city

    workflow = workflow_of(
        Node.agent("a", model="gpt-5", output="yaml"),  # type: ignore[arg-type]  # on purpose
        Node.agent("b", tools=[positional]),
    )
    found = problems(workflow)
    assert any("node 'a': model: unknown model 'gpt-5'" in text for text in found)
    assert "node 'a': output: 'yaml' is not one of 'text', 'json'" in found
    assert any("node 'b': tools: 'positional' cannot be a tool" in text for text in found)
