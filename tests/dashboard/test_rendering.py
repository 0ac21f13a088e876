"""Test that templates show hostile texts as texts, and the HTTP to the API in this process. No browser."""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noukai_sdk.dashboard.in_process import InProcessTransport
from noukai_sdk.dashboard.rendering import render
from noukai_sdk.dashboard.views.session_rows import SessionList
from noukai_sdk.dashboard.views.texts import visible
from noukai_sdk.models.session_lists import SessionPage, SessionSummary

VISIT = SimpleNamespace(token="t")
HOSTILE = st.one_of(
    # With halves of surrogate pairs: no UTF-8 has them, but valid JSON does.
    st.text(st.characters(), min_size=1),
    st.sampled_from(["</td><script>alert(1)</script>", '" onload="x', "{{ 7 * 7 }}"]),
    st.sampled_from(["\x1b[2J", "\ud800", "a\u202eb\r\n"]),
)


class Elements(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def listed(text: str) -> Elements:
    """Return the list with one session whose texts are all ``text``."""
    shown = SessionList({})
    session = SessionSummary(
        session_id="s", request=text, flows=(text,), status=text, parent=text, cost_usd=text
    )
    shown.show(SessionPage(sessions=(session,), next_cursor="c"))
    html = render("session_list.html", visit=VISIT, list=shown, curl="")
    html.encode()
    return Elements(html)


@settings(max_examples=60, deadline=None)
@given(HOSTILE)
def test_list_of_hostile_session_has_the_elements_of_a_harmless_one(text: str) -> None:
    shown, harmless = listed(text), listed("harmless")
    assert [tag for tag, _ in shown.tags] == [tag for tag, _ in harmless.tags]
    for (_, attributes), (_, others) in zip(shown.tags, harmless.tags, strict=True):
        assert [name for name, _ in attributes] == [name for name, _ in others]
    if text.strip() and text == visible(text):
        assert text in "".join(shown.texts)


@given(st.text(st.characters()))
def test_visible_text_can_be_sent_and_changes_nothing_that_is_seen(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_in_process_response_is_read_while_it_is_produced() -> None:
    steps: list[str] = []
    may_end = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["client"] == ("192.0.2.1", 5)
        assert (await receive())["body"] == b"question"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        if scope["path"] == "/left":
            # More than the queue holds: it must not wait for a reader that has gone.
            for _ in range(100):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            assert (await receive())["type"] == "http.disconnect"
        else:
            await may_end.wait()
        await send({"type": "http.response.body", "body": b"two"})
        steps.append(f"the app has ended {scope['path']}")

    async with httpx.AsyncClient(transport=InProcessTransport(app), base_url="http://a") as client:

        def ask(path: str) -> Any:
            extensions = {"client": ("192.0.2.1", 5)}
            return client.stream("POST", path, content=b"question", extensions=extensions)

        async with ask("/whole") as response:
            assert response.headers["a"] == "b"
            parts = response.aiter_bytes()
            assert await anext(parts) == b"one"
            may_end.set()
            assert [part async for part in parts] == [b"two"]
        assert steps.pop() == "the app has ended /whole"
        async with ask("/left") as response:
            assert response.status_code == 200
        assert steps == ["the app has ended /left"]


async def test_in_process_app_that_fails_is_an_error_of_the_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("no response")

    transport = InProcessTransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
