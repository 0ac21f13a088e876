"""Test the page of a session in a browser."""

from __future__ import annotations

import io
import json
import sqlite3
import zipfile
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Locator, Page, expect

from noukai_sdk.replay.cassette_file import read_cassette

from .conftest import Dev, check_accessible

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
HOSTILE = (
    "</pre></script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "<a href='javascript:window.hacked=1'>link</a> \"' &lt; {{ 7*7 }} \x1b[31mred \u202eevil \x00 \ufeff"
)
EXCHANGE = {
    "request": {
        "method": "POST",
        "origin": "http://localhost:8000",
        "path": "/weather",
        "headers": [["content-type", "application/json"], ["x-note", HOSTILE]],
        "body": {"text": '{"city": "Paris"}', "size": 17},
        "redacted": ["header authorization"],
    },
    "response": {"status": 200, "headers": [], "body": {"text": HOSTILE, "size": 5_000}},
    "startedAt": "2026-11-20T09:00:00Z",
}


def put(dev: Dev, session: str, name: str, body: Any) -> None:
    method = "POST" if name == "replays" else "PUT"
    dev.client.request(method, f"/seq/sessions/{session}/{name}", json=body).raise_for_status()


def open_call(page: Page, number: int) -> Locator:
    row = page.locator("#calls > li").nth(number - 1)
    row.locator("summary[data-row]").click()
    expect(row.locator(".call")).to_be_visible()
    return row


def ask_weather(dev: Dev, session: str) -> dict[str, Any]:
    """Begin a run that waits for a tool; return the body that continues it."""
    flow = "/seq/acme/samples/weather/execute"
    first = {"message": "Weather in Paris?", "tools": TOOLS}
    pause = dev.client.post(flow, json=first, headers={"X-Session-Id": session}).json()
    result = {"role": "tool", "content": '{"sky": "clear"}'}
    results = [{**result, "tool_call_id": call["id"]} for call in pause["toolCalls"]]
    fields = ("executionId", "pausedAtStep", "iterationsUsed", "accumulatedOutputs")
    messages = [*pause["toolCallMessages"], *results]
    return {**{name: pause[name] for name in fields}, "toolCallMessages": messages, "tools": TOOLS}


def copy_call(database: Path, session: str, times: int) -> None:
    """Store copies of the only call of a session."""
    numbers = f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {times})"
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        where = "SELECT id FROM executions WHERE session_id = ?"
        ((call,),) = connection.execute(where, [session])
        for table, key in (
            ("executions", "id"),
            ("steps", "execution_id"),
            ("events", "execution_id"),
        ):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            values = {name: name for name in names} | {key: f"{key} || '-' || n"}
            if table == "executions":
                values["started_at"] = "started_at + n * 1000"
            columns, copied = ", ".join(names), ", ".join(values.values())
            insert = f"INSERT INTO {table} ({columns}) {numbers} SELECT {copied} FROM {table}, c"
            connection.execute(f"{insert} WHERE {key} = ?", [call])


