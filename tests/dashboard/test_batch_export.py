"""The page of many replays: readable, accessible, and harmless whatever the app responded."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from noukai_sdk.batch.causes import Cause, SessionResult
from noukai_sdk.dashboard.batch_export import batch_html
from tests.dashboard.conftest import check_accessible

HOSTILE = (
    "</style><script>document.title = 'taken'</script><img src=x onerror=alert(1)>\u202e\x1b[31m"
)


def test_exported_page_groups_sessions_and_runs_nothing(page: Page, tmp_path: Path) -> None:
    drift = Cause("drifted", f": {HOSTILE} differs", "acme/p/f", "main.py:4", (2,), HOSTILE)
    results = [
        SessionResult(f"s-{n}", "drifted", HOSTILE, f"s-{n}", HOSTILE, (drift,), (HOSTILE,))
        for n in range(3)
    ]
    path = tmp_path / "replays.html"
    path.write_text(batch_html([*results, SessionResult("ok", "equal", "")], "main:app", 1.25))
    page.goto(path.as_uri())
    expect(page).to_have_title("4 sessions through main:app · Noukai")
    row = page.get_by_role("row").nth(1)
    expect(row).to_contain_text("call 2 of acme/p/f")
    row.get_by_text("3 sessions").click()
    row.get_by_role("link", name="s-1").click()
    expect(page.locator("details:target")).to_contain_text("s-1")
    assert page.locator("script, img").count() == 0
    check_accessible(page)


def test_exported_page_without_differences_says_so() -> None:
    assert "All sessions are equal." in batch_html([SessionResult("s", "equal", "")], "main:app", 1)
