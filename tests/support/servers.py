"""Real servers for tests, on free loopback ports. Each stops when its ``with`` block ends.

::

    with serve_app(app) as url:                      # ASGI app, uvicorn in a thread
    with serve_wsgi(app) as url:                     # WSGI app, werkzeug in a thread
    with serve_command([...], env={...}) as server:  # any command line; "{port}" is filled in
    with serve_backend(tmp_path) as server:          # `noukai dev` as a process of its own

``server.url`` is the root (``http://127.0.0.1:PORT``), ``server.api`` the backend's base URL, and
``server.output()`` what the process has printed so far.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import httpx
import uvicorn

from . import warm
from .warm import WarmProcess

T = TypeVar("T")

Process: TypeAlias = "subprocess.Popen[bytes] | WarmProcess"

ROOT = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], T], *, deadline: float = 30.0, what: str = "") -> T:
    """Poll ``condition`` until it is true and give its value; fail after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what or condition}")
        time.sleep(0.01)


def free_port() -> int:
    """A port that was free a moment ago. Bind port 0 instead wherever the server can."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_of(base_url: str) -> dict[str, str]:
    """The environment variables that point the clients of a process at a backend."""
    return {"NOUKAI_BASE_URL": base_url, "NOUKAI_API_KEY": "nk_dev"}


@dataclass(frozen=True)
class Server:
    """A server process."""

    url: str
    process: Process
    log: Path

    @property
    def api(self) -> str:
        """The backend's base URL, as a client takes it."""
        return f"{self.url}/api/v1"

    def output(self) -> str:
        """What the process has printed so far, both streams."""
        return self.log.read_text(errors="replace")

    def answers(self, path: str) -> bool:
        """True once any HTTP answer comes; fails when the process has ended instead."""
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended by itself:\n{self.output()}")
        try:
            # First alone, because a server that is starting is asked very often.
            socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), 5).close()
            httpx.get(self.url + path, timeout=5, trust_env=False)
        except (OSError, httpx.TransportError):
            return False
        return True

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash does."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """End the process as a user does (SIGTERM), and by force where that takes too long."""
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


def start_process(words: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> Process:
    """Start a process whose output goes to a file."""
    log.touch()
    if warm.is_possible(words):
        return WarmProcess(words, cwd=cwd, env=env, log=log)
    with log.open("wb") as output:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env={**env, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def serve_command(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    ready: str = "/",
    deadline: float = 90.0,
) -> Iterator[Server]:
    """Run a command line that serves HTTP, and wait until it answers.

    Args:
        command: ``{port}`` in any argument becomes a free port; ``python`` as the first becomes
            this interpreter.
        env: Added to this process's environment.
        ready: Path to ask for; any HTTP answer will do. The app sees the request.
    """
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in command]
    if words[0] == "python":
        words[0] = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "output.txt"
        process = start_process(words, env={**os.environ, **(env or {})}, cwd=cwd, log=log)
        server = Server(f"http://127.0.0.1:{port}", process, log)
        try:
            wait_until(lambda: server.answers(ready), deadline=deadline, what=" ".join(words))
            yield server
        finally:
            server.stop()


@contextmanager
def serve_backend(
    folder: Path, *, flows: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """``noukai dev`` with its database in ``folder``: the same folder has the old sessions."""
    command = ["python", "-m", "noukai_sdk.cli", "dev", "--port", "{port}"]
    command += ["--db", str(folder / "noukai.db")]
    if flows is not None:
        command += ["--flows", str(flows)]
    with serve_command(command, env=env, ready="/healthz") as server:
        yield server


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        # Python would warn, in a later test, of connections that did not end in time.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


@contextmanager
def serve_app(app: Any, **config: Any) -> Iterator[str]:
    """Serve an ASGI app by uvicorn in a thread; gives its root URL. ``config`` goes to uvicorn."""
    # With the protocol named, or asyncio leaves Nagle's algorithm on: 40 ms for each request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    # A client must not send on a connection that uvicorn has just found idle for too long.
    options = {"log_level": "warning", "timeout_graceful_shutdown": 5, "timeout_keep_alive": 60}
    server = _Server(uvicorn.Config(app, **{**options, **config}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), what="uvicorn in a thread")
        if not server.started:
            raise AssertionError("the app did not start: see the log above")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()


@contextmanager
def serve_wsgi(app: Any) -> Iterator[str]:
    """Serve a WSGI app by werkzeug, a thread a request; gives its root URL."""
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(15)
        server.server_close()