def test_session_page_shows_calls_request_and_downloads_and_is_live(page: Page, dev: Dev) -> None:
    name = "live-session"
    put(dev, "origin", "exchange", EXCHANGE)
    assert dev.run("samples/two-step", "The cat", session=name).status_code == 200
    assert dev.run("tests/parse", session=name).status_code >= 400
    going_on = ask_weather(dev, name)
    refused = {
        "kind": "execute",
        "position": 0,
        "call": {"org": "acme", "project": "tests", "slug": "none", "request": {"message": "?"}},
        "error": {"statusCode": 402, "code": "CREDITS_EXHAUSTED", "message": "no credits"},
    }
    parent = {"sessionId": "origin", "served": [{"order": 0, "index": 0}]}
    put(dev, name, "outcomes", {"outcomes": [refused], "parent": parent})
    put(dev, name, "replays", {"replayId": "r1", "state": "finished", "verdict": "clean"})

    page.goto(f"{dev.url}/?q={name}")
    page.get_by_role("row").filter(has_text=name).get_by_role("link").first.click()
    rows = page.locator("#calls > li")
    expect(rows).to_have_count(3)
    expect(page.locator("#facts")).to_contain_text("failed")
    expect(page.locator("#session-id")).to_have_text(name)
    expect(page.get_by_role("link", name="origin")).to_be_visible()
    expect(page.get_by_text("CREDITS_EXHAUSTED: no credits")).to_be_visible()
    expect(rows.nth(2)).to_contain_text("running")

    first = open_call(page, 1)
    expect(first.locator(".turn.user").first).to_contain_text("The cat")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    first.get_by_role("button", name="Copy message").click()
    expect(page.locator("#announce")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "The cat"
    expect(open_call(page, 2).locator(".problem").first).to_contain_text("Expecting value")
    waiting = open_call(page, 3)
    waiting.get_by_text("Raw", exact=True).first.click()
    # What comes while the page is open is shown without a reload, and what is open stays open.
    flow = "/seq/acme/samples/weather/execute"
    dev.client.post(flow, json=going_on, headers={"X-Session-Id": name}).raise_for_status()
    assert dev.run("tests/shout", "one more", session=name).status_code == 200
    put(dev, name, "exchange", EXCHANGE)
    expect(rows).to_have_count(4)
    expect(rows.nth(2).locator("summary .status")).to_have_text("completed")
    expect(rows.nth(3)).to_contain_text("one more")
    expect(waiting.get_by_role("region", name="Output, the result of the call")).to_contain_text(
        "clear"
    )
    expect(waiting.get_by_role("region", name="Tool round 1")).to_contain_text('"sky": "clear"')
    expect(waiting.locator("details.raw").first).to_have_attribute("open", "")
    page.get_by_text("Request and response").click()
    expect(page.get_by_text("header authorization")).to_be_visible()

    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of playwright's literals
            check_accessible(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    page.reload()
    expect(page.locator(".curl pre")).to_contain_text(f"X-Noukai-Replay: {name}")
    page.get_by_role("link", name="failed").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("parse execute of acme/tests")
    page.get_by_text("Download", exact=True).first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    archive = zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes()))
    test = "test_post_weather"
    assert archive.namelist() == [f"{test}.py", f"cassettes/{test}/{test}.jsonl"]
    compile(archive.read(f"{test}.py"), test, "exec")


def test_session_page_without_scripts_is_read_by_links(browser: Browser, dev: Dev) -> None:
    assert dev.run("tests/shout", "plain", session="plain").status_code == 200
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{dev.url}/sessions/plain")
    page.locator("#calls summary").first.click()
    page.get_by_role("link", name="Show call 1").click()
    expect(page.locator(".turn.user")).to_contain_text("Shout plain")
    page.get_by_role("link", name="Session plain").click()
    expect(page.locator("#session-id")).to_have_text("plain")
    context.close()


def recorded(dev: Dev, session: str, *offsets: float, name: str = "shop.load") -> dict[str, Any]:
    """Return recorded functions that began so many seconds after the first call of a session."""
    calls = dev.client.get(f"/seq/sessions/{session}/calls").json()
    start = datetime.fromisoformat(calls["startedAt"].replace("Z", "+00:00"))
    times = [(start + timedelta(seconds=offset)).isoformat() for offset in offsets]
    return {
        "boundaries": [
            {
                "name": name,
                "position": position,
                "arguments": {"isbn": f"{position} {HOSTILE}", "db": {"$object": "Session"}},
                "result": {"$type": "app.Book", "title": HOSTILE, "tags": {"$type": "tuple"}},
                "startedAt": time,
                "completedAt": time,
                "site": "main.py:41",
            }
            for position, time in enumerate(times)
        ]
    }


