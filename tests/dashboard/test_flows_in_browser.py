"""Flows, runs and jobs in a browser, as a person uses them."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .conftest import Dev, check_accessible

# The step `hold` waits until the file `open` is beside it, and `fail` fails while `broken` is.
_GATE = """
import asyncio
from pathlib import Path

HERE = Path(__file__).parent

async def hold(text):
    while not (HERE / "open").exists():
        await asyncio.sleep(0.01)
    return text

def fail(text):
    if (HERE / "broken").exists():
        raise ValueError("the disk is full")
    return text
"""


def test_flow_with_tools_is_run_by_its_form_step_by_step_up_to_its_session(
    page: Page, dev: Dev
) -> None:
    page.goto(f"{dev.url}/flows")
    page.keyboard.press("/")
    expect(page.get_by_label("Name")).to_be_focused()
    page.get_by_label("Name").fill("weather")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="acme/samples/weather").click()
    expect(page.get_by_role("link", name="may ask for tools")).to_be_visible()
    check_accessible(page)
    page.get_by_label("Message").fill("What is the weather in Paris?")
    page.get_by_label("Parameters").fill("{")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("not valid JSON in line 1")
    expect(page.get_by_label("Message")).to_have_value("What is the weather in Paris?")
    page.get_by_label("Parameters").fill("{}")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("heading", name="The model asks for 1 tool call")).to_be_visible()
    check_accessible(page)
    page.get_by_label("Result of get_weather").fill("<b>sunny</b>")
    page.get_by_role("button", name="Send the results").click()
    expect(page.locator("#result-text")).to_contain_text("<b>sunny</b>")
    expect(page.get_by_text("1 of 1 step done")).to_be_visible()
    session = page.locator("main a[href^='/sessions/'] code").first.inner_text()
    link = page.get_by_role("link", name="Open the session")
    expect(link).to_have_attribute("href", f"/sessions/{session}")
    check_accessible(page)


def test_broken_flow_file_shows_its_problem_at_once_and_none_when_mended(
    page: Page, dev: Dev
) -> None:
    page.goto(f"{dev.url}/flows")
    file = dev.flows / "acme/tests/mended.yaml"
    file.write_text("steps:\n  - id: one\n    promt: Hello\n")
    expect(page.get_by_text("did you mean `prompt`?")).to_be_visible()
    expect(page.get_by_text("acme/tests/mended.yaml:3")).to_be_visible()
    check_accessible(page)
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>" + "x" * 3_000
    file.write_text(
        f"description: {hostile}\nsteps:\n  - id: one\n    name: {hostile}\n    prompt: {hostile}\n"
    )
    expect(page.get_by_text("did you mean `prompt`?")).to_be_hidden()
    check_accessible(page)
    page.get_by_role("link", name="acme/tests/mended").click()
    page.get_by_role("button", name="Publish the working copy").click()
    expect(page.get_by_text("published as version 1")).to_be_visible()
    expect(page.get_by_role("link", name="version 1")).to_be_visible()
    expect(page.locator("ol.steps pre")).to_have_text(hostile)
    page.set_viewport_size({"width": 360, "height": 800})
    page.emulate_media(color_scheme="dark")
    check_accessible(page)


def test_job_is_followed_cancelled_and_retried(page: Page, dev: Dev) -> None:
    folder = dev.flows / "acme/gate"
    folder.mkdir(parents=True)
    (folder / "_gate.py").write_text(_GATE)
    steps = "[{id: hold, function: '_gate.py:hold'}, {id: fail, function: '_gate.py:fail'}]"
    (folder / "gated.yaml").write_text(f"steps: {steps}")
    (folder / "broken").touch()
    path = "/seq/acme/gate/gated/jobs"
    job = dev.client.post(path, json={"message": "Hello"}).json()["executionId"]

    page.goto(f"{dev.url}/jobs")
    row = page.get_by_role("row").filter(has_text=job)
    expect(row).to_contain_text("running")
    page.get_by_role("button", name=f"Cancel job {job}").click()
    expect(row).to_contain_text("CANCELLED")

    page.get_by_role("button", name=f"Retry job {job}").click()
    expect(row.get_by_role("link", name="retried")).to_be_visible()
    check_accessible(page)
    row.get_by_role("link", name="retried").click()
    expect(page.get_by_text("0 of 2 steps done")).to_be_visible()
    (folder / "open").touch()
    # The page follows the run without a reload.
    expect(page.get_by_text("1 of 2 steps done")).to_be_visible()
    expect(page.locator("#state")).to_contain_text("the disk is full")
    check_accessible(page)

    page.get_by_role("link", name="Jobs").first.click()
    (folder / "broken").unlink()
    failed = page.get_by_role("row").filter(has_text="the disk is full")
    failed.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("row").filter(has_text="completed")).to_contain_text("2 of 2")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        check_accessible(page)


def test_run_is_cancelled_and_a_flow_that_was_deleted_is_said_to_be_gone(
    page: Page, dev: Dev
) -> None:
    folder = dev.flows / "acme/held"
    folder.mkdir(parents=True)
    (folder / "_gate.py").write_text(_GATE)
    flow = folder / "gated.yaml"
    flow.write_text("steps: [{id: first}, {id: hold, function: '_gate.py:hold'}]")
    page.goto(f"{dev.url}/flows/acme/held/gated")
    page.get_by_label("Message").fill("Hello")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("1 of 2 steps done")).to_be_visible()
    flow.unlink()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#state")).to_contain_text("CANCELLED: the run was cancelled on request")
    check_accessible(page)

    flow.write_text("steps: [{id: first}]")
    page.get_by_role("link", name="Run again").click()
    expect(page.get_by_label("Message")).to_have_value("Hello")
    flow.unlink()
    expect(page.get_by_role("alert")).to_contain_text("There is no such flow any longer")
