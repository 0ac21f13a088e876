"""Test what the pages of replays and comparisons show, without a browser."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.dashboard.rendering import render
from noukai_sdk.dashboard.views.comparison import ComparedSession, compare_sessions, value_diff
from noukai_sdk.dashboard.views.replay import ReplayView, history_view, replay_view
from noukai_sdk.dashboard.views.replay_form import FormError, fork_inputs, read_form, replay_form
from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.models.session_lists import StoredReport
from noukai_sdk.replay.recording import Recording
from noukai_sdk.replaying.outcome import Outcome

NOW = datetime(2026, 5, 31, 12, tzinfo=timezone.utc)
SENT = {"target": "http://localhost:8000"}


def exchange(text: str | None = '["one"]', **request: Any) -> Exchange:
    body = None if text is None else CapturedBody(text=text, size=len(text.encode()))
    fields = {"method": "POST", "origin": "http://localhost:8000", "path": "/grade", "body": body}
    return Exchange(
        request=CapturedRequest(**{**fields, **request}), response=CapturedResponse(status=200)
    )


def view_of(**fields: Any) -> ReplayView:
    report = StoredReport.model_validate({"replayId": "r", "sessionId": "s", **fields})
    return replay_view(report, longest=300, now=NOW)


def test_replay_state_follows_report_and_sender() -> None:
    finished = {"state": "finished", "verdict": "clean", "summary": "hits=1; misses=0"}
    started = {"startedAt": "2026-05-31T11:58:00Z"}
    differences = [{"where": "$.a", "captured": 1, "received": 2}]
    for expected, headline, fields in (
        ("running", "The replay is running", started),
        # The app has reported, but the response is not compared yet.
        ("running", "The replay is running", {**finished, **started, "sent": SENT}),
        ("unknown", "It is not known how", {"startedAt": "2026-05-31T11:00:00Z"}),
        ("clean", "Replayed as recorded", finished),
        ("failed", "The replay failed", {**finished, "verdict": "failed"}),
        (
            "differs",
            "Equal but for $.a",
            {**finished, "sent": {**SENT, "result": "differs", "differences": differences}},
        ),
        (
            "forked",
            "Forked: 2 calls replayed, the rest live",
            {
                **finished,
                "summary": "hits=2; misses=0; live=1",
                "sent": {**SENT, "result": "clean", "liveFrom": 2},
            },
        ),
        (
            "forked",
            "Forked: 1 call replayed, none live",
            {**finished, "sent": {**SENT, "result": "clean", "liveFrom": 39}},
        ),
        (
            "failed",
            "Not replayed: is",
            {
                **finished,
                "sent": {**SENT, "result": "not replayed", "headline": "not replayed: is"},
            },
        ),
    ):
        view = view_of(**fields)
        assert (view.state, view.headline.startswith(headline)) == (expected, True), view.headline


def test_request_that_was_not_replayed_says_what_the_app_lacks() -> None:
    def headline(session_id: str | None) -> str:
        return Outcome(200, "", session_id, summary_line=None, replayed=False).headline

    assert "middleware" in headline(None)
    assert "NOUKAI_REPLAY_ENABLED=true" in headline("s-new")


def test_count_of_thousands_of_digits_is_left_out() -> None:
    assert [each.name for each in view_of(summary=f"hits={'9' * 5_000}; drift=1").counts] == [
        "drift"
    ]


def test_leftovers_of_a_fork_are_no_problem() -> None:
    fields: dict[str, Any] = {
        "state": "finished",
        "verdict": "clean",
        "summary": "hits=1; leftovers=1",
        "report": {"leftovers": [{"slug": "f", "kind": "execute", "position": 1, "detail": ""}]},
    }
    assert [each.word for each in view_of(**fields).problems] == ["Leftover"]
    fork = view_of(**fields, sent={**SENT, "result": "clean", "liveFrom": 1})
    assert (fork.problems, [each.is_problem for each in fork.counts]) == ([], [False, False])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(["hits", "misses", "drift", "leftovers", "lost", "findings", "live"])
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "slug": JSON,
        "kind": JSON,
        "position": JSON,
        "detail": JSON,
        "callSite": JSON,
        "changes": JSON | st.lists(st.fixed_dictionaries({"path": JSON, "diff": JSON}), max_size=2),
        "text": JSON,
    },
)


@given(
    report=st.dictionaries(NAMES, st.lists(ENTRY, max_size=2) | JSON, max_size=4),
    text=st.text(max_size=40),
    difference=st.dictionaries(
        st.sampled_from(["where", "captured", "received", "diff"]), JSON, max_size=4
    ),
)
def test_replay_page_shows_hostile_reports_as_text(
    report: dict[str, Any], text: str, difference: dict[str, Any]
) -> None:
    hostile = f"<script>{text}</script>"
    sent = {**SENT, "headline": hostile, "differences": [difference], "notes": [hostile]}
    view = view_of(
        state="finished", report=report, summary=hostile, sent=sent, error={"message": hostile}
    )
    visit = SimpleNamespace(token="t", from_query="")
    page = render("replay_result.html", visit=visit, replay=view, look=1000, soon=300)
    assert "<script" not in page
    history = history_view("s", [view.report], [], longest=300)
    assert "<script" not in render("replay_history.html", visit=visit, history=history)


def test_form_without_changes_sends_the_request_as_captured() -> None:
    captured = exchange("one\r\ntwo\n", redacted=("header authorization", "body $.key"))
    form = replay_form("s", captured)
    assert (form.masked_headers, form.masked_parts) == (("authorization",), ("body $.key",))
    # As a browser sends it.
    fields = {"target": form.target, "path": form.path, "body": "one\r\ntwo\r\n", "headers": ""}
    for values in ({}, fields, {**fields, "header:authorization": ""}):
        sending = read_form(values, captured)
        assert (sending.edits, sending.content, sending.headers) == ((), None, ())
        assert sending.options == {}
    changed = {**fields, "body": "one\r\n2", "header:authorization": "Bearer k", "strict": "1"}
    sending = read_form(changed, captured)
    assert sending.content == b"one\n2"
    assert sending.edits == ("header authorization", "body")
    assert sending.headers == (("authorization", "Bearer k"),)
    assert sending.options == {"strict": True}
    fork = {"fork": "1", "from_call": "3", "message": "a\r\nb", "recorded_message": "a\nb"}
    assert read_form(fork, captured).options == {"live_from": 2}
    edited = read_form({**fork, "message": "c"}, captured)
    assert edited.options == {"live_from": 2, "edit": {"message": "c"}}
    assert edited.edits == ("message of call 3",)
    inputs = fork_inputs({"message": "a\nb", "parameters": {"level": 3}, "tools": []})
    assert [name for name, _ in inputs] == ["message", "parameters"]
    fields = {f"{start}{name}": text for name, text in inputs for start in ("", "recorded_")}
    as_recorded = {"fork": "1", "from_call": "1", **fields}
    assert read_form(as_recorded, captured).options == {"live_from": 0}
    harder = read_form({**as_recorded, "parameters": '{"level": 4}'}, captured)
    assert harder.options == {"live_from": 0, "edit": {"parameters": {"level": 4}}}
    with pytest.raises(FormError, match="parameters of the call must be JSON"):
        read_form({**as_recorded, "parameters": "[4]"}, captured)


def test_form_offers_only_bodies_that_a_browser_can_edit() -> None:
    assert replay_form("s", None).why_not
    assert replay_form("s", exchange(origin="ws://localhost")).why_not
    assert replay_form("s", exchange(None)).body == ""
    for body in (
        CapturedBody(text="AAA=", encoding="base64", size=2),
        CapturedBody(text="a\x00b", size=3),
        CapturedBody(text="x" * 600_000, size=600_000),
    ):
        form = replay_form("s", exchange(body=body))
        assert form.body is None
        assert read_form({"body": "other"}, exchange(body=body)).content is None
    part = exchange(body=CapturedBody(text="a", size=9, truncated=True))
    assert replay_form("s", part).body == ""
    assert read_form({"body": "whole"}, part).content == b"whole"


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "grade"},
        {"path": "/a b"},
        {"path": "/a\r\nHost: b"},
        {"path": "/a#b"},
        {"headers": "Host: a"},
        {"headers": "Content-Length: 1"},
        {"headers": "X-Noukai-Replay: s-2"},
        {"headers": "a b: c"},
        {"header:a\r\nb": "c"},
        {"header:authorization": "a\r\nb: c"},
        {"fork": "1"},
        {"fork": "1", "from_call": "-1"},
        {"fork": "1", "from_call": "1", "parameters": '{"a": NaN}', "recorded_parameters": "{}"},
    ],
)
def test_form_refuses_what_is_no_part_of_a_request(fields: dict[str, str]) -> None:
    with pytest.raises(FormError):
        read_form(fields, exchange())


def recording(message: str, result: Any = "r") -> Recording:
    made = Recording("grade-3", "execute")
    made.request, made.result = {"message": message}, {"status": "completed", "result": result}
    return made


def test_comparison_names_calls_that_were_added_removed_and_changed() -> None:
    texts = ["The cat sat on the mat.", "A dog ran over the road.", "Birds sing in the morning."]
    left = [recording(text) for text in texts]
    right = [recording(text) for text in (texts[0], "Birds sing in the evening.", "Snow falls.")]
    right[0].result = {"status": "completed", "result": {"grade": 2}}
    found = compare_sessions(
        ComparedSession("a", left, exchange()), ComparedSession("b", right, exchange('["two"]'))
    )
    shown = [(call.state, call.title, call.preview) for call in found.calls]
    assert shown == [
        ("changed", "grade-3, execute 1", texts[0]),
        ("removed", "grade-3, execute 2", texts[1]),
        ("changed", "grade-3, execute 3 → 2", texts[2]),
        ("added", "grade-3, execute 3", "Snow falls."),
    ]
    assert found.summary == "1 call added, 1 call removed, 2 calls changed"
    assert found.request is not None
    assert [part.name for part in found.request] == ["body"]
    assert found.response == []
    page = render("compare.html", visit=None, found=found)
    assert '<span class="added">+ Birds sing in the evening.\n</span>' in page
    swapped = compare_sessions(found.b, found.a)
    assert swapped.counts == found.counts
    assert found.swapped_url == "/sessions/b/compare/a"


def test_comparison_of_long_sessions_shows_only_what_differs() -> None:
    left = [recording(f"The text number {number}.") for number in range(4000)]
    right = [recording(f"The text number {number}.") for number in range(4000)]
    right[2000] = recording("Something else.")
    found = compare_sessions(ComparedSession("a", left), ComparedSession("b", right))
    assert [call.state for call in found.calls] == ["changed"]
    assert found.counts == {"changed": 1, "same": 3999}
    assert len(found.same) == 1000
    assert found.more == 2999


def test_value_diff_of_large_values_is_cut() -> None:
    lines = value_diff("a" * 5_000_000, "b" * 5_000_000)
    assert [line.kind for line in lines] == ["removed", "added"]
    assert sum(len(line.text) for line in lines) < 5_000
    lines = value_diff("\n" * 20_000, "\n" * 20_001)
    assert [line.kind for line in lines] == ["removed", "added"]
    lines = value_diff([str(number) for number in range(1000)], [])
    assert len(lines) == 401


def test_input_that_is_too_long_to_be_sent_is_not_offered_for_a_change() -> None:
    assert fork_inputs({"message": "x" * 20_001, "parameters": {"a": 1}}) == (
        ("parameters", '{\n  "a": 1\n}'),
    )
