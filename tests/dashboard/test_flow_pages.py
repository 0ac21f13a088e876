"""The pages of flows, runs and jobs, as a browser without scripts sees them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from noukai_sdk.dashboard.app import Dashboard
from noukai_sdk.dashboard.options import DashboardOptions
from tests.backend.backends import ASKS_WEATHER, MESSAGE, WEATHER, Backend, serving
from tests.support.servers import wait_until


@dataclass
class Site:
    """The pages of a backend, and a browser without scripts."""

    backend: Backend
    client: httpx.Client

    def get(self, path: str, status: int = 200, **headers: str) -> str:
        response = self.client.get(path, headers=headers)
        assert response.status_code == status, response.text
        return html.unescape(response.text)

    def post(self, path: str, status: int = 200, **fields: str) -> httpx.Response:
        """Send a form as the page of a flow has it; follow the redirect."""
        page = self.client.get("/flows/acme/tests/three").text
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
        assert found is not None
        response = self.client.post(
            path,
            data={"csrf": found[1], **fields},
            headers={"Origin": str(self.client.base_url).rstrip("/")},
        )
        assert response.status_code == status, response.text
        return response


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One service for all tests: each has flows of its own."""

    def wrap(app: Any) -> Dashboard:
        return Dashboard(app, DashboardOptions(open_key="nk_dev"))

    with (
        serving(tmp_path_factory.mktemp("site"), wrap=wrap) as backend,
        httpx.Client(base_url=backend.url, follow_redirects=True, timeout=30) as client,
    ):
        yield Site(backend, client)


def run(site: Site, flow: str, **fields: str) -> str:
    """Run a flow by its form; return the path of the page of the run."""
    sent = {"message": "The cat sat.", "parameters": "{}", "version": "draft", **fields}
    path = site.post(f"/flows/acme/tests/{flow}/run", **sent).url.path
    assert path.startswith(f"/flows/acme/tests/{flow}/runs/")
    return path


def frames(text: str) -> dict[str, str]:
    """Return the last content of each part of a live page, by its name."""
    found = re.findall(r"^event: (.+)\n((?:data: .*\n)+)\n", text, re.MULTILINE)
    return {name: html.unescape(re.sub("(?m)^data: ", "", data)) for name, data in found}


def part_with(text: str, parts: Iterator[str]) -> str:
    """Return the first part with this text: a file may be read while it is half written."""
    return next(part for part in map(html.unescape, parts) if text in part)


def test_list_shows_problems_wherever_they_are_and_nothing_new_while_files_stay(site: Site) -> None:
    site.backend.write_flow("watched", "steps: [{id: one}]")
    page = site.get("/flows?q=watched")
    assert "acme/tests/bad.yaml:1" in page
    assert "acme/tests/gated" not in page
    live = re.search(r'sse-connect="(/live/flows[^"]+)"', page)
    assert live is not None
    with site.client.stream("GET", live[1]) as response:
        parts = response.iter_text()
        assert next(parts) == ": live\n\n"
        site.backend.write_flow("watched", "steps: [{id: one, promt: oops}]")
        changed = part_with("promt", parts)
    assert "acme/tests/watched.yaml:1" in changed
    assert "did you mean `prompt`?" in changed
    assert "<html" not in changed
    page = site.get("/flows/acme/tests/watched")
    assert "did you mean" in page
    assert "The last valid version is served." in page
    live = re.search(r'sse-connect="(/live/flows/acme[^"]+)"', page)
    assert live is not None
    with site.client.stream("GET", live[1]) as response:
        parts = response.iter_text()
        assert next(parts) == ": live\n\n"
        site.backend.write_flow("watched", "steps: [{id: mended}]")
        changed = part_with("mended: agent, offline", parts)
    assert "did you mean" not in changed


