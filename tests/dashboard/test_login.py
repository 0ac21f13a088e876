"""Test the login in a browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect
from starlette.responses import HTMLResponse

from noukai_sdk.backend.app import create_app
from noukai_sdk.backend.settings import Settings
from noukai_sdk.dashboard.app import Dashboard
from tests.support.servers import serve_app

from .conftest import check_accessible

KEY = "nk_secret"


def test_person_logs_in_comes_back_from_another_site_and_logs_out(
    page: Page, tmp_path: Path, console_errors: list[str]
) -> None:
    app = create_app(Settings(tmp_path / "a.db", keys={KEY: None}))
    with serve_app(Dashboard(app)) as url:
        page.goto(f"{url}/?status=failed")
        expect(page.get_by_label("API key")).to_be_focused()
        check_accessible(page)
        page.get_by_label("API key").fill("nk_wrong")
        with page.expect_event("console", lambda line: "401" in line.text):
            page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This key is unknown or revoked.")
        console_errors.clear()  # the browser reports each 401
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{url}/?status=failed")

        # The browser sends no strict cookie with a link of another site.
        link = HTMLResponse(f"<!doctype html><title>chat</title><a href='{url}/?q=a'>look</a>")
        with serve_app(link) as chat:
            page.goto(chat.replace("127.0.0.1", "localhost"))
            page.get_by_role("link", name="look").click()
            expect(page.get_by_label("Search")).to_have_value("a")
            assert page.url == f"{url}/?q=a"

            page.get_by_role("button", name="Log out").click()
            expect(page.get_by_label("API key")).to_be_visible()
            page.goto(chat.replace("127.0.0.1", "localhost"))
            page.get_by_role("link", name="look").click()
            expect(page.get_by_label("API key")).to_be_visible()
        page.goto("about:blank")