def test_recorded_functions_appear_in_their_place_and_open(page: Page, dev: Dev) -> None:
    name = "with-functions"
    assert dev.run("tests/shout", "one", session=name).status_code == 200
    page.goto(f"{dev.url}/sessions/{name}")
    lines = page.locator("#calls > li")
    expect(lines).to_have_count(1)
    # An application sends them when its request has ended, after the calls.
    put(dev, name, "boundaries", recorded(dev, name, -1, 60))
    expect(lines).to_have_count(3)
    for _ in range(2):
        before, call, after = (lines.nth(number) for number in range(3))
        expect(call).to_contain_text("shout")
        expect(call.locator(".n")).to_have_text("1")
        for line in (before, after):
            expect(line.locator("summary")).to_contain_text("load recorded, shop")
        expect(page.locator("#facts")).to_contain_text("2 calls")
        expect(page.locator("#recorded-note")).to_contain_text("recorded function")
        before.locator("summary[data-row]").click()
        expect(before.get_by_role("region", name="Result")).to_contain_text("Book(")
        expect(before.get_by_role("region", name="db")).to_contain_text("<Session>")
        expect(before).to_contain_text("Called at main.py:41")
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 800})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of playwright's literals
                check_accessible(page)
        page.reload()
    assert page.evaluate("window.hacked") is None

    page.goto(f"{dev.url}/sessions/{name}/recorded/1")
    expect(page.get_by_role("heading", level=1)).to_contain_text("shop.load")
    expect(page.get_by_role("region", name="isbn")).to_contain_text("1 </pre>")
    assert page.request.get(f"{dev.url}/sessions/{name}/recorded/2").status == 404

    other = "without-functions"
    assert dev.run("tests/shout", "one", session=other).status_code == 200
    page.goto(f"{dev.url}/sessions/{name}/compare/{other}")
    expect(page.get_by_role("heading", name="Recorded functions")).to_be_visible()
    expect(page.get_by_text("; of recorded functions, 2 calls removed.")).to_be_visible()
    check_accessible(page)
    assert page.evaluate("window.hacked") is None


def test_more_than_200_recorded_functions_are_shown_on_demand(page: Page, dev: Dev) -> None:
    name = "many-functions"
    assert dev.run("tests/shout", "one", session=name).status_code == 200
    put(dev, name, "boundaries", recorded(dev, name, *(number / 100 for number in range(201))))
    page.goto(f"{dev.url}/sessions/{name}")
    lines = page.locator("#calls > li")
    expect(lines).to_have_count(1)
    page.get_by_role("link", name="Show 201 calls of recorded functions").click()
    expect(lines).to_have_count(202)
    page.get_by_role("link", name="Hide recorded functions").click()
    expect(lines).to_have_count(1)


def test_session_page_of_4000_calls_shows_200_at_a_time(page: Page, dev: Dev) -> None:
    assert dev.run("tests/shout", "many", session="many").status_code == 200
    copy_call(dev.flows.parent / "noukai.db", "many", 3_999)
    page.goto(f"{dev.url}/sessions/many")
    rows = page.locator("#calls > li")
    expect(rows).to_have_count(200)
    expect(page.locator("#facts")).to_contain_text("4,000")
    page.get_by_role("link", name="3801-4000").click()
    expect(rows.last).to_contain_text("4000")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(rows.last.locator(".turn.user")).to_contain_text("Shout many")


