"""Make the screenshots of the docs: ``make screenshots``.

It serves the flows of the package by ``noukai dev``, sends requests to an app with a bug, mends the bug,
and replays the request that failed. All files together stay under 200 kB.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.servers import serve_app, serve_backend  # noqa: E402  # after the path

IMAGES = Path(__file__).parent / "images"
LARGEST = 200_000
# Enough for text on plain colours, and a fifth of the size.
_COLOURS = 160


# What the middleware of the app reads when it is made; set before it is imported.
ENVIRONMENT = {"NOUKAI_API_KEY": "nk_dev", "NOUKAI_REPLAY_ENABLED": "true"}
ONE_MISTAKE, TWO_MISTAKES = "Teh cat sat on the mat.", "Teh cat sat on teh mat."


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as folder, serve_backend(Path(folder)) as server:
        os.environ.update(ENVIRONMENT, NOUKAI_BASE_URL=server.api)
        app = essay_app()
        # uvicorn closes the connection of a request that failed.
        new_ones = httpx.Limits(max_keepalive_connections=0)
        with (
            serve_app(app) as url,
            httpx.Client(base_url=url, timeout=30, limits=new_ones) as client,
        ):
            wrong, failed = make_sessions(client, app)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page(viewport={"width": 1120, "height": 460})
                page.goto(f"{server.url}/sessions/{wrong}")
                page.get_by_role("button", name="Replay", exact=True).click()
                expect(page.get_by_text("Equal but for $.points")).to_be_visible(timeout=30_000)
                save("replay", page.screenshot())
                page.set_viewport_size({"width": 1120, "height": 900})
                page.goto(f"{server.url}/sessions/{failed}")
                page.locator("summary[data-row]").first.click()
                expect(page.get_by_role("button", name="Copy message")).to_be_visible()
                save("session", page.screenshot())
                page.set_viewport_size({"width": 1120, "height": 460})
                page.goto(server.url)
                expect(page.get_by_text("Live", exact=True)).to_be_visible()
                save("sessions", page.screenshot())
                page.set_viewport_size({"width": 1120, "height": 660})
                page.goto(
                    f"{server.url}/sessions/{make_conversation(server.api)}/context?from=1&to=2"
                )
                expect(page.get_by_text("1 truncated")).to_be_visible()
                save("context", page.screenshot())
                page.set_viewport_size({"width": 1120, "height": 620})
                page.goto(f"{server.url}/sessions/{wrong}/whatif?live=acme/samples/hello-world")
                page.get_by_text("Prompt, parameters, message").click()
                page.get_by_label("Prompt of its steps").first.fill(
                    "A title of 3 words: {{message}}"
                )
                page.get_by_label("Runs (1 to 20)").fill("3")
                page.get_by_role("button", name="Run").click()
                expect(page.get_by_text("Done: 3 of 3 runs")).to_be_visible(timeout=30_000)
                save("whatif", page.screenshot())
                page.set_viewport_size({"width": 1120, "height": 900})
                page.goto(f"{server.url}/sessions/{make_quote()}")
                page.locator("#recorded-0 summary").click()
                expect(page.get_by_role("region", name="Result")).to_contain_text("Customer(")
                top = page.locator("#calls-title").bounding_box()
                calls = page.locator("#calls").bounding_box()
                assert top is not None
                assert calls is not None
                height = calls["y"] + calls["height"] - top["y"] + 32
                clip = {"x": 0, "y": top["y"] - 16, "width": 1120, "height": height}
                save("functions", page.screenshot(clip=clip))  # type: ignore[arg-type]  # a dict of the four numbers
                browser.close()
    total = sum(path.stat().st_size for path in IMAGES.glob("*.png"))
    print(f"{total:,} bytes")
    assert total < LARGEST, f"more than {LARGEST:,} bytes: take fewer or smaller pictures"


def essay_app() -> FastAPI:
    """Return an app with a bug: it fails if ``app.state.is_fixed`` is not set."""
    from noukai_sdk import AsyncNoukai
    from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

    noukai = AsyncNoukai()
    app = FastAPI()
    app.state.is_fixed = False
    app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)

    @app.post("/essays")
    async def grade(essay: dict[str, str]) -> dict[str, Any]:
        spelling, story = await asyncio.gather(
            noukai.flow("acme/spelling/grade-3").execute(message=essay["text"]),
            noukai.flow("acme/samples/two-step").execute(message=essay["text"]),
        )
        title = await noukai.flow("acme/samples/hello-world").execute(message=essay["title"])
        found = str(spelling.result).count("instead of")
        points = 10 - found if app.state.is_fixed else 10 // (2 - found)
        return {"points": points, "story": story.result, "title": title.result}

    @app.post("/titles")
    async def title(essay: dict[str, str]) -> dict[str, Any]:
        result = await noukai.flow("acme/samples/hello-world").execute(message=essay["title"])
        return {"title": result.result}

    return app


def make_sessions(client: httpx.Client, app: FastAPI) -> tuple[str, str]:
    """Make sessions as a day's work leaves them, and mend the bug.

    Returns:
        The ids of a session with a wrong response, and of one that failed.
    """
    essay = {"title": "The cat", "text": "The cat sat on the mat."}
    client.post("/titles", json=essay)
    client.post("/essays", json=essay)
    wrong = client.post("/essays", json={**essay, "text": ONE_MISTAKE})
    failed = client.post("/essays", json={**essay, "text": TWO_MISTAKES})
    assert failed.status_code == 500, failed.text
    client.post("/titles", json={"title": "A dog"})
    app.state.is_fixed = True
    return wrong.headers["X-Noukai-Session"], failed.headers["X-Noukai-Session"]


def make_conversation(api: str) -> str:
    """Make two calls of a conversation that grows and is cut, and return the id of the session."""
    report = (
        "My card was declined in a shop in Lisbon, although there is enough money in my account. "
    )
    report += "I also got a text message with a code that I did not ask for."
    answer = {"role": "assistant", "content": "Which card is it?"}
    turns = [{"role": "user", "content": report}]
    cut = [{"role": "user", "content": f"{report[:70]}..."}, answer]
    for sent in (turns, [*cut, {"role": "user", "content": "What should I do about the code?"}]):
        httpx.post(
            f"{api}/seq/acme/samples/hello-world/execute",
            json={"messages": sent},
            headers={"Authorization": "Bearer nk_dev", "X-Session-Id": "conversation"},
            timeout=30,
        ).raise_for_status()
    return "conversation"


def make_quote() -> str:
    """Make a session with recorded functions, and return its id."""
    with serve_app(quote_app()) as url, httpx.Client(base_url=url, timeout=30) as client:
        return client.get("/quotes/7").headers["X-Noukai-Session"]


def quote_app() -> FastAPI:
    """Return an app whose functions stand for a database and another service."""
    from noukai_sdk import AsyncNoukai, now, recorded
    from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

    @dataclass
    class Customer:
        name: str
        currency: str
        since: date

    @recorded(name="customers.load")
    async def load_customer(customer_id: int) -> Customer:
        await asyncio.sleep(0.02)
        return Customer("Ada", "EUR", date(2021, 3, 1))

    @recorded(name="rates.fetch")
    async def exchange_rate(currency: str) -> Decimal:
        await asyncio.sleep(0.03)
        return Decimal("1.0837")

    noukai = AsyncNoukai(org="acme", project="samples")
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)

    @app.get("/quotes/{customer_id}")
    async def quote(customer_id: int) -> dict[str, Any]:
        customer = await load_customer(customer_id)
        rate = await exchange_rate(customer.currency)
        message = f"Offer {customer.name} a book for {100 * rate:.2f} {customer.currency}"
        offer = await noukai.flow("hello-world").execute(message)
        return {"at": now(), "offer": offer.result}

    return app


def save(name: str, png: bytes) -> None:
    """Write a picture with few colours."""
    picture = (
        Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    )
    picture.save(IMAGES / f"{name}.png", optimize=True)
    print(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
