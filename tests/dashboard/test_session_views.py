"""Test what the page of a session makes of recordings, without a browser."""

from __future__ import annotations

from datetime import datetime, timezone
from html.parser import HTMLParser
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noukai_sdk.dashboard.export import session_html
from noukai_sdk.dashboard.views.call_view import call_view
from noukai_sdk.dashboard.views.recorded_values import Parts, json_text
from noukai_sdk.dashboard.views.session_view import file_session, service_session
from noukai_sdk.dashboard.views.texts import visible
from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.models.session_lists import SessionCalls
from noukai_sdk.models.sessions import RecordedError, StepSnapshot, ToolRound
from noukai_sdk.replay.cassette_file import CassetteFile
from noukai_sdk.replay.recording import Recording

HOSTILE = st.text(max_size=30) | st.sampled_from(
    [
        "</script><script>x()</script>",
        "</pre><img src=x onerror=x()>",
        "\"' onmouseover=x() style=a:b ",
        "</style><style>",
        "javascript:x()",
        "<!-- ]]> {{ 7*7 }} {% x %}",
        "\x1b[2J\x00\u202e\ufeff\ud800",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | HOSTILE,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(HOSTILE, children, max_size=3)
    ),
    max_leaves=8,
)
# What only our templates write.
TAGS = {
    *("html", "head", "meta", "title", "style", "script", "body", "main", "header", "section"),
    *("h1", "h2", "h3", "h4", "p", "pre", "code", "b", "span", "div", "a", "button", "time"),
    *("ol", "ul", "li", "dl", "dt", "dd", "details", "summary", "dialog", "form", "kbd"),
    *("svg", "rect", "line", "text"),
}


