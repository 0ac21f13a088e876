from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from noukai_sdk.errors import FlowExecutionError, FlowNotFoundError
from noukai_sdk.local.flow_files.catalog import BUNDLED, FlowCatalog
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.workflow.node import Node
from noukai_sdk.local.workflow.workflow import Workflow, WorkflowError

ONE_STEP = "steps:\n  - id: {id}\n    prompt: hi\n"


def write(root: Path, address: str, text: str) -> Path:
    path = root / f"{address}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new time for every write: two of them may fall into one tick of the clock.
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    return path


def flow_ids(catalog: FlowCatalog) -> list[str]:
    return [str(flow) for flow in catalog.all()]


@pytest.fixture
def catalog(tmp_path: Path) -> FlowCatalog:
    return FlowCatalog(tmp_path, bundled=False)


def test_the_bundled_flows_are_good() -> None:
    catalog = FlowCatalog()
    assert catalog.problems() == []
    assert flow_ids(catalog) == [
        "acme/samples/hello-world",
        "acme/samples/two-step",
        "acme/samples/weather",
        "acme/spelling/grade-3",
    ]
    assert [step.tools for step in catalog.get("acme", "samples", "weather").steps] == [True]
    assert {step.model for flow in catalog.all() for step in flow.steps} == {"offline"}


def test_another_model_can_be_the_default() -> None:
    flow = FlowCatalog(default_model="smollm2").get("acme", "samples", "two-step")
    assert [step.model for step in flow.steps] == ["smollm2", "smollm2"]


def test_a_directory_comes_before_those_after_it(tmp_path: Path) -> None:
    write(tmp_path / "one", "acme/samples/hello-world.yaml", ONE_STEP.format(id="mine"))
    write(tmp_path / "two", "acme/samples/hello-world.yaml", ONE_STEP.format(id="other"))
    catalog = FlowCatalog(tmp_path / "one", tmp_path / "two")
    assert catalog.get("acme", "samples", "hello-world").steps[0].id == "mine"
    assert flow_ids(catalog).count("acme/samples/hello-world") == 1


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert FlowCatalog(tmp_path / "missing", bundled=False).all() == []


def test_versions_have_files_of_their_own(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="draft"))
    write(tmp_path, "a/b/c.v3.yaml", ONE_STEP.format(id="third"))
    assert catalog.get("a", "b", "c").steps[0].id == "draft"
    assert catalog.get("a", "b", "c", 0).steps[0].id == "draft"
    third = catalog.get("a", "b", "c", 3)
    assert (third.steps[0].id, third.version) == ("third", 3)
    assert third.flow_id == catalog.get("a", "b", "c").flow_id
    assert [flow.version for flow in catalog.all()] == [None, 3]
    with pytest.raises(FlowNotFoundError, match="a/b/c in version 4"):
        catalog.get("a", "b", "c", 4)


@pytest.mark.parametrize(
    ("org", "project", "slug"),
    [
        ("a", "b", "missing"),
        ("..", "b", "c"),
        ("a", "..", "c"),
        ("a", "b", "../b/c"),
        ("a", "b", "c.yaml"),
        ("", "b", "c"),
        ("a", "b/..", "c"),
        ("a", "b", "c\0"),
    ],
)
def test_only_plain_names_are_looked_for(
    tmp_path: Path, catalog: FlowCatalog, org: str, project: str, slug: str
) -> None:
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="x"))
    with pytest.raises(FlowNotFoundError) as caught:
        catalog.get(org, project, slug)
    assert (caught.value.code, caught.value.status_code) == ("FLOW_NOT_FOUND", 404)


def test_a_changed_file_is_read_again_and_a_deleted_one_is_gone(
    tmp_path: Path, catalog: FlowCatalog
) -> None:
    path = write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="one"))
    first = catalog.get("a", "b", "c")
    assert catalog.get("a", "b", "c") is first
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="two"))
    assert catalog.get("a", "b", "c").steps[0].id == "two"
    path.unlink()
    with pytest.raises(FlowNotFoundError):
        catalog.get("a", "b", "c")
    assert catalog.all() == []


