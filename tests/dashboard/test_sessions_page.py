"""Test the list of sessions in a browser."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .conftest import Dev, check_accessible


def test_sessions_page_shows_session_at_each_width_and_in_each_scheme(page: Page, dev: Dev) -> None:
    assert dev.run("tests/shout", session="listed-1").status_code == 200
    page.goto(dev.url)
    row = page.get_by_role("row").filter(has_text="listed-1")
    expect(row).to_contain_text("acme/tests/shout")
    expect(row).to_contain_text("completed")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            check_accessible(page)