def test_flow_is_published_by_the_page_and_shown_as_it_was(site: Site) -> None:
    site.backend.write_flow("released", "steps: [{id: one}]")
    page = site.post("/flows/acme/tests/released/publish").text
    assert "published as version 1" in page
    assert "as the working copy" in page
    assert "has the content" in site.post("/flows/acme/tests/released/publish").text
    site.backend.write_flow("released", "steps: [{id: other, prompt: 'New {{message}}'}]")
    assert "New {{message}}" in site.get("/flows/acme/tests/released")
    old = site.get("/flows/acme/tests/released?version=1")
    assert "New {{message}}" not in old
    assert 'value="1" selected' in old
    site.get("/flows/acme/tests/released?version=x", 400)
    site.get("/flows/acme/tests/released?version=7", 404)
    site.get("/flows/acme/tests/unknown", 404)
    response = site.client.post(
        "/flows/acme/tests/released/publish", headers={"Origin": site.backend.url}
    )
    assert response.status_code == 403
    shown = site.get(run(site, "released", version="1"))
    assert "version 1" in shown


def test_run_form_keeps_what_was_typed_and_says_what_is_wrong(site: Site) -> None:
    site.backend.write_flow("formed", "steps: [{id: ask, tools: true}]")
    sent = {"message": "Keep <this>", "version": "draft"}
    page = site.post("/flows/acme/tests/formed/run", **sent, parameters="{'a': 1}").text
    assert "not valid JSON in line 1, column 2" in page
    assert "Keep &lt;this&gt;" in page
    assert "{&#39;a&#39;: 1}" in page
    # What only the API knows.
    page = site.post("/flows/acme/tests/formed/run", **sent, tools='[{"type": "x"}]').text
    assert "tools[0] must be" in html.unescape(page)
    site.post("/flows/acme/tests/unknown/run", 404, **sent)
    assert site.backend.get("/seq/sessions?flow=formed").json()["sessions"] == []


def test_run_goes_on_without_its_visitor_and_its_page_follows_it(site: Site) -> None:
    path = run(site, "gated")
    assert site.backend.fakes.reached.wait(60)
    page = site.get(path)
    assert "1 of 3 steps done" in page
    assert f'sse-connect="{path}/events"' in page
    with site.client.stream("GET", f"{path}/events") as response:
        seen = ""
        for text in response.iter_text():
            seen += text
            if "waiting " in frames(seen).get("step-2", ""):
                site.backend.fakes.opened.set()
    live = frames(seen)
    assert "waiting done" in live["step-2"]
    assert "completed" in live["step-3"]
    assert "Open the session" in live["state"]
    assert "end" in live
    page = site.get(path)
    assert "sse-connect" not in page
    assert "waiting done" in page
    session = re.search(r'href="/sessions/([0-9a-f-]+)"', page)
    assert session is not None
    again = re.search(r'href="([^"]+again=[^"]+)"', page)
    assert again is not None
    assert "The cat sat.</textarea>" in site.get(again[1])
    [executed] = site.backend.session(session[1])
    assert (executed["status"], executed["triggerType"]) == ("completed", "step")