def test_the_last_good_version_goes_on_while_a_file_is_bad(
    tmp_path: Path, catalog: FlowCatalog
) -> None:
    write(tmp_path, "a/b/other.yaml", ONE_STEP.format(id="fine"))
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="good"))
    catalog.get("a", "b", "c")
    write(tmp_path, "a/b/c.yaml", "steps:\n  - id: [\n")
    assert catalog.get("a", "b", "c").steps[0].id == "good"
    assert catalog.get("a", "b", "other").steps[0].id == "fine"
    assert [problem.file for problem in catalog.problems()] == ["a/b/c.yaml"]
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="mended"))
    assert catalog.get("a", "b", "c").steps[0].id == "mended"
    assert catalog.problems() == []


def test_a_file_that_never_was_good_says_why(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.yaml", "steps:\n  - id: x\n    tempratur: 1\n")
    with pytest.raises(FlowExecutionError, match=r"a/b/c.yaml:3: steps\[0\].tempratur") as caught:
        catalog.get("a", "b", "c")
    assert caught.value.code == "INVALID_TREE"
    assert flow_ids(catalog) == []


@pytest.mark.parametrize("name", ["c.yml", "c d.yaml", "c.v0.yaml", "c.vx.yaml", "c.d.py"])
def test_a_file_of_another_name_is_a_problem(
    tmp_path: Path, catalog: FlowCatalog, name: str
) -> None:
    write(tmp_path, f"a/b/{name}", ONE_STEP.format(id="x"))
    assert [problem.file for problem in catalog.problems()] == [f"a/b/{name}"]
    assert "not <org>/<project>/<slug>.yaml" in str(catalog.problems()[0])


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path, catalog: FlowCatalog) -> None:
    path = write(tmp_path, "a/b/c.yaml", "")
    path.write_bytes(b"\xff\xfe\xff")
    (tmp_path / "a/b/d.yaml").mkdir()
    told = [str(problem) for problem in catalog.problems()]
    assert len(told) == 2
    assert all("cannot be read" in problem for problem in told)


PYTHON = """
from noukai_sdk.local import Node, Workflow

workflow = Workflow("From code", parameters={"tone": "dry"})
workflow.add_node(Node.agent("First", "Say {{message}}"))
workflow.add_node(Node.agent("Second", model="smollm2"))
workflow.connect("First", "Second")
"""


def test_a_python_file_holds_a_workflow(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.py", PYTHON)
    write(tmp_path, "a/b/_shared.py", "raise RuntimeError('is no flow')")
    flow = catalog.get("a", "b", "c")
    assert [step.id for step in flow.steps] == ["First", "Second"]
    assert [step.model for step in flow.steps] == ["offline", "smollm2"]
    assert flow.parameters == {"tone": "dry"}
    assert flow_ids(catalog) == ["a/b/c"]
    assert catalog.problems() == []


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("x = 1\n1 / 0\n", 2, "ZeroDivisionError"),
        ("def f(:\n", 1, "SyntaxError"),
        ("x = 1\nraise SystemExit(2)\n", 2, "SystemExit: 2"),
        (
            PYTHON + "from noukai_sdk.local.workflow.node import Agent\n"
            "workflow.add_node(Node('a', 'a', Agent(prompt=3)))\n",
            None,
            "the workflow cannot be checked: AttributeError",
        ),
        ("workflow = 3\n", None, "no Workflow under the name 'workflow'"),
        (PYTHON + "workflow.connect('First', 'Third')\n", None, "no node 'Third'"),
    ],
)
def test_a_bad_python_file_is_a_problem(
    tmp_path: Path, catalog: FlowCatalog, text: str, line: int | None, told: str
) -> None:
    write(tmp_path, "a/b/c.py", text)
    (problem,) = catalog.problems()
    assert problem.line == line
    assert told in problem.message


