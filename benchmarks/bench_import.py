"""Cold start: what a user waits for, from the start of Python to the first request on the wire.

Measured in processor time, compared to a program that does the same with httpx and pydantic alone, in a
virtual environment with the base dependencies only. Both send to a mock transport, which stands for the
wire, and both parse the response into a model.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Row

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 15

# Each program prints its processor time in ms twice: when the request is sent, and with the result.
WIRE = """
import time

def respond(request):
    print(time.process_time() * 1e3)
    return httpx.Response(200, json={"status": "completed", "result": 1, "executionId": "e"})
"""
BARE = f"""
import httpx
from pydantic import BaseModel
{WIRE}
class Result(BaseModel):
    status: str
    result: int
    executionId: str

with httpx.Client(transport=httpx.MockTransport(respond)) as client:
    url = "http://localhost:8080/api/v1/seq/acme/spelling/grade-3/execute"
    response = client.post(url, json={{"message": "hi"}}, headers={{"Authorization": "Bearer nk_bench"}})
    assert Result.model_validate_json(response.content).result == 1
print(time.process_time() * 1e3)
"""
OURS = f"""
import httpx
from noukai_sdk import Noukai
{WIRE}
http_client = httpx.Client(transport=httpx.MockTransport(respond))
with Noukai(api_key="nk_bench", http_client=http_client) as client:
    assert client.flow("acme/spelling/grade-3").execute(message="hi").result == 1
print(time.process_time() * 1e3)
"""


def run() -> list[Row]:
    """Return the medians, which take turns so that a slow phase of the machine hits both."""
    times: dict[str, list[list[float]]] = {BARE: [], OURS: []}
    with base_environment() as python:
        for _ in range(ROUNDS):
            for program, values in times.items():
                values.append(milliseconds(python, program))
    bare, ours = (
        [statistics.median(column) for column in zip(*rounds, strict=True)]
        for rounds in times.values()
    )
    return [
        Row("start to first request, httpx and pydantic", bare[0], None, "ms"),
        Row("start to first request, execute", ours[0], None, "ms"),
        Row("first request, execute - httpx and pydantic", ours[0] - bare[0], 15.0, "ms"),
        Row("first result, execute - httpx and pydantic", ours[1] - bare[1], None, "ms"),
    ]


@contextmanager
def base_environment() -> Iterator[Path]:
    """Install this package without extras; yields the environment's Python."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        install = [python, "-m", "pip", "install", "-qqq", "--disable-pip-version-check", ROOT]
        subprocess.run(install, check=True)
        yield python


def milliseconds(python: Path, program: str) -> list[float]:
    """Run ``program``, and return the times that it prints."""
    # -I: without the packages and the settings of the calling shell.
    done = subprocess.run([python, "-I", "-c", program], check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]
