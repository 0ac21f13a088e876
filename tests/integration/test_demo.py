"""Test ``make demo``: its checks, its error messages, and that it stops its servers."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from example_apps.demo import __main__ as demo
from example_apps.demo.exchange import ROUTES, Exchange, Response
from example_apps.demo.servers import ServerFailedError, free_port, run_server
from tests.support.servers import ROOT, wait_until


def is_port_taken(port: int) -> bool:
    """Return True if a process listens on ``port`` of this machine."""
    try:
        socket.create_connection(("localhost", port), timeout=2).close()
    except OSError:
        return False
    return True


def start_demo(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "example_apps.demo", "--model", "offline"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_nothing_is_left(folder: Path, output: str) -> None:
    """Assert that no file and no server of the demo is left."""
    ports = {int(port) for port in re.findall(r"http://(?:127\.0\.0\.1|localhost):(\d+)\n", output)}
    assert ports
    assert not [port for port in ports if is_port_taken(port)]
    assert not list(folder.iterdir())


def test_demo_replays_every_route_without_model_call(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.count("ok: responses equal") == 2 * len(ROUTES)
    assert output.count("  0 model calls") == 2 * len(ROUTES)
    assert output.count("X-Noukai-Session: ") == 4 * len(ROUTES)
    assert "curl -i http://localhost:8000/grade" in output
    assert_nothing_is_left(tmp_path, output)


@pytest.mark.parametrize(
    ("line", "sent", "exit_code"),
    [("  backend ", signal.SIGTERM, 143), ("  POST /grade ", signal.SIGINT, 130)],
    ids=["while starting", "while replaying"],
)
def test_demo_stopped_by_signal_stops_its_servers(
    tmp_path: Path, line: str, sent: signal.Signals, exit_code: int
) -> None:
    process = start_demo(tmp_path)
    assert process.stdout is not None
    output = ""
    while line not in output:
        output += process.stdout.readline()
        assert process.poll() is None, output
    process.send_signal(sent)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == exit_code, output + rest
    assert_nothing_is_left(tmp_path, output)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("installed", [True, False])
def test_demo_without_model_option_uses_smollm2_if_installed(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[str] = []
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)

    def start(stack: object, folder: Path, model: str) -> None:
        models.append(model)
        raise ServerFailedError("stop here")

    monkeypatch.setattr(demo, "_start", start)
    assert CliRunner().invoke(demo.main, []).exit_code == 1
    assert models == ["smollm2" if installed else "offline"]


def test_run_server_that_does_not_start_raises_with_its_output(
    taken_port: int, tmp_path: Path
) -> None:
    dev = ["dev", "--port", str(taken_port), "--db", str(tmp_path / "noukai.db")]
    for module, arguments, port, message in (
        ("uvicorn", ["missing:app"], free_port(), 'Could not import module "missing"'),
        # Another process responds on the port.
        ("noukai_sdk.cli", dev, taken_port, f"port {taken_port} of 127.0.0.1 is already in use"),
    ):
        with (
            pytest.raises(ServerFailedError, match=message),
            run_server(module, arguments, port, tmp_path / "log", {}),
        ):
            pytest.fail("the server cannot have started")


def test_run_server_stops_server_if_block_fails(tmp_path: Path) -> None:
    port = free_port()
    arguments = [str(port), "--bind", "127.0.0.1"]
    with (
        pytest.raises(KeyboardInterrupt),
        run_server("http.server", arguments, port, tmp_path / "log", {}),
    ):
        raise KeyboardInterrupt
    wait_until(lambda: not is_port_taken(port), what="the end of the server")


PASSED = Exchange(Response(200, "s-1", b"{}", 2), Response(200, "s-1", b"{}", 0))


@pytest.mark.parametrize(
    ("side", "change"),
    [
        ("captured", {"status": 502}),
        ("captured", {"model_calls": 0}),
        ("captured", {"session_id": None}),
        ("replayed", {"status": 500}),
        ("replayed", {"session_id": "s-2"}),
        ("replayed", {"body": b"[]"}),
        ("replayed", {"model_calls": 1}),
    ],
)
def test_exchange_with_difference_has_not_passed(
    side: str, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PASSED.passed
    changed = dataclasses.replace(getattr(PASSED, side), **change)
    exchange = dataclasses.replace(PASSED, **{side: changed})
    assert not exchange.passed

    class Observer:
        def capture_and_replay(self, url: str, body: object) -> Exchange:
            return exchange

    assert demo._show(Observer(), "FastAPI", "http://127.0.0.1") is False  # type: ignore[arg-type]  # it needs no more
