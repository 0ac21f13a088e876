"""Install the built wheel into empty environments, one for each Python there is, and try it.

``make dist`` runs it: ``python -m tests.release dist/*.whl``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

# The base install: record a call over a mock transport, and replay it from the file with no request.
BASE = """
import httpx
from noukai_sdk import Noukai, trace_scope_sync

def respond(request):
    return httpx.Response(200, json={"status": "completed", "result": "hello", "executionId": "e1"})

http_client = httpx.Client(transport=httpx.MockTransport(respond))
with Noukai(api_key="nk_smoke", http_client=http_client) as client:
    flow = client.flow("acme/samples/hello-world")
    with trace_scope_sync(record="smoke.jsonl"):
        assert flow.execute(message="hi").result == "hello"
with Noukai(api_key="nk_smoke", base_url="http://127.0.0.1:9/api/v1") as client:
    with trace_scope_sync(cassette="smoke.jsonl") as scope:
        assert client.flow("acme/samples/hello-world").execute(message="hi").result == "hello"
assert scope.report.clean
"""

# With the extras of the README: a backend of its own, and a request through an app with the middleware.
SERVICE = """
import subprocess, sys
from fastapi import FastAPI
from fastapi.testclient import TestClient
from noukai_sdk import Noukai
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

command = [sys.executable, "-m", "noukai_sdk.cli", "dev", "--port", "0"]
dev = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
try:
    line = next(line for line in dev.stdout if "NOUKAI_BASE_URL=" in line)
    base_url = line.partition("NOUKAI_BASE_URL=")[2].split()[0]
    client = Noukai(api_key="nk_dev", base_url=base_url)
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=client)

    @app.post("/hello")
    def hello() -> str:
        return client.flow("acme/samples/hello-world").execute(message="hi").result

    first = TestClient(app).post("/hello")
    session = first.headers["X-Noukai-Session"]
    again = TestClient(app).post("/hello", headers={"X-Noukai-Replay": session})
    assert again.json() == first.json()
    assert again.headers["X-Noukai-Replay-Report"].startswith("hits=1; misses=0; drift=0")
finally:
    dev.terminate()
    dev.wait(30)
"""


def main(wheel: Path) -> None:
    """Try the wheel on every Python of ``VERSIONS`` that this machine has."""
    tried = []
    for version in VERSIONS:
        python = find_python(version)
        if python is None:
            print(f"Python {version}: not on this machine")
            continue
        with tempfile.TemporaryDirectory() as folder:
            try_wheel(python, wheel, Path(folder))
        print(f"Python {version}: ok")
        tried.append(version)
    if not tried:
        sys.exit("no Python to try the wheel on")


def find_python(version: str) -> str | None:
    """Return a working Python of the version, from the path or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))
    for python in (shutil.which(f"python{version}"), *installed):
        if (
            python
            and subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode
            == 0
        ):
            return python
    return None


def try_wheel(python: str, wheel: Path, folder: Path) -> None:
    """Install the wheel with and without extras, and run the programs."""
    subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
    own = folder / "venv" / "bin" / "python"
    environment = {**os.environ, "NOUKAI_REPLAY_ENABLED": "true"}
    for extras, program in (("", BASE), ("[backend,fastapi]", SERVICE)):
        install = [own, "-m", "pip", "install", "-qqq", "--disable-pip-version-check"]
        subprocess.run([*install, f"{wheel}{extras}"], check=True)
        subprocess.run(
            [own, "-I", "-c", program], check=True, cwd=folder, env=environment, timeout=120
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
