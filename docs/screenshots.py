"""Make the screenshots of the docs: ``make screenshots``.

It serves the flows of the package by ``noukai dev``, makes sessions, and takes the pictures of ``SHOTS`` in
Chromium. To add one, add a :class:`Shot`; ``prepare`` may click. All files together stay under 200 kB.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.servers import serve_backend  # noqa: E402  # after the path

IMAGES = Path(__file__).parent / "images"
LARGEST = 200_000
# Enough for text on plain colours, and a fifth of the size.
_COLOURS = 160


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        name: The file's name, without ``.png``.
        path: The page.
        prepare: Waits for what the picture shows.
        size: Of the window.
    """

    name: str
    path: str
    prepare: Callable[[Page], Any]
    size: tuple[int, int] = (1120, 460)


SHOTS = [
    Shot(
        "sessions", "/", lambda page: expect(page.get_by_text("Live", exact=True)).to_be_visible()
    ),
]


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as folder, serve_backend(Path(folder)) as server:
        headers = {"Authorization": "Bearer nk_dev"}
        with httpx.Client(base_url=server.api, headers=headers, timeout=30) as client:
            make_sessions(client)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            for shot in SHOTS:
                width, height = shot.size
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(server.url + shot.path)
                shot.prepare(page)
                save(shot.name, page.screenshot())
            browser.close()
    total = sum(path.stat().st_size for path in IMAGES.glob("*.png"))
    print(f"{total:,} bytes")
    assert total < LARGEST, f"more than {LARGEST:,} bytes: take fewer or smaller pictures"


def save(name: str, png: bytes) -> None:
    """Write a picture with few colours."""
    picture = (
        Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    )
    picture.save(IMAGES / f"{name}.png", optimize=True)
    print(IMAGES / f"{name}.png")


def make_sessions(client: httpx.Client) -> None:
    """Make sessions as a day's work leaves them. The newest is the last."""
    requests = [
        ("5f0c9c0e-1b7c-4b43-9a55-0f5e1f3f6f0a", "/chat", ["samples/two-step"] * 2, 200, None),
        ("0d7e6c1e-7c43-4c58-8f7d-64b8f7f4a0c2", "/grade", ["spelling/grade-3"] * 3, 200, "clean"),
        ("e2f1b0a4-52a0-4a47-9a0c-8f4f1b7d2c11", "/grade", ["spelling/grade-3"], 500, "differs"),
        ("9b1d5f66-3f0e-4f1e-8a21-2f6f0f9e7d35", "/chat", ["samples/two-step"] * 4, 200, None),
        ("c4a8e3d7-6b52-4e0b-b0a5-7d9f1c2e8b90", None, ["samples/hello-world"], 200, None),
        ("71f3a9b2-0c8d-4d6a-9e47-3b5c6d7e8f01", "/grade", ["spelling/grade-3"] * 2, 200, "failed"),
    ]
    for session, path, flows, status, verdict in requests:
        for flow in flows:
            client.post(
                f"/seq/acme/{flow}/execute",
                json={"message": "The cat sat on the mat."},
                headers={"X-Session-Id": session},
            ).raise_for_status()
        if path is not None:
            request = {"method": "POST", "origin": "http://localhost:8000", "path": path}
            body = {
                "request": {**request, "query": "", "headers": [], "body": None, "redacted": []},
                "response": {"status": status, "headers": [], "body": None},
            }
            client.put(f"/seq/sessions/{session}/exchange", json=body).raise_for_status()
        if verdict is not None:
            report = {"replayId": f"replay-{session}", "state": "finished", "verdict": verdict}
            client.post(f"/seq/sessions/{session}/replays", json=report).raise_for_status()


if __name__ == "__main__":
    main()
