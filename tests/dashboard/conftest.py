"""A real Chromium on a real ``noukai dev``.

::

    def test_flow_page_shows_steps(page: Page, dev: Dev) -> None:
        dev.run("samples/hello-world", "Hello", session="s1")
        page.goto(f"{dev.url}/flows")
        expect(page.get_by_role("link", name="hello-world")).to_be_visible()
        check_accessible(page)

``page`` fails its test on any error in the console, also those of the Content-Security-Policy. All tests of
a file share ``dev`` and one browser: name sessions after the test. Wait by ``expect``, never by sleeping.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from tests.support.servers import serve_backend

FLOWS = {
    "acme/tests/shout.yaml": "steps: [{id: only, prompt: 'Shout {{message}}'}]",
    # Fails for a message that is not JSON.
    "own_json.py": "import json\n\ndef parse(text): return json.loads(text)\n",
    "acme/tests/parse.yaml": "steps: [{id: only, function: 'own_json:parse'}]",
    "otherorg/things/hello.yaml": "steps: [{id: hello}]",
}
# Longer than playwright's own: the machine may be busy.
expect.set_options(timeout=20_000)
# Serious for people who cannot see, cannot use a mouse, or see little.
_SERIOUS = ("serious", "critical")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Dev:
    """A running ``noukai dev`` and a client for it."""

    url: str
    client: httpx.Client
    flows: Path

    def run(
        self, flow: str, message: str = "Hello", *, session: str, **body: Any
    ) -> httpx.Response:
        """Execute a flow of acme in a session, such as ``tests/shout``."""
        return self.client.post(
            f"/seq/acme/{flow}/execute",
            json={"message": message, **body},
            headers={"X-Session-Id": session},
        )


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """Serve the flows of ``FLOWS`` by ``noukai dev`` on a free port."""
    folder = tmp_path_factory.mktemp("dev")
    for name, text in FLOWS.items():
        path = folder / "flows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with (
        serve_backend(folder, flows=folder / "flows", env={"NOUKAI_DEV_KEYS": ""}) as server,
        httpx.Client(
            base_url=server.api, headers={"Authorization": "Bearer nk_dev"}, timeout=30
        ) as client,
    ):
        yield Dev(server.url, client, folder / "flows")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium. Once for each file: other tests of the worker run event loops of their own."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        reason = "the tests of the dashboard need Chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open a window with no cookies, at desktop width."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def console_errors() -> list[str]:
    """Return the errors in the console so far; clear the list if a test expects them."""
    return []


@pytest.fixture
def page(context: BrowserContext, console_errors: list[str]) -> Iterator[Page]:
    """Open a page; fail if an error is in its console at the end of the test."""
    page = context.new_page()
    watch(page, console_errors)
    yield page
    assert console_errors == []


def watch(page: Page, errors: list[str]) -> None:
    """Add the errors of a page to ``errors``: of scripts, of the network, of the security policy."""

    def note(line: ConsoleMessage) -> None:
        if line.type == "error":
            errors.append(f"{line.text} {line.location['url']}")

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))


def check_accessible(page: Page) -> None:
    """Fail if axe-core finds a serious problem, or if the page scrolls sideways."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    serious = [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in _SERIOUS
    ]
    assert serious == []
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(script) <= 0, "the page scrolls sideways"