def test_a_module_that_exits_is_a_problem(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/_exit.py", "raise SystemExit(2)\n")
    write(tmp_path, "a/b/c.yaml", "steps: [{id: a, function: '_exit.py:f'}]")
    (problem,) = catalog.problems()
    assert "_exit.py fails: SystemExit: 2" in problem.message


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path, catalog: FlowCatalog) -> None:
    target = write(tmp_path, "elsewhere.txt", "steps: [{id: a}]")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.yaml").symlink_to(target)
    assert catalog.get("a", "b", "c").steps[0].id == "a"
    target.unlink()
    assert "cannot be read" in catalog.problems()[0].message
    assert catalog.get("a", "b", "c").steps[0].id == "a"
    (tmp_path / "a" / "b" / "c.yaml").unlink()
    assert catalog.all() == catalog.problems() == []


def test_models_can_be_checked(tmp_path: Path) -> None:
    text = "model: gtp\nsteps:\n  - {id: a, model: offline}\n  - id: b\n    model: opanai:x\n"
    write(tmp_path, "a/b/c.yaml", text)
    assert FlowCatalog(tmp_path, bundled=False).problems() == []
    checked = FlowCatalog(tmp_path, check_model=LlmConfig.from_spec)
    told = [(problem.line, problem.field) for problem in checked.problems()]
    assert told == [(1, "model"), (5, "steps[1].model")]
    assert "unknown model 'gtp': write 'offline'" in checked.problems()[0].message
    assert "acme/samples/two-step" in flow_ids(checked)


def test_a_yaml_file_hides_a_python_file_and_says_so(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.py", PYTHON)
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="yaml"))
    assert catalog.get("a", "b", "c").steps[0].id == "yaml"
    assert [str(problem) for problem in catalog.problems()] == [
        "a/b/c.py: not used: there is a .yaml file of the same name"
    ]


WITH_FUNCTION = "steps:\n  - id: x\n    function: _text.py:clean\n"


def test_functions_beside_a_flow_are_reloaded_with_it(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.yaml", WITH_FUNCTION)
    assert "_text.py is not there" in str(catalog.problems()[0])
    write(tmp_path, "a/b/_text.py", "def clean(text): return 1\n")
    assert catalog.problems() == []
    flow = catalog.get("a", "b", "c")
    assert flow.steps[0].work.call("") == 1
    write(tmp_path, "a/b/_text.py", "def clean(text): return 2\n")
    assert catalog.get("a", "b", "c").steps[0].work.call("") == 2
    write(tmp_path, "a/b/_text.py", "def clean(text: return 2\n")
    assert catalog.get("a", "b", "c").steps[0].work.call("") == 2
    assert "SyntaxError" in str(catalog.problems()[0])


def test_workflows_can_be_registered(catalog: FlowCatalog) -> None:
    workflow = Workflow("Mine")
    workflow.add_node(Node.agent("Only"))
    flow = catalog.register("a/b/c", workflow, capture_mode="off")
    assert catalog.get("a", "b", "c") is flow
    assert (flow.capture_mode, flow.steps[0].model) == ("off", "offline")
    assert catalog.register("a/b/c", workflow, version=2).version == 2
    assert [flow.version for flow in catalog.all()] == [None, 2]


@pytest.mark.parametrize("address", ["c", "a/b/c/d", "a//c", "a/b/c.d"])
def test_a_workflow_needs_a_full_address(catalog: FlowCatalog, address: str) -> None:
    with pytest.raises(ValueError, match="org/project/slug"):
        catalog.register(address, Workflow("x"))


def test_a_workflow_that_cannot_run_is_not_registered(catalog: FlowCatalog) -> None:
    with pytest.raises(WorkflowError):
        catalog.register("a/b/c", Workflow("empty"))
    assert catalog.all() == []


def test_bundled_files_can_be_copied_and_used(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED, tmp_path / "flows")
    catalog = FlowCatalog(tmp_path / "flows", bundled=False)
    assert flow_ids(catalog) == flow_ids(FlowCatalog())
