"""``make demo``: what it proves, what it says when it cannot, and that it leaves nothing behind."""

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
from example_apps.demo.exchange import ROUTES, Answer, Exchange
from example_apps.demo.servers import ServerFailedError, free_port, is_held, serving
from tests.support.servers import ROOT, wait_until

# The demo uses the SDK as users have it, so its backend must be where the SDK looks for it.
# Side by side with others of its kind, one of two would find the port held: `make test` runs the
# tests of one file in one process.
needs_its_port = pytest.mark.skipif(is_held(demo.PORT), reason=f"somebody holds port {demo.PORT}")


def start_demo(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "example_apps.demo", "--model", "offline"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def leaves_nothing(folder: Path, said: str) -> bool:
    ports = {int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", said)}
    assert ports
    return not list(folder.iterdir()) and not any(map(is_held, ports)) and not users_of(folder)


def users_of(folder: Path) -> list[Path]:
    """The processes whose command line names the folder: the backend, by its database."""
    lines = Path("/proc").glob("[0-9]*/cmdline")
    return [line for line in lines if str(folder).encode() in text_of(line)]


def text_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # the process has ended
        return b""


class TestWhole:
    pytestmark = needs_its_port

    def test_it_replays_every_route_of_both_apps_with_no_model_call(self, tmp_path: Path) -> None:
        process = start_demo(tmp_path)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert said.count("ok: answers equal") == 2 * len(ROUTES)
        assert said.count("  0 model calls") == 2 * len(ROUTES)
        assert said.count("X-Noukai-Session: ") == 4 * len(ROUTES)
        assert "curl -i http://localhost:8000/grade" in said
        assert leaves_nothing(tmp_path, said)

    @pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_it_stops_its_servers_when_it_is_stopped(
        self, tmp_path: Path, sent: signal.Signals, code: int
    ) -> None:
        process = start_demo(tmp_path)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "POST /grade" in line:
                break
        process.send_signal(sent)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == code, said + rest
        assert leaves_nothing(tmp_path, said)


@pytest.fixture
def held() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_held_port_is_named_and_ends_the_demo(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PORT", held)
    result = CliRunner().invoke(demo.main, [])
    assert result.exit_code == 1
    assert f"Port {held} is held by " in result.output
    assert f"(process {os.getpid()})" in result.output


def test_a_holder_that_cannot_be_seen_is_said_to_be_so(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PORT", held)
    monkeypatch.setattr(demo, "holders", lambda port: [])
    assert f"lsof -i :{held}" in CliRunner().invoke(demo.main, []).output


@pytest.mark.parametrize("installed", [True, False])
def test_a_real_model_is_used_where_it_is_installed(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(demo, "is_held", lambda port: False)
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)

    def start(stack: object, folder: Path, model: str) -> dict[str, str]:
        chosen.append(model)
        raise ServerFailedError("enough")

    monkeypatch.setattr(demo, "_start", start)
    assert CliRunner().invoke(demo.main, []).exit_code == 1
    assert chosen == ["smollm2" if installed else "offline"]


def test_a_server_that_does_not_start_says_what_it_printed(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailedError, match='Could not import module "missing"'),
        serving("uvicorn", ["missing:app"], free_port(), tmp_path / "log", {}),
    ):
        pytest.fail("it cannot have started")


def test_a_server_whose_port_is_held_has_not_started(held: int, tmp_path: Path) -> None:
    arguments = ["dev", "--port", str(held), "--db", str(tmp_path / "noukai.db")]
    with (
        pytest.raises(ServerFailedError, match=f"port {held} of 127.0.0.1 is held by"),
        serving("noukai_sdk.cli", arguments, held, tmp_path / "log", {}),
    ):
        pytest.fail("another process answers there")


def test_a_server_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    port = free_port()
    arguments = [str(port), "--bind", "127.0.0.1"]
    with (
        pytest.raises(KeyboardInterrupt),
        serving("http.server", arguments, port, tmp_path / "log", {}),
    ):
        raise KeyboardInterrupt
    wait_until(lambda: not is_held(port), what="the server's end")


GOOD = Exchange(Answer(200, "s-1", b"{}", 2), Answer(200, "s-1", b"{}", 0))


def replayed(**changes: object) -> Exchange:
    return dataclasses.replace(GOOD, replayed=dataclasses.replace(GOOD.replayed, **changes))


def captured(**changes: object) -> Exchange:
    return dataclasses.replace(GOOD, captured=dataclasses.replace(GOOD.captured, **changes))


def test_a_good_exchange_proves_it() -> None:
    assert GOOD.proves_it


@pytest.mark.parametrize(
    "exchange",
    [
        captured(status=502),
        captured(model_calls=0),
        captured(session_id=None),
        replayed(status=500),
        replayed(session_id="s-2"),
        replayed(body=b"[]"),
        replayed(model_calls=1),
    ],
)
def test_any_difference_fails_the_demo(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not exchange.proves_it

    class Observer:
        def capture_and_replay(self, url: str, body: object) -> Exchange:
            return exchange

    assert demo._show(Observer(), "FastAPI", "http://127.0.0.1") is False  # type: ignore[arg-type]  # as much of one as is needed