def test_session_page_of_hostile_recordings_executes_nothing(page: Page, dev: Dev) -> None:
    deep: Any = "bottom"
    for _ in range(100):
        deep = [deep]
    parameters = {
        "long": "x" * 5_000_000,
        "kinds": {HOSTILE: [HOSTILE, 1, -2.5e300, 10**30, True, None, {}, [], ""]},
        "wide": {str(number): number for number in range(2_000)},
        "deep": deep,
        "json": json.dumps({"__proto__": HOSTILE}),
    }
    messages = [{"role": "user", "content": [{"type": "text", "text": HOSTILE}, {"odd": HOSTILE}]}]
    for body in ({"message": HOSTILE, "parameters": parameters}, {"messages": messages}):
        response = dev.client.post(
            "/seq/acme/tests/shout/execute", json=body, headers={"X-Session-Id": "hostile"}
        )
        assert response.status_code == 200, response.text[:500]
    put(dev, "hostile", "exchange", EXCHANGE)
    page.goto(f"{dev.url}/sessions/hostile#exchange")
    for number in (1, 2):
        open_call(page, number)
    first = page.locator("#calls > li").first
    expect(first).to_contain_text("<script>window.hacked=1</script>")
    expect(first).to_contain_text("␛[31mred ⟨U+202E⟩evil")
    expect(first).to_contain_text("1000000000000000000000000000000")
    check_accessible(page)
    assert page.evaluate("window.hacked") is None
    whole = first.get_by_role("link", name="Show all").first.get_attribute("href") or ""
    response = page.request.get(f"{dev.url}{whole}")
    assert response.headers["content-type"].startswith("text/plain")
    assert "x" * 5_000_000 in response.text()
    # The same as a file without a server.
    with page.expect_download() as download:
        page.evaluate("location.href = '/sessions/hostile/session.html'")
    path = download.value.path().with_suffix(".html")
    path.write_bytes(download.value.path().read_bytes())
    page.goto(path.as_uri())
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#calls > li").first.locator(".call")).to_contain_text("⟨U+202E⟩evil")
    assert page.evaluate("window.hacked") is None


def test_session_downloads_are_those_of_the_command_line_or_say_why_not(
    dev: Dev, tmp_path: Path
) -> None:
    secret = "sk-proj-1234567890abcdefghijklmnopqrstuv"
    assert dev.run("tests/shout", secret, session="downloads").status_code == 200
    url = f"{dev.url}/sessions/downloads"
    cassette = httpx.get(f"{url}/cassette.jsonl")
    assert "attachment" in cassette.headers["content-disposition"]
    path = tmp_path / "a.jsonl"
    path.write_bytes(cassette.content)
    (recording,) = read_cassette(path).recordings
    assert recording.slug == "shout"
    assert secret not in cassette.text
    assert secret not in httpx.get(f"{url}/session.html").text

    def refused(query: str) -> tuple[int, str]:
        response = httpx.get(f"{url}/{query}")
        return response.status_code, response.text

    assert refused("test.zip?app=rm -rf")[0] == 400
    status, text = refused("test.zip?app=main:app")
    assert (status, "capture_requests=True" in text) == (404, True)
    cut = {**EXCHANGE["request"], "body": {"text": "half", "size": 9_000, "truncated": True}}
    put(dev, "downloads", "exchange", {**EXCHANGE, "request": cut})
    status, text = refused("test.zip?app=main:app")
    assert (status, "No test can send this request" in text) == (409, True)
    assert "Replay it with curl" not in httpx.get(url).text
    long = {**EXCHANGE["request"], "body": {"text": "x" * 30_000, "size": 30_000}}
    put(dev, "long", "exchange", {**EXCHANGE, "request": long})
    assert "x" * 30_000 not in httpx.get(f"{dev.url}/sessions/long").text
    assert "x" * 30_000 in httpx.get(f"{dev.url}/sessions/long/curl").text
    assert refused("text?part=nothing")[0] == 404
    assert httpx.get(f"{url}/text?part=response.body").text == HOSTILE


def test_open_page_of_a_session_that_is_deleted_says_so(
    page: Page, dev: Dev, console_errors: list[str]
) -> None:
    for text in ("one", "two"):
        assert dev.run("tests/shout", text, session="deleted").status_code == 200
    page.goto(f"{dev.url}/sessions/deleted")
    dev.client.delete("/seq/sessions/deleted").raise_for_status()
    expect(page.get_by_role("alert").filter(has_text="This session is gone")).to_be_visible()
    page.locator("#calls summary").nth(1).click()
    expect(page.get_by_role("alert").filter(has_text="This call is gone")).to_be_visible()
    assert all("404" in error for error in console_errors)
    console_errors.clear()
