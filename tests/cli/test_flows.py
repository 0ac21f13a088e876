"""Test ``noukai flows``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from noukai_sdk.cli.commands import noukai
from noukai_sdk.cli.flow_progress import RunProgress, StepProgress, show_progress
from noukai_sdk.local.engine.step_context import StepCompleted
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.models.events import (
    RunStarted,
    StepFailed,
    StepFailure,
    StepOutput,
    StepStarted,
    TokenBreakdown,
)

BRANCHES = """
description: Two ways
capture: off
parameters: {limit: 3}
steps:
  - {id: long, condition: "len(input) > {{parameters.limit}}"}
  - {id: yes-way, name: Yes way, transform: uppercase, needs: [long]}
  - {id: no-way, transform: lowercase, needs: [not long]}
"""
FAILS = "steps:\n  - {id: first, transform: first}\n"
INVALID = "steps:\n  - id: a\n    temprature: 1\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a current folder with ``flows``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    write("mine/demo/branches.yaml", BRANCHES)
    write("mine/demo/fails.yaml", FAILS)
    write("mine/demo/fails.v2.yaml", "steps: [{id: fine}]")
    return tmp_path


def write(address: str, text: str) -> None:
    path = Path("flows") / address
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(*words: str, text: str | None = None, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(noukai, ["flows", *words], input=text)
    assert result.exit_code == exit_code, result.output
    return result


def run_json_lines(*words: str, exit_code: int = 0) -> list[Any]:
    result = run(*words, "--json", exit_code=exit_code)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_list_shows_flows_and_counts_problems() -> None:
    assert run("list").stderr == ""
    write("mine/demo/bad.yaml", INVALID)
    result = run("list")
    for text in ("acme/samples/two-step", "mine/demo/branches", "Two ways", "off"):
        assert text in result.stdout
    assert "bad" not in result.stdout
    assert "1 problem: see noukai flows validate" in result.stderr


def test_list_json_has_steps_with_their_models() -> None:
    flows = {(f["flow"], f["version"]): f for f in json.loads(run("list", "--json").stdout)}
    assert flows["mine/demo/fails", 2]["steps"] == [
        {"id": "fine", "name": "fine", "kind": "agent", "model": "offline"}
    ]
    assert flows["mine/demo/branches", None]["capture"] == "off"
    other_model = json.loads(run("list", "--json", "--model", "smollm2").stdout)
    steps = {flow["flow"]: flow["steps"] for flow in other_model}["acme/samples/two-step"]
    assert {step["model"] for step in steps} == {"smollm2"}


def test_list_through_pipe_prints_one_line_per_flow() -> None:
    name = "long" * 30
    write(f"mine/demo/{name}.yaml", f"description: {'word ' * 40}\nsteps: [{{id: a}}]")
    [line] = [line for line in run("list").stdout.splitlines() if "long" in line]
    assert f"mine/demo/{name} " in line
    assert line.rstrip().endswith("word word")


def test_validate_valid_files_counts_flows(tmp_path: Path) -> None:
    assert run("validate").stdout == "7 flows, no problems\n"
    (tmp_path / "other").mkdir()
    assert run("validate", "--flows", "other").stdout == "4 flows, no problems\n"


def test_validate_invalid_file_prints_file_line_and_field() -> None:
    write("mine/demo/bad.yaml", INVALID)
    result = run("validate", exit_code=1)
    assert result.stdout.startswith("mine/demo/bad.yaml:3: steps[0].temprature: ")
    [problem] = json.loads(run("validate", "--json", exit_code=1).stdout)["problems"]
    assert (problem["file"], problem["line"]) == ("mine/demo/bad.yaml", 3)
    assert problem["field"] == "steps[0].temprature"


def test_validate_unknown_model_is_a_problem() -> None:
    write("mine/demo/model.yaml", "steps:\n  - id: a\n    model: gtp-4o\n")
    output = run("validate", exit_code=1).output
    assert "mine/demo/model.yaml:3: steps[0].model: unknown model 'gtp-4o'" in output


def test_run_shows_steps_and_prints_result() -> None:
    result = run("run", "mine/demo/branches", "-m", "hello")
    assert result.stdout == "HELLO\n"
    lines = result.stderr.splitlines()
    assert [line.split()[:2] for line in lines if line.strip()] == [
        ["✓", "long"],
        ["✓", "Yes"],
        ["-", "no-way"],
    ]
    assert run("run", "acme/samples/hello-world", "-m", "hi").stderr.endswith("tokens  $0\n")


def test_run_json_prints_one_event_per_line() -> None:
    events = run_json_lines("run", "mine/demo/branches", "-m", "hello")
    assert events[0]["eventType"] == "run_started"
    assert events[-1] == {
        "eventType": "flow_completed",
        "executionId": events[0]["executionId"],
        "result": "HELLO",
    }
    [skipped] = [event for event in events if event.get("skipped")]
    assert (skipped["stepId"], skipped["output"]) == ("no-way", None)


def test_run_takes_parameters_and_standard_input() -> None:
    result = run("run", "mine/demo/branches", "-m", "-", "-p", "limit=9", text="HELLO")
    assert result.stdout == "hello\n"


def test_run_published_version_runs_that_version() -> None:
    result = run("run", "mine/demo/fails", "--version", "2", "-m", "x")
    assert '"x".' in result.stdout


def test_run_failed_flow_exits_with_1() -> None:
    result = run("run", "mine/demo/fails", "-m", "", exit_code=1)
    assert "step 'first' failed" in " ".join(result.stderr.split())
    assert result.stdout == ""
    events = run_json_lines("run", "mine/demo/fails", "-m", "", exit_code=1)
    assert events[-1]["eventType"] == "step_error"


@pytest.mark.parametrize("place", [".", "flows"])
def test_run_finds_functions_in_current_folder_and_flow_folder(folder: Path, place: str) -> None:
    module = f"my_functions_of_{place.strip('.') or 'cwd'}"
    write("mine/demo/other.yaml", "steps: [{id: a}]")
    (folder / place / f"{module}.py").write_text("def pair(a, b): return [a, b]\n")
    write(
        "mine/demo/call.yaml",
        f"""
        steps:
          - id: f
            function: {module}:pair
            arguments: {{a: "{{{{parameters.a}}}}", b: "{{{{parameters.b}}}}"}}
        """,
    )
    assert run("run", "mine/demo/call", "-p", "a=[1]", "-p", "b=x=y").stdout == '[[1], "x=y"]\n'


FUNCTIONS = """
def circular(value):
    made = []
    made.append(made)
    return made

