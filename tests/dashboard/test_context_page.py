"""What the models received, on the page of a call, compared on a page, and in the exported file."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Browser, Page, expect

from noukai_sdk.dashboard.export import session_html
from noukai_sdk.dashboard.views.call_view import call_view
from noukai_sdk.replay.cassette_file import CassetteFile
from noukai_sdk.replay.recording import Recording
from tests.dashboard.conftest import Dev, check_accessible

HOSTILE = "<script>alert(1)</script>\u202e"


def converse(dev: Dev, session: str) -> None:
    """Make three calls: the conversation grows, then its first turn is cut."""
    first = {"role": "user", "content": f"{HOSTILE} {'It rains here. ' * 10}"}
    more = [{"role": "assistant", "content": "Take a coat"}, {"role": "user", "content": "Why?"}]
    cut = {**first, "content": f"{first['content'][:40]}..."}
    for turns in ([first], [first, *more], [cut, more[1], more[0]]):
        response = dev.client.post(
            "/seq/acme/tests/shout/execute",
            json={"messages": turns},
            headers={"X-Session-Id": session},
        )
        assert response.status_code == 200, response.text


def test_page_shows_what_models_received_and_compares_calls(page: Page, dev: Dev) -> None:
    converse(dev, "talk")
    page.goto(f"{dev.url}/sessions/talk")
    page.locator("#calls > li").nth(1).locator("summary").first.click()
    received = page.locator("details.received")
    expect(received.locator("summary").first).to_contain_text("3 messages")
    expect(received.locator(".turn")).to_have_count(3)
    expect(received).to_contain_text("<script>alert(1)</script>⟨U+202E⟩")
    expect(received.get_by_role("button", name="Copy user message").first).to_be_visible()
    check_accessible(page)
    form = page.locator("form[action$='/context']")
    form.get_by_label("with call").fill("3")
    form.get_by_label("received at call").fill("2")
    form.get_by_role("button", name="Compare").click()
    expect(page).to_have_url(f"{dev.url}/sessions/talk/context?from=2&to=3")
    expect(page.get_by_text("1 truncated")).to_be_visible()
    expect(page.locator("li.changed").first).to_contain_text("truncated")
    expect(page.locator("pre.diff .removed").first).to_contain_text("It rains here.")
    check_accessible(page)


def test_comparison_is_readable_without_scripts_and_names_missing_calls(
    browser: Browser, dev: Dev
) -> None:
    converse(dev, "quiet")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{dev.url}/sessions/quiet/context?from=1&to=2")
    expect(page.locator("li.added pre")).to_have_count(2)
    expect(page.locator("main")).to_contain_text("<script>alert(1)</script>⟨U+202E⟩")
    page.goto(f"{dev.url}/sessions/quiet/context?from=1&to=7")
    expect(page.locator("main")).to_contain_text("There is no call 7: the session has 3.")
    page.goto(f"{dev.url}/sessions/quiet/context?from=1&to=x")
    expect(page.locator("main")).to_contain_text("Name two calls by their numbers")
    context.close()


def test_rounds_of_a_step_show_what_the_round_before_did_not_have() -> None:
    def asks(*messages: dict[str, Any]) -> dict[str, Any]:
        request = {"model": "m", "max_tokens": 7}
        value = {"model": "openai:m", "messages": list(messages), "request": request}
        return {"eventType": "step_input", "stepId": "a", "inputData": value}

    user = {"role": "user", "content": "Weather?"}
    calls = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "look"}}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    started = {"eventType": "step_started", "stepId": "a"}
    events = (
        started,
        asks(user),
        {"eventType": "step_paused_for_tool_calls", "stepId": "a"},
        started,
        asks(user, calls, result),
        {"eventType": "step_completed", "stepId": "a", "output": "It is sunny"},
    )
    recording = Recording("s", "execute", result={"result": "It is sunny"}, events=events)
    (step,) = call_view(recording, limit=None).steps
    first, second = step.received
    assert [(each.same, len(each.turns)) for each in step.received] == [(0, 1), (1, 2)]
    assert [named.name for named in first.values] == ["max_tokens"]
    assert second.values == ()
    html = session_html(CassetteFile("s1", [recording]))
    assert html.count("Weather?") == 1
    assert "Request 2 of 2" in html
    assert "Message 1 as in the request before" in html


def test_agents_of_a_workflow_are_shown_on_the_item_that_runs_it() -> None:
    def asked(path: str) -> dict[str, Any]:
        value = {"model": "m", "messages": [{"role": "user", "content": path}], "request": {}}
        return {"eventType": "sub_flow_input", "stepId": "a", "path": path, "inputData": value}

    step = {"stepId": "a"}
    items = [{**step, "eventType": "step_input", "loopIndex": n, "inputData": {}} for n in (0, 1)]
    started, ended = {**step, "eventType": "step_started"}, {**step, "eventType": "step_completed"}
    events = (started, *items, asked("a[1]/b"), asked("a/c"), {**ended, "output": 1})
    views = call_view(Recording("s", "execute", events=events), limit=None).steps
    agents = {(each.id, each.loop_index): list(each.agents) for each in views}
    assert agents == {("a", None): ["a/c"], ("a", 0): [], ("a", 1): ["a[1]/b"]}
