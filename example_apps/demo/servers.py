"""Run the demo's servers, each in its own process, and stop them when the demo ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 60.0
STOP_SECONDS = 10.0


class ServerFailedError(Exception):
    """A server did not start; the message holds the end of what it printed."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def run_server(
    module: str, arguments: Sequence[str], port: int, log: Path, env: Mapping[str, str]
) -> Iterator[str]:
    """Run ``python -m module arguments`` until the block ends. Yields its URL once it responds."""
    url = f"http://127.0.0.1:{port}"
    # A signal that comes while the server starts must wait until there is a process to stop. The server
    # itself gets the old mask back, so that it can be stopped.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C must reach the demo alone, which then stops its servers one after the other.
            start_new_session=True,
            # Safe: the demo starts its servers from its only thread.
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),  # noqa: PLW1509
        )
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        deadline = time.monotonic() + READY_SECONDS
        # A response alone does not prove it: another process may listen on the port.
        while url not in (output_text := log.read_text(errors="replace")) or not _responds(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailedError(
                    f"the server at {url} did not start:\n{output_text[-2000:]}"
                )
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _responds(url: str) -> bool:
    try:
        httpx.get(url, timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return True