class Tags(HTMLParser):
    """Collects tags, attributes and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(a=HOSTILE, b=HOSTILE, value=JSON)
def test_export_of_hostile_recordings_has_only_our_elements(a: str, b: str, value: Any) -> None:
    prompt = {
        "model": a,
        "messages": [{"role": b, "content": a, "tool_calls": [value]}],
        "x": value,
        "request": value,
    }
    events = (
        {"eventType": "step_input", "stepId": a, "name": b, "inputData": prompt},
        {"eventType": "step_output", "stepId": a, "outputData": b},
        {"eventType": "step_error", "stepId": a, "error": {"code": a, "message": b}},
    )
    recording = Recording(
        slug=a or "slug",
        kind="execute",
        org=b,
        request={"message": a, "messages": value, "parameters": {b: value}},
        result={"status": "completed", "result": value},
        error=RecordedError(code=a, message=b),
        rounds=(
            ToolRound(paused={"toolCalls": [value, {"id": a}]}, tool_results=[{"content": b}]),
        ),
        events=events,
    )
    body = CapturedBody(text=b, size=1)
    exchange = Exchange(
        request=CapturedRequest(
            method=a, origin=b, path=a, headers=((a, b),), body=body, redacted=(a,)
        ),
        response=CapturedResponse(headers=((b, a),), body=body),
    )
    parser = Tags()
    parser.feed(session_html(CassetteFile(a or None, [recording], exchange=exchange), source=b))
    assert set(parser.tags) <= TAGS
    assert parser.tags.count("script") == parser.tags.count("style") == 1
    names = {name for name, _ in parser.attributes}
    assert not [name for name in names if name.startswith("on") or name in ("style", "src")]
    links = {content for name, content in parser.attributes if name == "href"}
    assert links == {"#main"}
    assert visible(b) in parser.text.replace("\r", "\n") or "\r" in b


def test_call_view_pairs_steps_with_attempts_items_and_streamed_parts() -> None:
    first: StepSnapshot = {
        "stepId": "draft",
        "attempt": 1,
        "status": "failed",
        "startedAt": "2026-11-20T09:00:00Z",
        "completedAt": "2026-11-20T09:00:01Z",
        "errorSnapshot": {"code": "LLM_ERROR", "message": "hung up"},
    }
    second: StepSnapshot = {
        "stepId": "draft",
        "attempt": 2,
        "status": "completed",
        "startedAt": "2026-11-20T09:00:01Z",
        "completedAt": "2026-11-20T09:00:04Z",
        "inputSnapshot": {
            "model": "m",
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [],
        },
        "outputSnapshot": "fine",
        "tokens": {"prompt": 1, "completion": 2, "total": 3},
    }
    item: StepSnapshot = {"stepId": "each", "loopIndex": 1, "status": "running"}
    hosted: StepSnapshot = {
        "stepId": "end",
        "outputSnapshot": {"__rendered_prompt__": "Be brief.", "grade": 7},
    }
    events = (
        {"eventType": "step_started", "stepId": "draft", "name": "Draft"},
        {"eventType": "step_output", "stepId": "draft", "outputData": "half"},
        {"eventType": "step_started", "stepId": "draft", "name": "Draft"},
        {"eventType": "step_output", "stepId": "draft", "outputData": "fi"},
        {"eventType": "step_output", "stepId": "draft", "outputData": "ne"},
        {"eventType": "step_completed", "stepId": "draft", "output": "fine", "costUsd": "0.5"},
        {"eventType": "step_output", "stepId": "each", "loopIndex": 1, "outputData": "so "},
        {"eventType": "step_output", "stepId": "each", "loopIndex": 1, "outputData": "far"},
    )
    recording = Recording(slug="s", kind="execute", request={"message": "Hi"}, events=events)
    view = call_view(recording, [first, second, item, hosted], limit=None)
    failed, done, running, end = view.steps
    assert (failed.title, failed.error, failed.streamed) == ("Draft", "LLM_ERROR: hung up", 1)
    assert failed.output is not None
    assert failed.output.text == "half"
    assert (done.model, done.cost, done.streamed) == ("m", "0.5", 2)
    assert [turn.contents[0].text for turn in done.prompt] == ["Hi"]
    assert [setting.name for setting in done.settings] == ["tools"]
    assert running.output is not None
    assert (running.loop_index, running.output.text) == (1, "so far")
    assert [(step.bar.x, step.bar.width) for step in (failed, done) if step.bar] == [
        (0, 250),
        (250, 750),
    ]
    assert end.prompt[0].contents[0].text == "Be brief."
    assert end.output is not None
    assert end.output.whole == '{\n  "grade": 7\n}'
    # A cassette has no snapshots: the steps are those of the events.
    alone = call_view(recording, limit=None).steps
    assert [(step.id, step.status) for step in alone] == [
        ("draft", "running"),
        ("draft", "completed"),
        ("each", "running"),
    ]


def test_large_and_deep_values_are_cut_and_shown_whole_by_name() -> None:
    parts = Parts(100)
    deep: Any = {"a": 1}
    for _ in range(5_000):
        deep = [deep, "x"]
    assert json_text(deep).startswith("[[[[")
    assert json_text(deep).count("]") == 5_000
    for value in (
        "x" * 5_000_000,
        deep,
        {str(number): None for number in range(3_000)},
        ["y" * 9_000],
    ):
        shown = parts.add("part", value)
        assert shown.is_cut
        assert len(shown.text) == 100
        assert parts.whole("part") == shown.whole
    assert parts.whole("other") is None
    small = parts.add("small", '{"a": [1, null, true, "t"]}')
    assert small.root is not None
    assert [node.kind for node in small.root.children[0].children] == [
        "number",
        "null",
        "boolean",
        "string",
    ]


def test_session_views_judge_status_and_overlaps_of_calls() -> None:
    calls = [
        {"number": 1, "executionId": "a", "slug": "s", "status": "completed"},
        {"number": 2, "executionId": "b", "slug": "s", "status": "completed"},
        {"number": 3, "executionId": "c", "slug": "s", "status": "running"},
    ]
    for at, call in enumerate(calls):
        call["startedAt"] = f"2026-11-20T09:00:0{at}Z"
        call["completedAt"] = None if call["status"] == "running" else "2026-11-20T09:00:04Z"
    left = {"kind": "step", "position": 0, "executionId": "b", "call": {}, "abandoned": True}
    body = {
        "sessionId": "s-1",
        "startedAt": "2026-11-20T09:00:00Z",
        "completedAt": "2026-11-20T09:00:04Z",
        "counts": {"completed": 2, "running": 1},
        "calls": calls,
        "outcomes": [left],
        "totalCalls": 5,
    }
    now = datetime(2026, 11, 20, 9, 0, 5, tzinfo=timezone.utc)
    view = service_session(SessionCalls.model_validate(body), None, (), limit=100, now=now)
    first, second, third = view.calls.rows
    assert (view.status, view.is_live, view.milliseconds) == ("running", True, None)
    assert (first.status, second.status, third.status) == ("completed", "abandoned", "running")
    assert first.bar is not None
    assert second.bar is not None
    assert first.bar.x < second.bar.x < first.bar.x + first.bar.width < 1000
    # A run that waits for days does not make the others too small to see.
    later = now.replace(day=30)
    view = service_session(SessionCalls.model_validate(body), None, (), limit=100, now=later)
    assert view.calls.axis.end == 8_000
    assert "2 calls were made with other API keys" in view.notes[0]

    clock = {"started_at": 5.0, "completed_at": 6.5}
    good = Recording(slug="s", kind="execute", result={"result": "fine"}, **clock)  # type: ignore[arg-type]  # two kinds of values
    bad = Recording(slug=None, kind=None, error=RecordedError(message="no"))
    file = file_session(CassetteFile(None, [good, bad], ("$.x",), missing_calls=1), "a", limit=None)
    assert (file.status, file.milliseconds, file.total) == ("failed", 1500.0, 2)
    assert file.notes == [
        "1 call was made with other API keys, and cannot be seen here.",
        "Removed from the file: $.x.",
    ]
