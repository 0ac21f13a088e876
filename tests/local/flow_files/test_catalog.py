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
PYTHON = """
from __future__ import annotations

from dataclasses import dataclass

from noukai_sdk.local import Node, Workflow


@dataclass
class Tone:
    name: str


workflow = Workflow("From code", parameters={"tone": Tone("dry").name})
workflow.add_node(Node.agent("First", "Say {{message}}"))
workflow.add_node(Node.agent("Second", model="smollm2"))
workflow.connect("First", "Second")
"""


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new time for every write: two of them may fall into one tick of the clock.
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    return path


def addresses(catalog: FlowCatalog) -> list[str]:
    return [str(flow) for flow in catalog.all()]


def problems(catalog: FlowCatalog) -> list[str]:
    return [str(problem) for problem in catalog.problems()]


@pytest.fixture
def catalog(tmp_path: Path) -> FlowCatalog:
    return FlowCatalog(tmp_path, bundled=False)


def test_bundled_flows_are_valid_and_can_be_copied(tmp_path: Path) -> None:
    shutil.copytree(BUNDLED, tmp_path / "flows")
    for catalog in (FlowCatalog(), FlowCatalog(tmp_path / "flows", bundled=False)):
        assert problems(catalog) == []
        assert addresses(catalog) == [
            "acme/samples/hello-world",
            "acme/samples/two-step",
            "acme/samples/weather",
            "acme/spelling/grade-3",
        ]
        assert [step.tools for step in catalog.get("acme", "samples", "weather").steps] == [True]
        assert {step.model for flow in catalog.all() for step in flow.steps} == {"offline"}


def test_default_model_given_is_used_by_steps_without_model() -> None:
    flow = FlowCatalog(default_model="smollm2").get("acme", "samples", "two-step")
    assert [step.model for step in flow.steps] == ["smollm2", "smollm2"]


def test_directories_with_one_address_first_wins(tmp_path: Path) -> None:
    write(tmp_path / "one", "acme/samples/hello-world.yaml", ONE_STEP.format(id="mine"))
    write(tmp_path / "two", "acme/samples/hello-world.yaml", ONE_STEP.format(id="other"))
    catalog = FlowCatalog(tmp_path / "missing", tmp_path / "one", tmp_path / "two")
    assert catalog.get("acme", "samples", "hello-world").steps[0].id == "mine"
    assert addresses(catalog).count("acme/samples/hello-world") == 1


def test_versions_are_read_from_their_own_files(tmp_path: Path, catalog: FlowCatalog) -> None:
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
    "address",
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
def test_get_unknown_or_unsafe_address_raises_not_found(
    tmp_path: Path, catalog: FlowCatalog, address: tuple[str, str, str]
) -> None:
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="x"))
    with pytest.raises(FlowNotFoundError) as caught:
        catalog.get(*address)
    assert (caught.value.code, caught.value.status_code) == ("FLOW_NOT_FOUND", 404)


