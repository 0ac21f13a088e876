"""``noukai flows`` as people and machines use it."""

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
from noukai_sdk.cli.flow_progress import Progress, follow
from noukai_sdk.local.engine.step_context import StepCompleted
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.workflow.plan import Flow
from noukai_sdk.models.events import (
    RunStarted,
    StepFailed,
    StepFailure,
    StepOutput,
    StepStarted,
    Tokens,
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
BAD = "steps:\n  - id: a\n    temprature: 1\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``flows``, where the command runs."""
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


def run(*words: str, text: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(noukai, ["flows", *words], input=text)
    assert result.exit_code == code, result.output
    return result


def events(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_list_shows_every_flow_and_counts_problems() -> None:
    write("mine/demo/bad.yaml", BAD)
    result = run("list")
    for part in ("acme/samples/two-step", "mine/demo/branches", "Two ways", "off"):
        assert part in result.stdout
    assert "bad" not in result.stdout
    assert "1 problems: see noukai flows validate" in result.stderr


def test_list_of_good_files_says_nothing_else() -> None:
    assert run("list").stderr == ""


def test_list_for_machines() -> None:
    found = {(f["flow"], f["version"]): f for f in json.loads(run("list", "--json").stdout)}
    assert found["mine/demo/fails", 2]["steps"] == [
        {"id": "fine", "name": "fine", "kind": "agent", "model": "offline"}
    ]
    assert found["mine/demo/branches", None]["capture"] == "off"
    other = json.loads(run("list", "--json", "--model", "smollm2").stdout)
    steps = {f["flow"]: f["steps"] for f in other}["acme/samples/two-step"]
    assert {step["model"] for step in steps} == {"smollm2"}


def test_validate_says_that_all_is_well() -> None:
    assert run("validate").stdout == "7 flows, no problems\n"


def test_validate_tells_file_line_and_field() -> None:
    write("mine/demo/bad.yaml", BAD)
    result = run("validate", code=1)
    assert result.stdout.startswith("mine/demo/bad.yaml:3: steps[0].temprature: ")
    found = json.loads(run("validate", "--json", code=1).stdout)
    (problem,) = found["problems"]
    assert (problem["file"], problem["line"]) == ("mine/demo/bad.yaml", 3)
    assert problem["field"] == "steps[0].temprature"


def test_another_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert run("validate", "--flows", "other").stdout == "4 flows, no problems\n"


def test_run_shows_the_steps_and_prints_the_result() -> None:
    result = run("run", "mine/demo/branches", "-m", "hello")
    assert result.stdout == "HELLO\n"
    lines = result.stderr.splitlines()
    assert [line.split()[:2] for line in lines if line.strip()] == [
        ["✓", "long"],
        ["✓", "Yes"],
        ["-", "no-way"],
    ]


def test_run_tells_tokens() -> None:
    assert "tokens  $0" in run("run", "acme/samples/hello-world", "-m", "hi").stderr


def test_run_takes_parameters_and_standard_input() -> None:
    assert run("run", "mine/demo/branches", "-m", "-", "-p", "limit=9", text="HELLO").stdout == (
        "hello\n"
    )


def test_run_for_machines_prints_events() -> None:
    told = events(run("run", "mine/demo/branches", "-m", "hello", "--json"))
    assert told[0]["eventType"] == "run_started"
    assert told[-1] == {
        "eventType": "flow_completed",
        "executionId": told[0]["executionId"],
        "result": "HELLO",
    }
    (skipped,) = [event for event in told if event.get("skipped")]
    assert (skipped["stepId"], skipped["output"]) == ("no-way", None)


def test_a_failed_run_has_exit_code_1() -> None:
    result = run("run", "mine/demo/fails", "-m", "", code=1)
    assert "step 'first' failed" in " ".join(result.stderr.split())
    assert result.stdout == ""
    told = events(run("run", "mine/demo/fails", "-m", "", "--json", code=1))
    assert told[-1]["eventType"] == "step_error"


def test_a_published_version_can_be_run() -> None:
    assert "Offline answer" in run("run", "mine/demo/fails", "--version", "2", "-m", "x").stdout


def test_functions_are_found_where_the_command_runs(here: Path) -> None:
    (here / "my_functions_for_this_test.py").write_text("def pair(a, b): return [a, b]\n")
    write(
        "mine/demo/call.yaml",
        """
        steps:
          - id: f
            function: my_functions_for_this_test:pair
            arguments: {a: "{{parameters.a}}", b: "{{parameters.b}}"}
        """,
    )
    assert run("run", "mine/demo/call", "-p", "a=[1]", "-p", "b=x=y").stdout == '[[1], "x=y"]\n'


def test_show_draws_a_flow() -> None:
    assert run("show", "mine/demo/branches").stdout.splitlines() == [
        "flowchart TD",
        '    n0{"long"}',
        '    n1[/"Yes way"/]',
        '    n2[/"no-way"/]',
        "    n0 -->|yes| n1",
        "    n0 -->|no| n2",
    ]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["run", "acme/samples/two-stp"], 1, "did you mean acme/samples/two-step?"),
        (["run", "no/such/thing"], 1, "see noukai flows list"),
        (["run", "two-step"], 2, "an address is ORG/PROJECT/SLUG"),
        (["run", "mine/demo/branches", "-p", "limit"], 2, "a parameter is NAME=VALUE"),
        (["run", "acme/samples/two-step"], 1, "the call has no message"),
        (["run", "acme/samples/two-step", "-m", "x", "--version", "9"], 1, "in version 9"),
        (["show", "mine/demo/bad"], 1, "the flow file is invalid: mine/demo/bad.yaml:3"),
    ],
)
def test_what_cannot_be_done_is_told(words: list[str], code: int, told: str) -> None:
    write("mine/demo/bad.yaml", BAD)
    assert told in run(*words, code=code).stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "noukai_sdk.local.flow_files.flow_tree", raising=False)
    assert "flow files need yaml: pip install 'noukai-sdk[backend]'" in run("list", code=1).stderr


