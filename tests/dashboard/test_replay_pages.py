"""Test replays, forks and comparisons on a real ``noukai dev``, with a real app whose code changes."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Header, Response
from playwright.sync_api import Page, expect

from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.fastapi import instrument
from tests.support.servers import Server, serve_app, serve_backend, wait_until

from .conftest import FLOWS, Dev, check_accessible


class GradingApp:
    """An app, and what of its code has been edited."""

    def __init__(self) -> None:
        self.url = ""
        self.suffix = ""
        self.scale = 10
        self.fails = False
        self.repeats_key = False
        self.raw = ""
        self.keys: list[str | None] = []
        self.may_end = threading.Event()
        self.may_end.set()

    def app(self) -> FastAPI:
        client = AsyncNoukai(org="acme", project="tests")
        app = instrument(FastAPI(), client=client, capture_requests=True)
        flow = client.flow("shout")

        @app.post("/grade")
        async def grade(texts: list[str], authorization: str | None = Header(None)) -> Any:
            self.keys.append(authorization)
            results = [(await flow.execute(message=text + self.suffix)).result for text in texts]
            await asyncio.to_thread(self.may_end.wait, 60)
            if self.fails:
                raise RuntimeError("a bug")
            if self.raw:
                return Response(self.raw, media_type="application/json")
            said = authorization if self.repeats_key else "nothing"
            return {"scale": self.scale, "results": results, "said": said}

        return app

    def capture(self, dev: Dev, texts: list[str]) -> str:
        """Send a request, and return its session when all of it is stored."""
        headers = {"Authorization": "Bearer of-the-user"}
        response = httpx.post(f"{self.url}/grade", json=texts, headers=headers)
        session_id = response.headers["X-Noukai-Session"]
        stored = f"/seq/sessions/{session_id}/exchange"
        wait_until(lambda: dev.client.get(stored).status_code == 200)
        return session_id


@pytest.fixture
def grading(
    dev: Dev, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[GradingApp]:
    use_service(f"{dev.url}/api/v1")
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    grading = GradingApp()
    with serve_app(grading.app()) as grading.url:
        yield grading
        grading.may_end.set()


class Visitor:
    """A browser without scripts."""

    def __init__(self, dev: Dev) -> None:
        self.client = httpx.Client(base_url=dev.url, headers={"Origin": dev.url}, timeout=30)

    def get(self, path: str) -> str:
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return unescape(response.text)

    def send(self, url: str, **fields: str) -> httpx.Response:
        """Send a form with the token of a page."""
        page = self.client.get(url.removesuffix("s").removesuffix("/stop")).text
        [token, *_] = re.findall('name="csrf" value="([^"]+)"', page) or [""]
        return self.client.post(url, data={"csrf": token, **fields})

    def replay(self, session_id: str, **fields: str) -> str:
        """Replay a session; return the page when the replay has ended."""
        response = self.send(f"/sessions/{session_id}/replays", **fields)
        assert response.status_code == 303, unescape(response.text)
        path = response.headers["location"]
        assert re.fullmatch(r"/replays/[0-9a-f-]{36}", path)
        wait_until(lambda: "hx-trigger" not in self.get(path))
        return self.get(path)


@pytest.fixture
def visitor(dev: Dev) -> Iterator[Visitor]:
    visitor = Visitor(dev)
    yield visitor
    visitor.client.close()


def test_replay_page_tells_what_the_edited_app_does_otherwise(
    grading: GradingApp, dev: Dev, visitor: Visitor
) -> None:
    session_id = grading.capture(dev, ["one", "two"])
    page = visitor.replay(session_id, **{"header:authorization": "Bearer given"})
    assert "Replayed as recorded" in page
    assert "The response is as captured." in page
    assert grading.keys[-1] == "Bearer given"
    assert "given" not in page.replace("Changed: header authorization", "")

    grading.repeats_key = True
    page = visitor.replay(session_id, **{"header:authorization": "Bearer given-by-me"})
    assert "Equal but for $.said" in page
    assert "given-by-me" not in page

    grading.repeats_key, grading.scale = False, 20
    page = visitor.replay(session_id)
    assert "Equal but for $.scale" in page
    assert '<span class="removed">- 10' in page
    assert '<span class="added">+ 20' in page

    # No page could store these as they are.
    deep = '{"a":' * 800 + "1" + "}" * 800
    grading.raw = f'{{"scale": NaN, "results": "\\ud800", "said": {deep}, "\\ud800": ["\\ud800"]}}'
    assert "Equal but for $.scale, $.results, $.said and 1 more" in visitor.replay(session_id)

    grading.raw, grading.suffix = "", "!"
    page = visitor.replay(session_id)
    assert "message of call 1 changed" in page
    assert '<span class="added">+ one!' in page
    assert "test_replay_pages.py:" in page

    grading.suffix, grading.scale = "", 10
    page = visitor.replay(session_id, body='["one"]')
    assert "The replay failed" in page
    assert "the recorded call 2 ('two') was removed" in page
    [leftover] = re.findall('href="([^"]+/calls/[^"]+)">The recorded call', page)
    assert "two" in visitor.get(leftover)
    assert "Changed: body." in page
    # The way back to the list has its filters.
    form = visitor.get(f"/sessions/{session_id}/replay?from=%2F%3Fq%3Dgrade")
    [action] = re.findall('action="([^"]+)" class="replay"', form)
    [token, *_] = re.findall('name="csrf" value="([^"]+)"', form)
    sent = {"csrf": token, "target": grading.url, "path": "/grade", "body": '["one"]'}
    begun = visitor.client.post(action, data=sent).headers["location"]
    assert 'href="/?q=grade"' in visitor.get(begun)
    wait_until(lambda: "hx-trigger" not in visitor.get(begun))
    history = visitor.get(f"/sessions/{session_id}/replay")
    for headline in ("Replayed as recorded", "Equal but for $.scale", "The replay failed"):
        assert headline in history
    assert "Bearer" not in history


def test_replay_shows_calls_while_it_runs_and_no_more_than_four_run_at_once(
    grading: GradingApp, dev: Dev, visitor: Visitor
) -> None:
    session_id = grading.capture(dev, ["one", "two"])
    grading.may_end.clear()
    path = f"/sessions/{session_id}/replays"
    started = [visitor.send(path).headers["location"] for _ in range(4)]
    for url in started:
        wait_until(lambda url=url: "<b>2</b> hits" in visitor.get(url))
        fragment = visitor.client.get(url, headers={"HX-Request": "true"}).text
        assert fragment.startswith('<div id="replay" hx-get=')
        assert "The replay is running" in fragment
    refused = visitor.send(path)
    assert refused.status_code == 429
    assert "Too many replays are running" in refused.text
    assert visitor.send(f"{started[0]}/stop").headers["location"] == started[0]
    wait_until(lambda: "The replay was stopped by hand" in visitor.get(started[0]))
    grading.may_end.set()
    for url in started[1:]:
        wait_until(lambda url=url: "Replayed as recorded" in visitor.get(url))


def test_replay_is_over_when_its_service_is_killed_and_stops_through_any_process(
    tmp_path: Path,
    use_service: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    (tmp_path / "flows/acme/tests").mkdir(parents=True)
    (tmp_path / "flows/acme/tests/shout.yaml").write_text(FLOWS["acme/tests/shout.yaml"])
    grading = GradingApp()

    @contextmanager
    def started() -> Iterator[tuple[Server, Dev, Visitor]]:
        with (
            serve_backend(tmp_path, flows=tmp_path / "flows") as server,
            httpx.Client(
                base_url=server.api, headers={"Authorization": "Bearer nk_dev"}, timeout=30
            ) as client,
        ):
            dev = Dev(server.url, client, tmp_path)
            visitor = Visitor(dev)
            yield server, dev, visitor
            visitor.client.close()

    with started() as (server, dev, visitor):
        use_service(server.api)
        with serve_app(grading.app()) as grading.url:
            session_id = grading.capture(dev, ["one"])
            grading.may_end.clear()
            url = visitor.send(f"/sessions/{session_id}/replays").headers["location"]
            wait_until(lambda: "<b>1</b> hit" in visitor.get(url))
            server.kill()
            grading.may_end.set()
    with started() as (_, dev, visitor):
        page = visitor.get(url)
        assert "The process that ran the replay has died" in page
        assert "hx-trigger" not in page
        assert dev.client.get("/seq/sessions").json()["sessions"][0]["lastVerdict"] == "failed"
        # One that another process of the service runs.
        report = {"replayId": "elsewhere", "sent": {"target": "http://app", "processId": "other"}}
        stored = dev.client.post(f"/seq/sessions/{session_id}/replays", json=report)
        assert stored.status_code == 200
        assert "The replay is running" in visitor.get("/replays/elsewhere")
        assert visitor.send("/replays/elsewhere/stop").status_code == 303
        assert "The replay was stopped by hand" in visitor.get("/replays/elsewhere")
        # A form that was wrong leaves its address in the browser.
        again = visitor.client.get(f"/sessions/{session_id}/replays").headers["location"]
        assert again == f"/sessions/{session_id}/replay"


def test_fork_runs_with_another_message_and_is_linked_and_compared(
    grading: GradingApp, dev: Dev, visitor: Visitor
) -> None:
    session_id = grading.capture(dev, ["one", "two", "three"])
    form = visitor.get(f"/sessions/{session_id}/replay?from_call=2")
    assert "Message of call 2" in form
    fields = {"fork": "1", "from_call": "2", "recorded_message": "two"}
    page = visitor.replay(session_id, message="zwei <b>", **fields)
    assert "Forked: 1 call replayed, the rest live" in page
    assert "Changed: message of call 2." in page
    [child] = set(re.findall(r'href="/sessions/([^"/]+)"', page)) - {session_id}
    wait_until(lambda: child in visitor.get(f"/sessions/{session_id}/replay"))
    compared = visitor.client.get(f"/sessions/{session_id}/compare", params={"with": child})
    page = visitor.get(compared.headers["location"])
    assert "2 calls unchanged" in page
    assert "- two" in page
    assert "+ zwei <b>" in page
    assert "zwei <b>" not in visitor.client.get(compared.headers["location"]).text
    # A fork of the fork: its first own call comes after the one that its parent served.
    assert "Message of call 1" in visitor.get(f"/sessions/{child}/replay?from_call=1")
    fields = {"fork": "1", "from_call": "1", "recorded_message": "zwei <b>", "message": "deux"}
    assert "Forked: 1 call replayed, the rest live" in visitor.replay(child, **fields)
    # Of two that are chosen in the list, which has the newest first.
    both = visitor.client.get("/sessions/-/compare", params={"s": [child, session_id]})
    assert both.headers["location"] == compared.headers["location"]
    assert visitor.client.get("/sessions/-/compare", params={"s": child}).status_code == 400
    assert f'name="s" value="{child}"' in visitor.get("/")
    swapped = visitor.get(f"/sessions/{child}/compare/{session_id}")
    assert "+ two" in swapped
    assert "The sessions are equal" in visitor.get(f"/sessions/{child}/compare/{child}")
    # The fork is equal to itself: the app still sends what was replaced. All of it is served, and no more.
    assert "Replayed as recorded" in visitor.replay(child)
    page = visitor.replay(child, fork="1", from_call="39")
    assert "Forked: 3 calls replayed, none live" in page
    assert "Live after 3 calls" in page

    dev.client.delete(f"/seq/sessions/{session_id}").raise_for_status()
    assert "What it served, 1 call, is gone with it" in visitor.get(f"/sessions/{child}")
    compared = visitor.client.get(f"/sessions/{session_id}/compare/{child}")
    assert f"Nothing can be compared with session {session_id}" in compared.text
    for path in (f"/sessions/{child}/compare/{child}", f"/sessions/{child}/cassette.jsonl"):
        response = visitor.client.get(path)
        assert response.status_code == 404
        assert f"is a fork of session {session_id}, which is gone" in response.text


def test_requests_are_sent_to_this_machine_alone_and_by_our_forms_alone(
    grading: GradingApp, dev: Dev, visitor: Visitor
) -> None:
    session_id = grading.capture(dev, ["one"])
    before = len(grading.keys)
    path = f"/sessions/{session_id}/replays"
    for target in ("http://169.254.169.254", "http://10.0.0.1:8000", "http://a:b@localhost"):
        response = visitor.send(path, target=target, **{"header:authorization": "s3cret-key"})
        assert response.status_code == 400
        assert target in unescape(response.text)
        assert "s3cret-key" not in response.text
    for fields in (
        {"path": "//evil\nHost: a"},
        {"path": "grade"},
        {"headers": "Host: other"},
        {"headers": "X-Noukai-Replay: s"},
        {"headers": "no colon"},
        {"fork": "1", "from_call": "0"},
        {"fork": "1", "from_call": "1", "message": "x" * 9_000},
    ):
        assert visitor.send(path, **fields).status_code == 400
    # CSRF: no token, or from another site.
    assert visitor.client.post(path).status_code == 403
    elsewhere = visitor.client.post(path, headers={"Origin": "http://evil.example"})
    assert elsewhere.status_code == 403
    assert len(grading.keys) == before

    # Nobody listens there.
    page = visitor.replay(session_id, target="http://127.0.0.1:1", path="/grade?key=k-12345678")
    assert "The app could not be reached: http://127.0.0.1:1: " in page
    assert "k-12345678" not in page


def test_failed_request_is_replayed_with_the_fix_in_two_clicks_and_forked_in_five(
    page: Page, grading: GradingApp, dev: Dev
) -> None:
    grading.fails = True
    session_id = grading.capture(dev, ["Teh cat <img src=x onerror=alert(1)>", "two"])
    page.goto(dev.url)
    grading.fails = False  # the fix
    row = page.get_by_role("row").filter(has_text=session_id)
    row.get_by_role("link", name="POST /grade").click()
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_text("Equal but for")).to_be_visible()
    expect(page.locator("pre.diff .added").first).to_contain_text("200")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        check_accessible(page)

    # Another body, and what was removed at capture.
    page.get_by_role("link", name="Edit and replay").click()
    check_accessible(page)
    page.get_by_label("Body").fill('["The cat", "two"]')
    page.get_by_label("authorization").fill("Bearer mine")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("+ The cat", exact=True).first).to_be_visible()
    assert grading.keys[-1] == "Bearer mine"
    page.keyboard.press("r")
    expect(page.get_by_text("Equal but for")).to_be_visible()

    page.get_by_role("link", name="The session").click()
    page.locator("#calls summary").nth(1).click()
    page.get_by_role("link", name="Fork from call 2").click()
    page.get_by_label("Message of call 2").fill("zwei")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Forked: 1 call replayed, the rest live")).to_be_visible()
    page.get_by_role("link", name="Compare it with its parent").click()
    expect(page.get_by_text("+ zwei", exact=True)).to_be_visible()
    check_accessible(page)

    page.goto(dev.url)
    for each in page.get_by_role("checkbox").all()[:2]:
        each.check()
    page.get_by_role("button", name="Compare the two chosen").click()
    expect(page.get_by_role("heading", name="Compare sessions")).to_be_visible()
    expect(page.get_by_text("+ zwei", exact=True)).to_be_visible()