def test_quiet_run_is_looked_at_because_its_process_may_have_died(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(_visit: Any, view: Any) -> None:
        view.progress.status = "pending"

    monkeypatch.setattr("noukai_sdk.dashboard.pages.runs._QUIET_SECONDS", 0.01)
    monkeypatch.setattr("noukai_sdk.dashboard.pages.runs._look", look)
    site.backend.fakes.reached.clear()
    site.backend.fakes.opened.clear()
    path = run(site, "gated")
    assert site.backend.fakes.reached.wait(60)
    with site.client.stream("GET", f"{path}/events") as response:
        part_with("pending</span>", response.iter_text())
    site.backend.fakes.opened.set()


def test_run_that_keeps_nothing_says_so_and_a_failed_one_says_why(site: Site) -> None:
    for flow in ("nothing", "metadata"):
        path = run(site, flow)
        live = frames(site.get(f"{path}/events"))
        assert "keeps no outputs" in live["state"]
        assert "keeps no outputs" in site.get(path)
    live = frames(site.get(f"{run(site, 'broken')}/events"))
    assert "MODEL_ERROR: the provider hung up" in live["state"]
    assert "half an" not in live["step-1"]
    site.get("/flows/acme/tests/three/runs/unknown", 404)


def test_output_that_is_nested_deep_or_no_valid_text_is_shown(site: Site) -> None:
    folder = site.backend.settings.flows[0] / "acme/tests"
    deep = "def deep(text):\n    for _ in range(230): text = [text]\n    return text\n"
    (folder / "_odd.py").write_text(deep + "def half(text): return '\\ud800 \\u202e'\n")
    for name, shown in (("deep", "[" + "\n  ["), ("half", "? ⟨U+202E⟩")):
        site.backend.write_flow(name, f"steps: [{{id: one, function: '_odd.py:{name}'}}]")
        path = run(site, name)
        assert shown in frames(site.get(f"{path}/events"))["state"]
        assert shown in site.get(path)
    gone = re.search(r'href="/sessions/([0-9a-f-]+)"', site.get(path))
    assert gone is not None
    assert site.backend.client.delete(f"/seq/sessions/{gone[1]}").status_code == 204
    site.get(path, 404)
    site.get(f"{path}/events", 404)


def test_tool_results_that_do_not_fit_are_refused_and_can_be_sent_again(site: Site) -> None:
    path = run(site, "asks", message="Paris?", tools=json.dumps(WEATHER))
    seen = ""
    with site.client.stream("GET", f"{path}/events") as response:
        for text in response.iter_text():
            seen += text
            if "The model asks for" in seen:
                break
    assert "get_weather" in site.get(path)
    form = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', frames(seen)["state"]))
    wrong = {"step_index": form["step_index"], "call-1": "nobody", "result-1": "sunny"}
    assert "waits for one result" in site.post(f"{path}/results", 400, **wrong).text
    right = {**wrong, "call-1": form["call-1"]}
    assert site.post(f"{path}/results", **right).url.path == path
    live = frames(site.get(f"{path}/events"))
    assert "sunny" in live["step-2"]
    assert "Open the session" in live["state"]


def test_run_of_another_caller_shows_its_tool_calls_without_a_form(site: Site) -> None:
    paused = site.backend.post("tests/asks/execute", ASKS_WEATHER, "theirs").json()
    page = site.get(f"/flows/acme/tests/asks/runs/{paused['executionId']}")
    assert "The model asks for 1 tool call" in page
    assert "Send the results" not in page


def test_jobs_page_lists_filters_and_names_reasons(site: Site) -> None:
    job = site.backend.submit("tests/broken")
    site.backend.finished("tests/broken", job)
    page = site.get("/jobs?status=failed&flow=broken")
    assert "at bad: MODEL_ERROR: the provider hung up" in page
    assert "1 of 2" in page
    assert "No job fits" in site.get("/jobs?status=completed")
    back = {"back": "/jobs?status=failed"}
    page = site.post(f"/jobs/acme/tests/broken/{job}/retry", **back)
    assert str(page.url).endswith("/jobs?status=failed")
    new = wait_until(
        lambda: [j for j in site.backend.get("/seq/jobs").json()["jobs"] if j["retryOf"] == job]
    )
    assert f"/runs/{new[0]['executionId']}" in site.get("/jobs")
    assert "dev" in site.get("/workers")
    assert "JOB_NOT_RETRYABLE" not in site.get("/jobs")
    site.post("/jobs/acme/tests/three/unknown/cancel", 404)


def test_pages_show_one_organisation_its_own(site: Site) -> None:
    job = site.backend.submit("tests/three", MESSAGE)
    cookie = {f"noukai_key_{httpx.URL(site.backend.url).port}": "nk_other"}
    with httpx.Client(base_url=site.backend.url, cookies=cookie) as client:
        other = Site(site.backend, client)
        assert "acme/" not in other.get("/flows")
        assert "There are no jobs" in other.get("/jobs")
        assert "process" not in other.get("/workers").partition("<table")[2]
        other.get("/flows/acme/tests/three", 404)
        other.get(f"/flows/acme/tests/three/runs/{job}", 404)
        other.get(f"/flows/acme/tests/three/runs/{job}/events", 404)
