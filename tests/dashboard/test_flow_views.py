"""The picture of a flow, the form that runs it, and the progress of a run: no browser, no service."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.dashboard.rendering import render
from noukai_sdk.dashboard.views.flow_details import FormError, RunForm
from noukai_sdk.dashboard.views.flow_picture import MOST_STEPS, Box, draw
from noukai_sdk.dashboard.views.job_rows import JobList
from noukai_sdk.dashboard.views.run_progress import MOST_SHOWN, RunProgress
from noukai_sdk.models.flow_lists import FlowStep
from noukai_sdk.models.job_lists import JobPage, Worker, WorkerList
from noukai_sdk.models.traces import Trace

KINDS = ("agent", "function", "condition", "transform")
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e{{7*7}}"


def step(name: str, *needs: str, kind: str = "agent", **more: Any) -> FlowStep:
    return FlowStep(id=name, name=name, kind=kind, needs=needs, **more)


@st.composite
def flows(draw_: st.DrawFn) -> list[FlowStep]:
    steps: list[FlowStep] = []
    for number in range(draw_(st.integers(1, 14))):
        earlier = [each.id for each in steps]
        needs = draw_(st.lists(st.sampled_from(earlier), max_size=4)) if earlier else []
        steps.append(step(f"s{number}", *needs, kind=draw_(st.sampled_from(KINDS))))
    return steps


def overlap(one: Box, other: Box) -> bool:
    return abs(one.x - other.x) < one.width and abs(one.y - other.y) < one.height


@given(flows())
def test_picture_of_any_flow_has_boxes_apart_and_arrows_that_cross_none(
    steps: list[FlowStep],
) -> None:
    picture = draw(steps)
    assert picture is not None
    assert not [pair for pair in combinations(picture.boxes, 2) if overlap(*pair)]
    for box in picture.boxes:
        assert box.x >= 0
        assert box.x + box.width <= picture.width
        assert box.y + box.height <= picture.height
    assert len(picture.arrows) == sum(len(set(each.needs)) for each in steps)
    tops = sorted({box.y for box in picture.boxes})
    for arrow in picture.arrows:
        # Where an arrow passes a layer, it goes straight down beside the boxes.
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", arrow.path)]
        for x, top in pairwise(numbers):
            if top in tops and f"{x:g} {top:g} V" in arrow.path:
                row = [box for box in picture.boxes if box.y == top]
                assert not [box for box in row if box.x < x < box.x + box.width]


def test_picture_says_what_each_step_is_and_which_way_conditions_go() -> None:
    steps = [
        step("check", kind="condition", code="len(input) > 3"),
        step("yes", "check", model="offline", tools=True),
        step("no", "check", unless=("check",), for_each="{{parameters.words}}"),
        step("end", "yes", "check", kind="function", code="count_words"),
    ]
    picture = draw(steps)
    assert picture is not None
    assert [arrow.label for arrow in picture.arrows] == ["yes", "no", "", "yes"]
    assert [box.label for box in picture.boxes] == [
        "check: condition",
        "yes: agent, offline, may ask for tools, if check is true",
        "no: agent, for each of {{parameters.words}}, if check is false",
        "end: function, after yes, if check is true",
    ]
    assert [box.is_loop for box in picture.boxes] == [False, False, True, False]
    assert [box.note for box in picture.boxes] == [
        "len(input) > 3",
        "offline · tools",
        "",
        "count_words",
    ]
    assert draw([]) is None
    assert draw([step(f"s{number}") for number in range(MOST_STEPS + 1)]) is None


def test_picture_says_which_branches_lead_where_and_what_repeats() -> None:
    inner = (step("one"), step("two", "one"))
    steps = [
        step("kind", kind="route", code="input", branches=("bug", 3, True)),
        step("flow", "kind", kind="flow", when={"kind": ("bug", 3)}, steps=inner),
        step("again", "kind", kind="repeat", code="output > 1", at_most=2, steps=inner[:1]),
        step("new", "again", kind="not known yet"),
    ]
    picture = draw(steps)
    assert picture is not None
    assert [arrow.label for arrow in picture.arrows] == ["bug or 3", "", ""]
    assert [box.note for box in picture.boxes] == ["input", "2 steps", "until output > 1", ""]
    assert [box.label for box in picture.boxes] == [
        "kind: route",
        "flow: flow, 2 steps, if kind is bug or 3",
        "again: repeat, 1 step, until output > 1, at most 2, after kind",
        "new: not known yet, after again",
    ]


@pytest.mark.parametrize(
    ("sent", "field", "says"),
    [
        ({"parameters": '{"a": 1'}, "parameters", "line 1, column 8"),
        ({"parameters": '{"a":\n NaN}'}, "parameters", "NaN is not valid JSON"),
        ({"parameters": '{"a": 1e999}'}, "parameters", "Out of range"),
        ({"parameters": '{"a": "\\ud800"}'}, "parameters", "surrogate"),
        ({"parameters": "[]"}, "parameters", "must be a JSON object"),
        ({"parameters": "[" * 100_000}, "parameters", "nested too deep"),
        ({"tools": "{}"}, "tools", "must be a JSON list"),
        ({"version": "²"}, "version", "choose one"),
    ],
)
def test_run_form_names_the_field_that_is_not_valid(
    sent: dict[str, str], field: str, says: str
) -> None:
    form = RunForm.of({"message": "Hello", **sent})
    with pytest.raises(FormError, match=says) as error:
        form.body(), form.version_number()
    assert error.value.field == field


def test_run_form_makes_the_body_of_a_call() -> None:
    form = RunForm.of(
        {"message": "Hello", "parameters": ' {"a": [1]} ', "tools": "", "version": "2"}
    )
    assert form.body() == {"message": "Hello", "parameters": {"a": [1]}}
    assert form.version_number() == 2
    assert RunForm().body() == {"message": "", "parameters": {}}


def event(kind: str, step_id: str = "one", **fields: Any) -> dict[str, Any]:
    return {"eventType": kind, "stepId": step_id, **fields}


def test_progress_follows_the_events_of_a_run() -> None:
    progress = RunProgress.of([step("one", tools=True), step("two", "one")])
    assert progress.status == "pending"
    progress.update({"eventType": "run_started"})
    progress.update(event("step_started"))
    for chunk in ("Hel", "lo"):
        progress.update(event("step_output", outputData=chunk))
    assert [(each.id, each.state, each.text) for each in progress.take_changes()] == [
        ("one", "running", "Hello")
    ]
    assert progress.take_changes() == []
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    calls = [{"id": "c1", "type": "function", "function": function}]
    progress.update(event("step_paused_for_tool_calls", stepIndex=0, toolCalls=calls))
    assert progress.pause is not None
    assert [(call.id, call.name) for call in progress.pause.calls] == [("c1", "get_weather")]
    progress.update(event("step_started"))
    assert progress.pause is None
    tokens = {"prompt": 1, "completion": 2, "total": 3}
    progress.update(event("step_completed", output="sunny", durationMs=12, tokens=tokens))
    assert progress.steps["one"].summary == "agent · 12 ms · 3 tokens"
    assert progress.done == 1
    progress.update(event("step_completed", "two", output=None, skipped=True))
    # A step that the flow has no longer.
    progress.update(event("step_input", "gone", loopIndex=2))
    assert progress.steps["gone"].items == 3
    progress.update({"eventType": "flow_completed", "result": {"a": "ü"}})
    assert (progress.status, progress.done) == ("completed", 2)
    assert progress.result == '{\n  "a": "ü"\n}'


def test_progress_of_a_trace_and_of_a_failed_step() -> None:
    failure = {"code": "MODEL_ERROR", "message": "the provider hung up"}
    trace = Trace.model_validate(
        {
            "flowRun": {"id": "r", "status": "failed", "error": failure},
            "steps": [
                {"stepId": "one", "status": "completed", "outputContext": {"output": "text"}},
                {"stepId": "two", "status": "failed", "errorContext": failure},
                {"stepId": "two", "status": "failed", "loopIndex": 4},
            ],
        }
    )
    progress = RunProgress.of([step("one"), step("two", "one")])
    progress.read_trace(trace)
    assert (progress.has_ended, progress.error) == (True, "MODEL_ERROR: the provider hung up")
    one, two = progress.steps.values()
    assert (one.text, two.error, two.items) == ("text", "MODEL_ERROR: the provider hung up", 5)
    other = RunProgress.of([step("one")])
    other.update(event("step_error", error=failure))
    assert (other.status, other.error) == ("failed", "MODEL_ERROR: the provider hung up")


def test_long_output_is_cut_at_its_end_while_it_grows_and_then_at_its_beginning() -> None:
    progress = RunProgress.of([step("one")])
    progress.update(event("step_started"))
    text = "a" * MOST_SHOWN + "b"
    progress.update(event("step_output", outputData=text))
    one = progress.steps["one"]
    assert (one.is_cut, one.shown_text[-1], len(one.shown_text)) == (True, "b", MOST_SHOWN)
    progress.update(event("step_completed", output=text))
    assert one.shown_text[-1] == "a"
    shown = render("run_step.html", step=one)
    assert len(shown) < 2 * MOST_SHOWN
    assert "20,001 characters in all" in shown


def test_hostile_names_outputs_and_arguments_are_shown_and_not_run() -> None:
    picture = draw([step(HOSTILE, kind="condition", code=HOSTILE)])
    shown = render("flow_picture.html", picture=picture, title=HOSTILE)
    progress = RunProgress.of([step(HOSTILE)])
    progress.update(event("step_started", HOSTILE))
    progress.update(event("step_output", HOSTILE, outputData=HOSTILE))
    shown += render("run_step.html", step=progress.steps[HOSTILE])
    assert shown.count("&lt;script&gt;") >= 4
    assert "<script" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    ("pending", "roles", "is_stuck"),
    [(1, ["serve"], True), (0, ["serve"], False), (1, ["serve", "worker"], False), (1, [], True)],
)
def test_jobs_that_wait_are_stuck_if_no_process_runs_any(
    pending: int, roles: list[str], is_stuck: bool
) -> None:
    workers = WorkerList(workers=tuple(Worker(id=role, role=role) for role in roles))
    jobs = JobList({}, JobPage(in_progress={"pending": pending}), workers, "http://localhost")
    assert jobs.is_stuck is is_stuck
    visit = SimpleNamespace(query={})
    shown = render("job_list.html", visit=visit, list=jobs)
    assert ("no process runs them" in shown) is is_stuck


def test_progress_counts_rounds_of_a_repetition_and_items_of_a_loop() -> None:
    steps = [step("loop", for_each="{{input}}"), step("again", kind="repeat")]
    steps.append(step("both", kind="repeat", for_each="{{input}}"))
    progress = RunProgress.of(steps)
    for each in progress.steps.values():
        each.items = 2
    words = [each.summary.rpartition(" ")[2] for each in progress.steps.values()]
    assert words == ["items", "rounds", "items"]