def flow() -> Flow:
    return FlowCatalog().get("acme", "samples", "two-step")


def drawn(progress: Progress) -> str:
    console = Console(width=100, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(progress)
    return capture.get()


def test_progress_shows_text_as_it_comes_and_ends_of_long_ones() -> None:
    progress = Progress.of(flow())
    assert [line.split() for line in drawn(progress).splitlines()] == [
        ["·", "Draft"],
        ["·", "Polish"],
    ]
    progress.take(RunStarted())
    progress.take(StepStarted(step_id="draft", name="Draft"))
    progress.take(StepStarted(step_id="unknown"))
    progress.take(StepOutput(step_id="draft", output_data="Once upon "))
    progress.take(StepOutput(step_id="draft", output_data="a time"))
    assert "Once upon a time" in drawn(progress)
    progress.take(StepOutput(step_id="draft", output_data="x" * 1000))
    assert "Once" not in drawn(progress)
    assert "...xxx" in drawn(progress)
    progress.take(StepStarted(step_id="draft", name="Draft"))
    assert "xxx" not in drawn(progress)


def test_progress_shows_how_steps_end() -> None:
    progress = Progress.of(flow())
    tokens = Tokens(total=7)
    progress.take(StepStarted(step_id="draft"))
    progress.take(
        StepCompleted(step_id="draft", output=1, duration_ms=1500, tokens=tokens, cost_usd="0.01")
    )
    progress.take(StepStarted(step_id="polish"))
    progress.take(StepFailed(step_id="polish", error=StepFailure(message="out of luck")))
    first, second, third = drawn(progress).splitlines()
    assert first.split() == ["✓", "Draft", "1.50", "s", "7", "tokens", "$0.01"]
    assert second.split()[:2] == ["✗", "Polish"]
    assert third.strip() == "out of luck"
    progress.take(StepFailed(step_id="polish"))
    assert "failed" in drawn(progress)


def test_a_terminal_sees_it_live() -> None:
    console = Console(force_terminal=True, width=80)
    seen = [StepStarted(step_id="draft"), StepCompleted(step_id="draft", output="x")]
    with console.capture() as capture:
        assert follow(flow(), iter(seen), console) == seen
    assert "Draft" in capture.get()


def test_the_command_line_runs_as_a_process() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "noukai_sdk.cli",
            "flows",
            "run",
            "mine/demo/branches",
            "-m",
            "abcd",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "ABCD\n", done.stderr


def test_validate_knows_which_models_there_are() -> None:
    write("mine/demo/model.yaml", "steps:\n  - id: a\n    model: gtp-4o\n")
    told = run("validate", code=1).output
    assert "mine/demo/model.yaml:3: steps[0].model: unknown model 'gtp-4o'" in told


FUNCTIONS = """
def itself(value):
    made = []
    made.append(made)
    return made

def keys(value):
    return {(1, 2): 3}

def half(value):
    return chr(0xD800)
"""


@pytest.mark.parametrize(
    ("function", "told"), [("itself", "[[...]]"), ("keys", "{(1, 2): 3}"), ("half", "\\ud800")]
)
def test_outputs_that_are_no_json_are_told_as_text(function: str, told: str) -> None:
    write("mine/demo/_functions.py", FUNCTIONS)
    write("mine/demo/odd.yaml", f"steps: [{{id: a, function: '_functions.py:{function}'}}]")
    assert run("run", "mine/demo/odd", "-m", "x").stdout.strip() == told
    lines = run("run", "mine/demo/odd", "-m", "x", "--json").stdout.splitlines()
    last = json.loads(lines[-1])
    assert last["eventType"] == "flow_completed"
    assert told[1:-1] in ascii(last["result"])


def test_a_pipe_gets_each_flow_on_one_line() -> None:
    write(f"mine/demo/{'long' * 30}.yaml", f"description: {'word ' * 40}\nsteps: [{{id: a}}]")
    (line,) = [line for line in run("list").stdout.splitlines() if "long" in line]
    assert f"mine/demo/{'long' * 30} " in line
    assert line.rstrip().endswith("word word")
