"""Cold start: what a user waits for, from the start of Python to the first request on the wire.

Measured in processor time, compared to a program that does the same with httpx and pydantic alone, in a
virtual environment with the base dependencies only. Both send to a mock transport, which stands for the
wire, and both parse the response into a model.

In the same environment: what pytest spends on the plugin in a run that does not use it, and the size of the
base install.
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

# What pytest does with the plugin in a run that does not use it: import it, and register its parts.
PLUGIN = """
import time, pytest

manager = pytest.PytestPluginManager()
start = time.process_time()
from noukai_sdk.pytest_plugin import drift_summary, orphans, plugin
for part in (plugin, drift_summary, orphans):
    manager.register(part)
print((time.process_time() - start) * 1e3)
"""
# Every new virtual environment has them.
NOT_OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")


def run() -> list[Row]:
    """Return what is shown."""
    with base_environment() as python:
        size = megabytes(python)
        bare, ours = medians(python, BARE, OURS, rounds=ROUNDS)
        install(python, "pytest")
        ((plugin,),) = medians(python, PLUGIN, rounds=ROUNDS)
    return [
        Row("start to first request, httpx and pydantic", bare[0], None, "ms"),
        Row("start to first request, execute", ours[0], None, "ms"),
        Row("first request, execute - httpx and pydantic", ours[0] - bare[0], 15.0, "ms"),
        Row("first result, execute - httpx and pydantic", ours[1] - bare[1], None, "ms"),
        Row("the plugin in a pytest run that does not use it", plugin, 5.0, "ms"),
        Row("base install, compiled files included", size, 45.0, "MB"),
    ]


def medians(python: Path, *programs: str, rounds: int) -> list[list[float]]:
    """Return the medians of the times that each program prints.

    The programs take turns, so that a slow phase of the machine hits all.
    """
    times: dict[str, list[list[float]]] = {program: [] for program in programs}
    for _ in range(rounds):
        for program, values in times.items():
            values.append(milliseconds(python, program))
    return [
        [statistics.median(column) for column in zip(*values, strict=True)]
        for values in times.values()
    ]


@contextmanager
def base_environment() -> Iterator[Path]:
    """Install this package without extras; yields the environment's Python."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        install(python, str(ROOT))
        yield python


def install(python: Path, package: str) -> None:
    """Install a package, and compile its modules."""
    pip = [python, "-m", "pip", "install", "-qqq", "--disable-pip-version-check", package]
    subprocess.run(pip, check=True)


def megabytes(python: Path) -> float:
    """Return the size of the environment's packages."""
    folders = python.parents[1].glob("lib/python*/site-packages/*")
    ours = [folder for folder in folders if not folder.name.startswith(NOT_OURS)]
    files = [file for folder in ours for file in (folder, *folder.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def milliseconds(python: Path, program: str) -> list[float]:
    """Run ``program``, and return the times that it prints."""
    # -I: without the packages and the settings of the calling shell.
    done = subprocess.run([python, "-I", "-c", program], check=True, capture_output=True, text=True)
    return [float(line) for line in done.stdout.split()]