def keys(value):
    return {(1, 2): 3}

def surrogate(value):
    return chr(0xD800)
"""


@pytest.mark.parametrize(
    ("function", "text"),
    [("circular", "[[...]]"), ("keys", "{(1, 2): 3}"), ("surrogate", "\\ud800")],
)
def test_run_output_that_is_not_json_is_printed_as_text(function: str, text: str) -> None:
    write("mine/demo/_functions.py", FUNCTIONS)
    write("mine/demo/odd.yaml", f"steps: [{{id: a, function: '_functions.py:{function}'}}]")
    assert run("run", "mine/demo/odd", "-m", "x").stdout.strip() == text
    last = run_json_lines("run", "mine/demo/odd", "-m", "x")[-1]
    assert last["eventType"] == "flow_completed"
    assert text[1:-1] in ascii(last["result"])


def test_run_as_process_prints_result() -> None:
    words = ["flows", "run", "mine/demo/branches", "-m", "abcd"]
    command = [sys.executable, "-m", "noukai_sdk.cli", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout == "ABCD\n", result.stderr


def test_run_with_approval_waits_or_approves() -> None:
    text = """
    steps:
      - {id: ask, approval: "Send {{message}}?"}
      - {id: send, needs: [ask], transform: "sent {{input}}"}
      - {id: keep, needs: [not ask], transform: "kept {{input}}"}
    """
    write("mine/demo/asks.yaml", text)
    waits = run("run", "mine/demo/asks", "-m", "this", exit_code=1)
    assert "waits for an approval: ask: Send this?\nRun it on a terminal" in waits.stderr
    assert run("run", "mine/demo/asks", "-m", "this", "--approve").stdout.endswith("sent this\n")
    assert (
        "ask  approval  Send {{message}}?"
        in run("show", "mine/demo/asks", "--format", "text").stdout
    )
    assert '    n0{{"ask"}}' in run("show", "mine/demo/asks").stdout.splitlines()


def test_show_as_text_has_steps_of_inner_flows_and_their_branches() -> None:
    text = """
    description: All kinds
    steps:
      - {id: kind, route: message, branches: [bug, yes], default: other}
      - {id: each, needs: [{kind: [bug, yes]}], for_each: "{{input}}", concurrency: 2, flow: branches}
      - {id: again, needs: [{kind: other}], repeat: {prompt: x}, until: "round == 2", at_most: 2}
    """
    write("mine/demo/all.yaml", text)
    assert [
        line.rstrip()
        for line in run("show", "mine/demo/all", "--format", "text").stdout.splitlines()
    ] == [
        "mine/demo/all  All kinds",
        "├── kind  route  message  to bug, yes or other  by default other",
        "├── each  flow  for each of {{input}}, 2 at once  on kind: bug or yes",
        "│   ├── long  condition  len(input) > {{parameters.limit}}",
        "│   ├── yes-way  transform  uppercase",
        "│   └── no-way  transform  lowercase  if long is no",
        "└── again  repeat  until round == 2, at most 2  on kind: other",
        "    └── again  agent  offline",
    ]


def test_show_has_fallbacks_and_types_of_outputs() -> None:
    step = "{id: ask, prompt: x, output: '_kinds.py:Kind', fallback: [smollm2, {transform: Try later.}]}"
    write(
        "mine/demo/_kinds.py", "import pydantic\n\nclass Kind(pydantic.BaseModel):\n    word: str\n"
    )
    write("mine/demo/spare.yaml", f"steps: [{step}]")
    assert "ask  agent  offline  returns Kind  else smollm2  else transform" in (
        run("show", "mine/demo/spare", "--format", "text").stdout
    )
    assert run("show", "mine/demo/spare").stdout.splitlines() == [
        "flowchart TD",
        '    n0["ask"]',
        '    n0 -.->|"else"| n0_f0["smollm2"]',
        '    n0_f0 -.->|"else"| n0_f1[/"transform"/]',
    ]


def test_show_prints_mermaid_flowchart() -> None:
    assert run("show", "mine/demo/branches").stdout.splitlines() == [
        "flowchart TD",
        '    n0{"long"}',
        '    n1[/"Yes way"/]',
        '    n2[/"no-way"/]',
        '    n0 -->|"yes"| n1',
        '    n0 -->|"no"| n2',
    ]


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (["run", "acme/samples/two-stp"], 2, "did you mean acme/samples/two-step?"),
        (["run", "no/such/thing"], 2, "see noukai flows list"),
        (["run", "two-step"], 2, "an address is ORG/PROJECT/SLUG"),
        (["run", "mine/demo/branches", "-p", "limit"], 2, "a parameter is NAME=VALUE"),
        (["run", "acme/samples/two-step"], 1, "the call has no message"),
        (["run", "acme/samples/two-step", "-m", "x", "--version", "9"], 2, "in version 9"),
        (["show", "mine/demo/bad"], 1, "the flow file is invalid: mine/demo/bad.yaml:3"),
    ],
)
def test_command_with_wrong_arguments_reports_reason(
    words: list[str], exit_code: int, message: str
) -> None:
    write("mine/demo/bad.yaml", INVALID)
    result = run(*words, exit_code=exit_code)
    assert message in result.stderr
    if words[0] == "run":
        [described] = run_json_lines(*words, exit_code=exit_code)
        assert message in described["error"]["message"]


def draw(progress: RunProgress) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(progress)
    return capture.get()


def two_steps() -> RunProgress:
    return RunProgress({"draft": StepProgress("Draft"), "polish": StepProgress("Polish")})


def test_progress_of_running_step_shows_end_of_its_text() -> None:
    progress = two_steps()
    lines = [line.split() for line in draw(progress).splitlines()]
    assert lines == [["·", "Draft"], ["·", "Polish"]]
    progress.update(RunStarted())
    progress.update(StepStarted(step_id="draft", name="Draft"))
    progress.update(StepStarted(step_id="unknown"))
    progress.update(StepOutput(step_id="draft", output_data="Once upon "))
    progress.update(StepOutput(step_id="draft", output_data="a time"))
    assert "Once upon a time" in draw(progress)
    progress.update(StepOutput(step_id="draft", output_data="x" * 1000))
    assert "Once" not in draw(progress)
    assert "...xxx" in draw(progress)
    progress.update(StepStarted(step_id="draft", name="Draft"))
    assert "xxx" not in draw(progress)


def test_progress_of_ended_steps_shows_duration_usage_and_error() -> None:
    progress = two_steps()
    progress.update(StepStarted(step_id="draft"))
    completed = {
        "output": 1,
        "duration_ms": 1500,
        "tokens": TokenBreakdown(total=7),
        "cost_usd": "0.01",
    }
    progress.update(StepCompleted(step_id="draft", **completed))
    progress.update(StepStarted(step_id="polish"))
    progress.update(StepFailed(step_id="polish", error=StepFailure(message="out of luck")))
    first, second, third = draw(progress).splitlines()
    assert first.split() == ["✓", "Draft", "1.50", "s", "7", "tokens", "$0.01"]
    assert second.split()[:2] == ["✗", "Polish"]
    assert third.strip() == "out of luck"
    progress.update(StepFailed(step_id="polish"))
    assert "failed" in draw(progress)


def test_progress_on_terminal_is_drawn() -> None:
    flow = FlowCatalog().get("acme", "samples", "two-step")
    console = Console(force_terminal=True, width=80)
    events = [StepStarted(step_id="draft"), StepCompleted(step_id="draft", output="x")]
    with console.capture() as capture:
        show_progress(flow, iter(events), console)
    assert "Draft" in capture.get()


def test_list_without_yaml_parser_names_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    monkeypatch.delitem(sys.modules, "noukai_sdk.local.flow_files.flow_tree", raising=False)
    message = "this command needs yaml: pip install pyyaml"
    assert message in run("list", exit_code=2).stderr
