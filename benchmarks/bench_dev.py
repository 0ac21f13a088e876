"""Measure requests to ``noukai dev``, and compare them with requests to a bare FastAPI app on uvicorn.

Both are processes of their own, as users start them. The client uses plain sockets and keeps its
connection, as clients do, so a listener that delays its responses shows here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

from fastapi import FastAPI, Request

from benchmarks.measure import Row, best_of_each

REQUESTS = 5
ROUNDS = 150
HEADERS = {"Authorization": "Bearer nk_dev", "Content-Type": "application/json"}
BODY = json.dumps({"message": "The cat sat on the mat."})
ADDRESS = re.compile(r"http://([0-9.]+:[0-9]+)")

bare = FastAPI()


@bare.get("/healthz")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@bare.post("/execute")
async def execute(request: Request) -> dict[str, str]:
    return {"status": "completed", "result": (await request.json())["message"]}


def run() -> list[Row]:
    """Return the milliseconds for each request, and what ``noukai dev`` takes beyond the bare app."""
    uvicorn = ["uvicorn", "benchmarks.bench_dev:bare", "--port", "0", "--no-access-log"]
    with tempfile.TemporaryDirectory() as folder, served(uvicorn) as bare_address:
        dev = ["noukai_sdk.cli", "dev", "--port", "0", "--db"]
        with (
            served([*dev, f"{folder}/noukai.db"]) as dev_address,
            served([*dev, f"{folder}/no_ui.db", "--no-ui"]) as no_ui_address,
            closing(HTTPConnection(bare_address)) as to_bare,
            closing(HTTPConnection(dev_address)) as to_dev,
            closing(HTTPConnection(no_ui_address)) as to_no_ui,
        ):
            many(to_dev, "GET", "/")()  # imports the page
            call = "/api/v1/seq/acme/samples/hello-world/execute"
            best = best_of_each(
                {
                    "bare healthz": many(to_bare, "GET", "/healthz"),
                    "healthz": many(to_dev, "GET", "/healthz"),
                    "bare execute": many(to_bare, "POST", "/execute", BODY),
                    "execute": many(to_dev, "POST", call, BODY),
                    "execute --no-ui": many(to_no_ui, "POST", call, BODY),
                },
                ROUNDS,
            )
    ms = {name: value / REQUESTS * 1e3 for name, value in best.items()}
    return [
        Row("bare FastAPI app, GET /healthz", ms["bare healthz"], None, "ms"),
        Row("bare FastAPI app, POST of JSON", ms["bare execute"], None, "ms"),
        Row("/healthz, beyond the bare app", ms["healthz"] - ms["bare healthz"], 1.0, "ms"),
        Row(
            "execute of hello-world on offline, beyond the bare app",
            ms["execute"] - ms["bare execute"],
            3.0,
            "ms",
        ),
        Row(
            "execute beside the page, beyond --no-ui",
            ms["execute"] - ms["execute --no-ui"],
            0.1,
            "ms",
        ),
    ]


@contextmanager
def served(command: Sequence[str]) -> Iterator[str]:
    """Run a server module and yield the host and port that it prints."""
    # To a file: nobody reads a pipe while requests run, and the server would wait once it is full.
    with tempfile.NamedTemporaryFile("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *command], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while (match := ADDRESS.search(Path(output.name).read_text())) is None:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.05)
            yield match[1]
        finally:
            process.terminate()
            process.wait(10)


def many(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: str | None = None,
    requests: int = REQUESTS,
) -> Callable[[], None]:
    def send() -> None:
        for _ in range(requests):
            connection.request(method, path, body, HEADERS)
            response = connection.getresponse()
            response.read()
            assert response.status == 200

    return send
