"""Test the list of sessions in a browser, as a person uses it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from .conftest import Dev, check_accessible

HOSTILE = "/<script>window.hacked=1</script><img src=x onerror=hacked=1>"


def exchange(path: str, status: int = 200) -> dict[str, Any]:
    """Return a captured request as the API takes it."""
    request = {"method": "POST", "origin": "http://localhost:8000", "path": path, "query": ""}
    return {
        "request": {**request, "headers": [], "body": None, "redacted": []},
        "response": {"status": status, "headers": [], "body": None},
    }


def capture(dev: Dev, session: str, path: str, status: int = 200) -> None:
    """Store a request of a session."""
    response = dev.client.put(f"/seq/sessions/{session}/exchange", json=exchange(path, status))
    assert response.status_code == 200, response.text


def row(page: Page, session: str) -> Any:
    """Return the row of a session."""
    return page.locator(f"[id='s-{session}']")


# The first test: later ones leave sessions.
def test_empty_page_has_command_to_copy_and_shows_its_session_live(
    page: Page, context: BrowserContext, dev: Dev
) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(dev.url)
    expect(page.get_by_role("heading", name="No sessions yet")).to_be_visible()
    check_accessible(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=True)
    assert b'"status":"completed"' in done.stdout
    expect(row(page, "my-first-session")).to_be_visible()


def test_row_shows_what_is_known_of_session_and_escapes_it(page: Page, dev: Dev) -> None:
    assert dev.run("tests/shout", session="known").status_code == 200
    assert dev.run("tests/shout", session="known").status_code == 200
    capture(dev, "known", HOSTILE, 500)
    report = {"replayId": "r1", "state": "finished", "verdict": "differs"}
    dev.client.post("/seq/sessions/known/replays", json=report)
    page.goto(dev.url)
    shown = row(page, "known")
    for text in ("acme/tests/shout", "failed 500", "$0", "ago", "differs"):
        expect(shown).to_contain_text(text)
    expect(shown.locator(".number").first).to_have_text("2")
    # Nothing of a recording becomes an element.
    expect(shown.get_by_role("link").first).to_have_text(f"POST {HOSTILE}")
    assert page.evaluate("window.hacked") is None
    for width in (1280, 900, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of playwright's literals
            check_accessible(page)


def test_filters_are_in_the_url_and_survive_opening_a_session(page: Page, dev: Dev) -> None:
    assert dev.run("tests/shout", "a Heron", session="filter-good").status_code == 200
    assert dev.run("tests/parse", "an Otter", session="filter-bad").status_code >= 400
    report = {"replayId": "r2", "state": "finished", "verdict": "differs"}
    dev.client.post("/seq/sessions/filter-good/replays", json=report)
    page.goto(dev.url)
    page.keyboard.press("/")
    page.keyboard.type("HERON")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=HERON")
    expect(row(page, "filter-good")).to_be_visible()
    expect(row(page, "filter-bad")).to_have_count(0)
    # A choice is applied at once, and the others stay.
    page.get_by_label("Last replay").select_option("with differences")
    page.wait_for_url("**/?q=HERON&replay=differs")
    page.get_by_label("Since").select_option("hour")
    page.wait_for_url("**/?q=HERON&replay=differs&since=1h")
    expect(row(page, "filter-good")).to_be_visible()
    link = row(page, "filter-good").get_by_role("link").first.get_attribute("href")
    assert link == "/sessions/filter-good?from=%2F%3Fq%3DHERON%26since%3D1h%26replay%3Ddiffers"
    page.get_by_role("link", name="Failed", exact=True).click()
    page.wait_for_url("**status=failed**")
    expect(page.get_by_text("No session matches.")).to_be_visible()
    page.goto(f"{dev.url}/?status=failed&error=expecting+VALUE&flow=parse")
    expect(row(page, "filter-bad")).to_be_visible()
    expect(page.get_by_label("Error")).to_have_value("expecting VALUE")
    # A wrong filter is a message, not an error.
    page.goto(f"{dev.url}/?since=yesterday")
    expect(page.get_by_role("alert")).to_contain_text("since: must be an ISO 8601 time")


def test_pages_go_back_in_time_by_links(page: Page, dev: Dev) -> None:
    for number in range(52):
        capture(dev, f"paged-{number:02}", "/paged")
    page.goto(f"{dev.url}/?q=/paged")
    expect(page.locator("[data-row]")).to_have_count(50)
    page.get_by_role("link", name="Older").click()
    expect(page.locator("[data-row]")).to_have_count(2)
    expect(row(page, "paged-00")).to_be_visible()
    page.get_by_role("link", name="Newest").click()
    expect(row(page, "paged-51")).to_be_visible()
    assert page.url == f"{dev.url}/?q=%2Fpaged"
    # The last row is pointed at, and would be on the next page.
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    row(page, "paged-02").get_by_role("link").first.hover()
    capture(dev, "paged-52", "/paged")
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    expect(row(page, "paged-52")).to_have_count(0)
    page.mouse.move(1, 1)
    expect(row(page, "paged-52")).to_be_attached()
    expect(row(page, "paged-02")).to_have_count(0)


def test_session_is_pinned_and_deleted_from_its_menu(page: Page, dev: Dev) -> None:
    capture(dev, "menu", "/menu")
    page.goto(f"{dev.url}/?q=/menu")
    menu = page.get_by_label("Actions for session menu", exact=True)
    menu.click()
    page.get_by_role("button", name="Pin").click()
    expect(row(page, "menu")).to_contain_text("pinned")
    assert page.url == f"{dev.url}/?q=%2Fmenu"
    # What comes while the menu is open is shown when it is closed.
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    menu.click()
    with page.expect_event("console", lambda line: line.text == "seen") as _:
        page.evaluate(
            "document.addEventListener('htmx:sseBeforeMessage', () => console.log('seen'))"
        )
        capture(dev, "menu-2", "/menu")
    assert row(page, "menu-2").count() == 0
    page.keyboard.press("Escape")
    expect(row(page, "menu-2")).to_be_visible()
    menu.click()
    row(page, "menu").get_by_text("Delete…").click()
    row(page, "menu").get_by_role("button", name="Delete the session").click()
    expect(row(page, "menu-2")).to_be_visible()
    expect(row(page, "menu")).to_have_count(0)
    assert dev.client.get("/seq/sessions/menu").status_code == 404


def test_keyboard_moves_opens_and_helps(page: Page, dev: Dev, console_errors: list[str]) -> None:
    for session in ("keys-1", "keys-2"):
        capture(dev, session, f"/keys/{session}")
    page.goto(f"{dev.url}/?q=/keys/")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    for key, session in (("j", "keys-2"), ("j", "keys-1"), ("j", "keys-1"), ("k", "keys-2")):
        page.keyboard.press(key)
        expect(page.locator(":focus")).to_have_text(f"POST /keys/{session}")
    # A row that comes does not take the focus away.
    capture(dev, "keys-3", "/keys/keys-3")
    expect(row(page, "keys-3")).to_be_visible()
    expect(page.locator(":focus")).to_have_text("POST /keys/keys-2")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    check_accessible(page)
    page.keyboard.press("Escape")
    with page.expect_navigation(url="**/sessions/keys-2**"):
        page.keyboard.press("Enter")


@pytest.fixture
def plain_page(browser: Browser) -> Any:
    """A page of a browser without scripts."""
    context = browser.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()


def test_list_works_without_scripts(plain_page: Page, dev: Dev) -> None:
    page = plain_page
    capture(dev, "plain", "/plain")
    page.goto(dev.url)
    page.get_by_label("Search").fill("/plain")
    page.get_by_role("button", name="Search").click()
    expect(row(page, "plain")).to_be_visible()
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)
    page.get_by_label("Actions for session plain").click()
    page.get_by_text("Delete…").click()
    page.get_by_role("button", name="Delete the session").click()
    expect(page.get_by_text("No session matches.")).to_be_visible()


def test_hidden_page_holds_no_connection_and_catches_up(page: Page, dev: Dev) -> None:
    capture(dev, "hidden-1", "/hidden")
    page.add_init_script("""
        window.sources = [];
        const Original = EventSource;
        window.EventSource = class extends Original {
            constructor(url) { super(url); sources.push(this); }
        };
        // What a browser does when another tab is chosen, which a headless one cannot do.
        window.show = (hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        };
        const isOpen = (source) => source.readyState !== EventSource.CLOSED;
        window.open = () => sources.filter(isOpen).length;
    """)
    page.goto(f"{dev.url}/?q=/hidden")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    page.evaluate("show(true)")
    assert page.evaluate("open()") == 0
    capture(dev, "hidden-2", "/hidden")
    page.evaluate("show(false)")
    expect(row(page, "hidden-2")).to_be_visible()
    assert page.evaluate("open()") == 1


def test_tabs_leave_connections_for_others_and_are_all_live(
    page: Page, context: BrowserContext, dev: Dev
) -> None:
    # A browser opens six connections to a server: seven streams would leave none for a page.
    capture(dev, "tab-1", "/tab")
    tabs = [page, *(context.new_page() for _ in range(7))]
    for tab in tabs:
        tab.goto(f"{dev.url}/?q=/tab")
        expect(tab.get_by_text("Live", exact=True)).to_be_visible()
    capture(dev, "tab-2", "/tab")
    for tab in tabs:
        expect(row(tab, "tab-2")).to_be_attached()
        tab.close()


def test_rows_that_come_move_nothing_that_is_read_or_about_to_be_clicked(
    page: Page, dev: Dev
) -> None:
    for number in range(1, 5):
        capture(dev, f"moved-{number}", "/moved")
    page.goto(f"{dev.url}/?q=/moved")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    link = row(page, "moved-2").get_by_role("link").first

    def come(name: str) -> None:
        capture(dev, name, "/moved")
        expect(row(page, name)).to_be_attached()

    # The row under the pointer stays there, and a button is pressed where it was.
    link.hover()
    box = link.bounding_box()
    assert box is not None
    come("moved-5")
    assert link.bounding_box() == box
    page.mouse.down()
    with page.expect_event("console", lambda line: line.text == "seen"):
        page.evaluate(
            "document.addEventListener('htmx:sseBeforeMessage', () => console.log('seen'))"
        )
        capture(dev, "moved-6", "/moved")
    assert row(page, "moved-6").count() == 0
    page.mouse.move(2, 2)
    page.mouse.up()
    expect(row(page, "moved-6")).to_be_attached()
    # What is chosen stays so; keys work on it; what is typed stays.
    box_of_2 = row(page, "moved-2").get_by_role("checkbox")
    box_of_2.check()
    page.mouse.move(2, 2)
    come("moved-7")
    expect(box_of_2).to_be_checked()
    expect(box_of_2).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.press("End")
    page.keyboard.type("!")
    come("moved-8")
    expect(page.get_by_label("Search")).to_have_value("/moved!")
    page.keyboard.press("Escape")
    # A row that goes leaves the focus to the next one.
    page.keyboard.press("j")
    expect(page.locator(":focus")).to_have_attribute("href", re.compile("/moved-8"))
    dev.client.delete("/seq/sessions/moved-8")
    expect(page.locator(":focus")).to_have_attribute("href", re.compile("/moved-7"))
    # Further down, new rows are counted.
    for number in range(30, 50):
        capture(dev, f"moved-{number}", "/moved")
    expect(row(page, "moved-49")).to_be_attached()
    page.evaluate("scrollTo(0, 300)")
    come("moved-9")
    page.get_by_role("button", name="new above").click()
    expect(row(page, "moved-9")).to_be_in_viewport()


def test_live_page_whose_connection_breaks_is_live_again(
    page: Page, dev: Dev, console_errors: list[str]
) -> None:
    capture(dev, "broken-1", "/broken")
    page.route("**/live/**", lambda route: route.abort())
    page.goto(f"{dev.url}/?q=/broken")
    expect(page.get_by_text("Not live", exact=True)).to_be_visible()
    page.unroute("**/live/**")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    capture(dev, "broken-2", "/broken")
    expect(row(page, "broken-2")).to_be_visible()
    console_errors.clear()
