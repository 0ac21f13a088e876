"""Test the stream of a live page over an API that fails, and pages over one that is broken. No browser."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from noukai_sdk.dashboard.app import Dashboard
from noukai_sdk.dashboard.in_process import InProcessTransport
from noukai_sdk.dashboard.options import DashboardOptions
from noukai_sdk.dashboard.pages import live

EMPTY = (200, b'{"sessions": [], "nextCursor": null}')
FLOWS = (200, b'{"flows": [], "nextCursor": null}')
BUSY = (429, b'{"detail": {"code": "TOO_MANY_REQUESTS", "message": "later"}}')
REVOKED = (401, b'{"detail": {"code": "UNAUTHENTICATED", "message": "unknown key"}}')


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Api:
    """Sends the given responses, one for each request; fails after the last."""

    def __init__(self, *responses: tuple[int, bytes]) -> None:
        self.responses = list(responses)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, body = self.responses.pop(0)
        headers = [(b"retry-after", b"0")] if status == 429 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def browser_of(dashboard: Dashboard) -> httpx.AsyncClient:
    """Return a client for the pages."""
    return httpx.AsyncClient(transport=InProcessTransport(dashboard), base_url="http://a")


async def test_live_page_waits_for_a_busy_api_and_ends_if_the_key_is_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "_HEARTBEAT", -1.0)
    api = Api(BUSY, EMPTY, FLOWS, EMPTY, FLOWS, REVOKED)
    dashboard = Dashboard(api, DashboardOptions(open_key="nk_dev", look_seconds=0.0))
    async with browser_of(dashboard) as browser:
        text = (await browser.get("/live/sessions")).text
    # Alive while the API is busy, then what it shows, once; alive while nothing changes.
    kinds = [frame.split("\n")[0] for frame in text.split("\n\n")[:-1]]
    assert kinds == [": live", ": live", "event: change", ": live"]
    assert api.responses == []


async def test_live_page_ends_when_the_service_stops() -> None:
    dashboard = Dashboard(Api(EMPTY, FLOWS), DashboardOptions(open_key="nk_dev", look_seconds=60))
    async with browser_of(dashboard) as browser:
        async with browser.stream("GET", "/live/sessions") as response:
            parts = response.aiter_text()
            while "event: change" not in await anext(parts):
                pass
            dashboard.close()
            assert [part async for part in parts if part] == []
        assert (await browser.get("/live/sessions")).status_code == 503


async def test_page_of_a_broken_api_says_so_and_tells_nothing_else() -> None:
    dashboard = Dashboard(Api(), DashboardOptions(open_key="nk_dev"))
    async with browser_of(dashboard) as browser, browser.stream("GET", "/") as response:
        assert response.status_code == 500
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        page = await anext(response.aiter_text())
        assert "The log of the service says why." in page
        assert "IndexError" not in page
