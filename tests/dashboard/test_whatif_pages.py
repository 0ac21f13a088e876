"""Test the form of a what-if and its page on a real ``noukai dev``, with a browser and without scripts."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, expect

from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.fastapi import instrument
from noukai_sdk.backend.app import create_app
from noukai_sdk.backend.settings import Settings
from noukai_sdk.dashboard.app import Dashboard
from tests.support.servers import serve_app, wait_until

from .conftest import Dev, check_accessible


def sessions_of(dev: Dev, parent: str) -> list[str]:
    found = dev.client.get("/seq/sessions", params={"parent": parent}).json()["sessions"]
    return [each["sessionId"] for each in found]


def test_form_runs_a_call_alone_and_shows_it_beside_the_recording(
    page: Page, dev: Dev, console_errors: list[str]
) -> None:
    dev.run("tests/shout", "<img src=x onerror=alert(1)>", session="what-if-alone")
    dev.run("samples/hello-world", "Hello", session="what-if-alone")
    wait_until(lambda: len(dev.client.get("/seq/sessions/what-if-alone").json()["executions"]) == 2)
    page.goto(f"{dev.url}/sessions/what-if-alone")
    page.get_by_role("link", name="What if").click()
    check_accessible(page)
    page.get_by_label("Runs live").select_option("acme/tests/shout#1")
    page.get_by_text("Prompt, parameters, message").click()
    page.get_by_label("Prompt of its steps").first.fill("Whisper {{message}} <b>softly</b>")
    page.get_by_label("Temperature").fill("warm")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("temperature must be a number, not 'warm'")
    assert "400" in console_errors.pop()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Runs (1 to 20)").fill("2")
    page.get_by_role("button", name="Run").click()

    expect(page.locator(".verdict")).to_contain_text("Done: 2 of 2 runs")
    check_accessible(page)
    table = page.get_by_role("table").first
    expect(table).to_contain_text("offline")
    expect(table.get_by_role("columnheader", name="run 2")).to_be_visible()
    expect(page.get_by_text("Whisper {{message}} <b>softly</b>")).to_be_visible()
    expect(page.locator("pre.diff").first).to_contain_text("<img src=x onerror=alert(1)>")

    # Each run is a fork: the other call belongs to it too.
    forks = sessions_of(dev, "what-if-alone")
    assert len(forks) == 2
    fork = dev.client.get(f"/seq/sessions/{forks[0]}").json()
    assert [each["slug"] for each in fork["executions"]] == ["shout"]
    assert len(fork["parent"]["served"]) == 1
    assert len(dev.client.get("/seq/sessions/what-if-alone").json()["executions"]) == 2
    page.set_viewport_size({"width": 390, "height": 800})
    check_accessible(page)
    # The session lists it, and leads to it.
    page.goto(f"{dev.url}/sessions/what-if-alone/replay")
    page.get_by_role("table").get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="What if")).to_be_visible()


def test_what_if_through_the_app_and_refusals(
    dev: Dev, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_service(f"{dev.url}/api/v1")
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    client = AsyncNoukai(org="acme", project="tests")
    app = instrument(FastAPI(), client=client, capture_requests=True)

    @app.post("/shout")
    async def shout(texts: list[str]) -> list[str]:
        return [(await client.flow("shout").execute(text)).result for text in texts]

    with (
        serve_app(app) as app_url,
        httpx.Client(base_url=dev.url, headers={"Origin": dev.url}, timeout=60) as visitor,
    ):
        session_id = httpx.post(f"{app_url}/shout", json=["one", "two"]).headers["X-Noukai-Session"]
        exchange = f"/seq/sessions/{session_id}/exchange"
        wait_until(lambda: dev.client.get(exchange).status_code == 200)
        url = f"/sessions/{session_id}/whatif"
        [token, *_] = re.findall('name="csrf" value="([^"]+)"', visitor.get(url).text) or [""]
        fields = {"csrf": token, "live": "shout#2", "prompt": "Whisper {{message}}", "way": "app"}
        for changed, status, problem in (
            ({"csrf": "wrong"}, 403, "form"),
            ({"live": "none"}, 400, "no call none"),
            ({"runs": "21"}, 400, "from 1 to 20"),
            ({"parameters": "[]"}, 400, "must be a JSON object"),
            ({"target": "http://10.0.0.1:80"}, 400, "are not allowed"),
        ):
            response = visitor.post(f"{url}s", data={**fields, **changed})
            assert (response.status_code, problem in unescape(response.text)) == (status, True)

        response = visitor.post(f"{url}s", data={**fields, "target": app_url})
        assert response.status_code == 303, unescape(response.text)
        path = response.headers["location"]
        wait_until(lambda: "hx-trigger" not in visitor.get(path).text)
        text = unescape(visitor.get(path).text)
        assert "Done: the run" in text
        assert "the response differs from the captured one" in text
        assert "$[1]" in text
        assert "hits=1" in text
        assert len(sessions_of(dev, session_id)) == 1


def test_service_behind_a_key_runs_what_ifs_with_the_key_of_the_visitor(tmp_path: Path) -> None:
    keys = {"nk_of_acme": "acme", "nk_of_others": "others"}
    with (
        serve_app(Dashboard(create_app(Settings(tmp_path / "a.db", keys=keys)))) as url,
        httpx.Client(base_url=url, headers={"Origin": url}, timeout=60) as visitor,
    ):
        headers = {"Authorization": "Bearer nk_of_acme", "X-Session-Id": "behind"}
        call = f"{url}/api/v1/seq/acme/samples/hello-world/execute"
        httpx.post(call, json={"message": "Hello"}, headers=headers).raise_for_status()
        session = f"{url}/api/v1/seq/sessions/behind"
        wait_until(lambda: httpx.get(session, headers=headers).status_code == 200)
        assert visitor.get("/sessions/behind/whatif").status_code == 303

        [token, *_] = re.findall('name="csrf" value="([^"]+)"', visitor.get("/login").text)
        visitor.post("/login", data={"csrf": token, "key": "nk_of_acme"})
        [token, *_] = re.findall(
            'name="csrf" value="([^"]+)"', visitor.get("/sessions/behind/whatif").text
        )
        fields = {"csrf": token, "live": "hello-world", "message": "Good night"}
        response = visitor.post("/sessions/behind/whatifs", data=fields)
        assert response.status_code == 303, unescape(response.text)
        path = response.headers["location"]
        wait_until(lambda: "hx-trigger" not in visitor.get(path).text)
        text = unescape(visitor.get(path).text)
        assert "Done: the run" in text
        assert "Good night" in text
        assert "nk_of" not in text
        # Another organisation sees neither the session nor the what-if.
        others = {"Authorization": "Bearer nk_of_others"}
        report = f"{url}/api/v1/seq/replays/{path.rpartition('/')[2]}"
        assert httpx.get(report, headers=headers).status_code == 200
        assert httpx.get(report, headers=others).status_code == 404