def test_file_changed_is_read_again_and_deleted_is_gone(
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


def test_file_turned_invalid_last_good_version_is_served(
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
    assert problems(catalog) == []


def test_get_file_never_valid_raises_its_problems(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.yaml", "steps:\n  - id: x\n    tempratur: 1\n")
    with pytest.raises(FlowExecutionError, match=r"a/b/c.yaml:3: steps\[0\].tempratur") as caught:
        catalog.get("a", "b", "c")
    assert (caught.value.code, caught.value.status_code) == ("INVALID_TREE", 422)
    assert addresses(catalog) == []


def test_file_named_unlike_an_address_is_a_problem(tmp_path: Path, catalog: FlowCatalog) -> None:
    names = ["b/c d.yaml", "b/c.v0.yaml", "b/c.vx.yaml", "b d/c.yaml", "b/c.yml", "b/c.d.py"]
    for name in names:
        write(tmp_path, f"a/{name}", ONE_STEP.format(id="x"))
    assert [problem.file for problem in catalog.problems()] == [f"a/{name}" for name in names]
    assert all("not <org>/<project>/<slug>.yaml" in problem for problem in problems(catalog))


def test_file_unreadable_is_a_problem(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.yaml", "").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "a/b/d.yaml").mkdir()
    listed = problems(catalog)
    assert len(listed) == 2
    assert all("cannot be read" in problem for problem in listed)


def test_symlink_dangling_is_a_problem_and_last_good_version_is_served(
    tmp_path: Path, catalog: FlowCatalog
) -> None:
    target = write(tmp_path, "elsewhere.txt", "steps: [{id: a}]")
    link = tmp_path / "a" / "b" / "c.yaml"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    assert catalog.get("a", "b", "c").steps[0].id == "a"
    target.unlink()
    assert "cannot be read" in problems(catalog)[0]
    assert catalog.get("a", "b", "c").steps[0].id == "a"
    link.unlink()
    assert catalog.all() == catalog.problems() == []


def test_python_file_with_workflow_is_a_flow(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.py", PYTHON)
    write(tmp_path, "a/b/_shared.py", "raise RuntimeError('not a flow')")
    flow = catalog.get("a", "b", "c")
    assert [step.id for step in flow.steps] == ["First", "Second"]
    assert [step.model for step in flow.steps] == ["offline", "smollm2"]
    assert flow.parameters == {"tone": "dry"}
    assert addresses(catalog) == ["a/b/c"]
    assert problems(catalog) == []
    with pytest.raises(FlowNotFoundError):
        catalog.get("a", "b", "_shared")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\n1 / 0\n", 2, "ZeroDivisionError"),
        ("def f(:\n", 1, "SyntaxError"),
        ("x = 1\nraise SystemExit(2)\n", 2, "SystemExit: 2"),
        (
            PYTHON + "from noukai_sdk.local.workflow.kinds import Agent\n"
            "workflow.add_node(Node('a', 'a', Agent(prompt=3)))\n",
            None,
            "the workflow cannot be checked: TypeError",
        ),
        ("workflow = 3\n", None, "no Workflow under the name 'workflow'"),
        (PYTHON + "workflow.connect('First', 'Third')\n", None, "no node 'Third'"),
    ],
)
def test_python_file_invalid_is_a_problem(
    tmp_path: Path, catalog: FlowCatalog, text: str, line: int | None, message: str
) -> None:
    write(tmp_path, "a/b/c.py", text)
    (problem,) = catalog.problems()
    assert problem.line == line
    assert message in problem.message


def test_python_file_beside_yaml_file_is_not_used(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.py", PYTHON)
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="yaml"))
    assert catalog.get("a", "b", "c").steps[0].id == "yaml"
    assert problems(catalog) == ["a/b/c.py: not used: there is a .yaml file of the same name"]


def test_function_file_changed_is_reloaded_with_its_flow(
    tmp_path: Path, catalog: FlowCatalog
) -> None:
    write(tmp_path, "a/b/c.yaml", "steps:\n  - id: x\n    function: _text.py:clean\n")
    assert "_text.py does not exist" in problems(catalog)[0]
    write(tmp_path, "a/b/_text.py", "def clean(text): return 1\n")
    assert problems(catalog) == []
    first = catalog.get("a", "b", "c")
    assert catalog.get("a", "b", "c") is first
    assert first.steps[0].work.call("") == 1
    write(tmp_path, "a/b/_text.py", "def clean(text): return 2\n")
    assert catalog.get("a", "b", "c").steps[0].work.call("") == 2
    for invalid, message in [
        ("def clean(text: return 2\n", "SyntaxError"),
        ("raise SystemExit(2)\n", "_text.py fails: SystemExit: 2"),
    ]:
        write(tmp_path, "a/b/_text.py", invalid)
        assert catalog.get("a", "b", "c").steps[0].work.call("") == 2
        assert message in problems(catalog)[0]


def test_check_model_rejects_a_name_is_a_problem(tmp_path: Path) -> None:
    text = "model: gtp\nsteps:\n  - {id: a, model: offline}\n  - id: b\n    model: opanai:x\n"
    write(tmp_path, "a/b/c.yaml", text)
    assert FlowCatalog(tmp_path, bundled=False).problems() == []
    catalog = FlowCatalog(tmp_path, check_model=LlmConfig.from_spec)
    places = [(problem.line, problem.field) for problem in catalog.problems()]
    assert places == [(1, "model"), (5, "steps[1].model")]
    assert "'gtp'" in problems(catalog)[0]
    assert "acme/samples/two-step" in addresses(catalog)


def test_register_workflow_is_served_before_files(tmp_path: Path, catalog: FlowCatalog) -> None:
    write(tmp_path, "a/b/c.yaml", ONE_STEP.format(id="file"))
    workflow = Workflow("Mine")
    workflow.add_node(Node.agent("Only"))
    flow = catalog.register("a/b/c", workflow, capture_mode="off")
    assert catalog.get("a", "b", "c") is flow
    assert (flow.capture_mode, flow.steps[0].model) == ("off", "offline")
    assert catalog.register("a/b/c", workflow, version=2).version == 2
    assert [flow.version for flow in catalog.all()] == [None, 2]


def test_register_invalid_address_or_workflow_raises(catalog: FlowCatalog) -> None:
    for address in ("c", "a/b/c/d", "a//c", "a/b/c.d"):
        with pytest.raises(ValueError, match="org/project/slug"):
            catalog.register(address, Workflow("x"))
    with pytest.raises(WorkflowError):
        catalog.register("a/b/c", Workflow("empty"))
    assert catalog.all() == []


def test_entries_have_the_versions_and_problems_of_each_flow(tmp_path: Path) -> None:
    for name, text in {
        "acme/mail/triage.yaml": "steps: [{id: one}]",
        "acme/mail/triage.v10.yaml": "steps: [{id: ten}]",
        "acme/mail/triage.v2.yaml": "steps: [{id: two}]",
        "acme/mail/broken.v1.yaml": "steps: 5",
        "acme/other/flow.yaml": "steps: [{id: one}]",
        "zoo/mail/triage.yaml": "steps: [{id: one}]",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    catalog = FlowCatalog(tmp_path, bundled=False)
    workflow = Workflow("Mine")
    workflow.add_node(Node.agent("Only"))
    catalog.register("acme/mail/coded", workflow)
    found = {"/".join(entry.address): entry for entry in catalog.entries("acme", "mail")}
    assert list(found) == ["acme/mail/broken", "acme/mail/coded", "acme/mail/triage"]
    assert list(found["acme/mail/triage"].versions) == [2, 10]
    assert found["acme/mail/coded"].flow is not None
    broken = found["acme/mail/broken"]
    assert (broken.flow, broken.versions, len(broken.problems)) == (None, {}, 1)
    assert len(catalog.entries("acme")) == 4
    assert len(catalog.entries()) == 5
    assert catalog.entries("../acme") == []
