"""Test the ``noukai`` command itself, and ``noukai dev`` in a process of its own."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from noukai_sdk import __version__
from noukai_sdk.backend.settings import Settings, keys_from
from noukai_sdk.cli import commands, main
from noukai_sdk.cli.commands import noukai
from noukai_sdk.cli.dev import _add_key
from tests.support.servers import ROOT, Server, serve_backend, serve_command, wait_until

HEADERS = {"Authorization": "Bearer nk_dev", "X-Session-Id": "dev"}
WEBSOCKET_HEADERS = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
HELLO = "/seq/acme/samples/hello-world"


@pytest.fixture(autouse=True)
def restored_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore ``sys.path``, because the command adds the current folder."""
    monkeypatch.setattr(sys, "path", sys.path.copy())


def run(*arguments: str, **env: str) -> Result:
    """Run a command that ends by itself."""
    return CliRunner().invoke(noukai, arguments, env=env)


class Listener:
    """A listening socket on any address."""

    def __init__(self, address: str) -> None:
        self.address = address

    def getsockname(self) -> tuple[str, int]:
        return self.address, 8080


def test_dev_on_another_address_than_loopback_does_not_accept_nk_dev() -> None:
    def keys(address: str, named: str = "") -> tuple[set[str], str | None]:
        settings = Settings("a.db", keys=keys_from(named))
        settings, key = _add_key(settings, Listener(address))  # type: ignore[arg-type]  # a stand-in
        return set(settings.keys or ()), key

    for address in ("127.0.0.1", "127.1.2.3", "::1"):
        assert keys(address) == ({"nk_dev"}, "nk_dev")
    for address in ("0.0.0.0", "::", "192.0.2.1", "fe80::1%eth0"):
        accepted, key = keys(address)
        assert accepted == {key}
        assert key is not None
        assert len(key) > 40
        assert keys(address)[1] != key
        assert keys(address, "nk_mine") == ({"nk_mine"}, None)
        with pytest.raises(click.UsageError, match="everybody knows nk_dev"):
            keys(address, "nk_mine,nk_dev")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_dev_in_folder_with_flows_serves_them_and_prints_summary(tmp_path: Path) -> None:
    folder = tmp_path / "flows/acme/mine"
    folder.mkdir(parents=True)
    (folder / "local.yaml").write_text("steps: [{id: a, function: 'own_module:shout'}]")
    (folder / "good.v3.yaml").write_text("steps: [{id: a}]")
    (folder / "bad[1].yaml").write_text("steps: 5")
    (tmp_path / "own_module.py").write_text("def shout(message): return message.upper()")
    # Like the installed command: `python -m` adds the current folder to the path by itself.
    script = tmp_path / "bin/noukai"
    script.parent.mkdir()
    script.write_text("from noukai_sdk.cli import main; main()")
    command = ["python", str(script), "dev", "--port", "{port}"]
    env = {"NOUKAI_DEV_KEYS": "nk_very_secret:otherorg"}
    with serve_command(command, cwd=tmp_path, env=env, ready="/healthz") as server:
        url = f"{server.api}/seq/acme/mine/local/execute"
        response = httpx.post(url, json={"message": "hello"}, headers=HEADERS)
        assert response.json()["result"] == "HELLO"
        other_key = {"Authorization": "Bearer nk_very_secret"}
        assert httpx.post(url, json={"message": "hello"}, headers=other_key).status_code == 404
        # There are no websocket routes: an upgrade request is answered like any other.
        upgrade = httpx.get(url, headers=WEBSOCKET_HEADERS)
        assert (upgrade.status_code, "x-request-id" in upgrade.headers) == (405, True)
        output = server.output()
    assert f"Noukai, local: {server.api}\n" in output
    assert f"  export NOUKAI_BASE_URL={server.api} NOUKAI_API_KEY=nk_dev\n" in output
    assert "API key: nk_dev and 1 more from NOUKAI_DEV_KEYS\n" in output
    assert "nk_very_secret" not in output
    assert "Database: .noukai/dev.db" in output
    assert "  acme/samples/hello-world\n" in output
    assert "  acme/mine/local\n" in output
    assert "  acme/mine/good v3\n" in output
    assert "Problem: acme/mine/bad[1].yaml" in output
    assert (tmp_path / ".noukai/dev.db").is_file()


# `noukai dev` that prints whether TCP_NODELAY is set, for each connection it accepts.
NODELAY_DEV = """
import socket, sys
from uvicorn.protocols.http.auto import AutoHTTPProtocol

connection_made = AutoHTTPProtocol.connection_made

def report(self, transport):
    accepted = transport.get_extra_info("socket")
    is_on = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    print("TCP_NODELAY", is_on, flush=True)
    connection_made(self, transport)

AutoHTTPProtocol.connection_made = report
sys.argv = ["noukai", *sys.argv[1:]]
from noukai_sdk.cli import main
main()
"""


def test_dev_accepted_connection_sends_without_delay(tmp_path: Path) -> None:
    database = str(tmp_path / "noukai.db")
    command = ["python", "-c", NODELAY_DEV, "dev", "--port", "{port}", "--db", database]
    with serve_command(command, ready="/healthz") as server:
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert "TCP_NODELAY True" in server.output()
        assert "TCP_NODELAY False" not in server.output()


def test_dev_interrupted_with_open_live_trace_stops_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "noukai_sdk.cli", "dev", "--port", "0", "--db"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "a.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)/api/v1", process.stdout.readline())
        assert match is not None
        assert match[1] != "0"
        url = f"{match[0]}/seq/acme/samples/two-step"
        step = httpx.post(f"{url}/step", json={"message": "a"}, headers=HEADERS, timeout=30).text
        run_id = json.loads(step.split("data: ")[1].split("\n")[0])["executionId"]
        with httpx.stream("GET", f"{url}/runs/{run_id}/trace/stream", headers=HEADERS) as live:
            pieces = live.iter_text()
            assert "run_started" in next(pieces)
            process.send_signal(signal.SIGINT)
            # The stream ends well: no cut connection, and no wait for the grace period.
            "".join(pieces)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "Traceback" not in output
    assert "Cancel" not in output


def request_lines(server: Server) -> list[str]:
    """Return what the server has printed about requests, without the test's own ``/healthz``."""
    lines = re.findall("^(?:GET|POST|PUT) .*", server.output(), re.MULTILINE)
    return [line for line in lines if "/healthz" not in line]


def test_dev_request_prints_one_line(tmp_path: Path) -> None:
    with serve_backend(tmp_path) as server:
        body = {"message": "hello"}
        httpx.post(f"{server.api}{HELLO}/execute", json=body, headers=HEADERS)
        httpx.post(f"{server.api}{HELLO}/v9/step", json=body, headers=HEADERS)
        httpx.get(f"{server.api}/seq/sessions/dev", headers={"Authorization": "Bearer nk_dev"})
        httpx.put(f"{server.url}/%1b[31m%0a", headers={b"X-Session-Id": b"\x9b2J"})
        wait_until(lambda: len(request_lines(server)) >= 4)
        lines = [re.sub(r"\d+ ms", "N ms", line) for line in request_lines(server)]
    assert lines == [
        "POST acme/samples/hello-world/execute  200  N ms  dev",
        "POST acme/samples/hello-world/v9/step  404 FLOW_NOT_FOUND  N ms  dev",
        "GET  sessions/dev  200  N ms",
        "PUT  /%1b[31m%0a  404 ROUTE_NOT_FOUND  N ms  \ufffd2J",
    ]


def test_dev_flow_file_that_turns_bad_and_good_is_reported_without_request(tmp_path: Path) -> None:
    file = tmp_path / "flows/acme/mine/local.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("steps: [{id: a}]")
    with serve_backend(tmp_path, flows=tmp_path / "flows") as server:
        wait_until(lambda: "Stop with Ctrl+C" in server.output())
        assert "Problem" not in server.output()
        file.write_text("steps:\n  - id: a\n    promt: x\n")
        wait_until(lambda: "Problem: acme/mine/local.yaml:3: steps[0].promt: " in server.output())
        file.write_text("steps: [{id: b, prompt: x}]")
        wait_until(lambda: "Solved: acme/mine/local.yaml has no problems\n" in server.output())
        assert server.output().count("Problem") == 1


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_dev_on_terminal_fits_line_to_its_width(tmp_path: Path, variables: dict[str, str]) -> None:
    terminal, output = pty.openpty()
    fcntl.ioctl(output, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    session_id = str(uuid.uuid4())
    command = [sys.executable, "-m", "noukai_sdk.cli", "dev", "--port", "0", "--db"]
    hidden = ("NO_COLOR", "COLUMNS", "LINES")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.Popen(
        [*command, str(tmp_path / "a.db")],
        stdout=output,
        stderr=output,
        env={**env, "TERM": "xterm-256color", **variables},
    )
    printed = ""

    def read_until(text: str) -> None:
        nonlocal printed
        while text not in printed:
            printed += os.read(terminal, 4096).decode()

    try:
        read_until("Stop with")
        match = re.search(r"http://127\.0\.0\.1:\d+/api/v1", printed)
        assert match is not None
        headers = {**HEADERS, "X-Session-Id": session_id}
        body = {"message": "hello"}
        httpx.post(f"{match[0]}{HELLO}/execute", json=body, headers=headers, timeout=30)
        read_until(session_id)
    finally:
        process.kill()
        process.wait(30)
        os.close(terminal)
        os.close(output)
    [line] = [line for line in printed.splitlines() if session_id in line]
    assert ("\x1b[32m200" in line) == (not variables)
    page = match[0].removesuffix("/api/v1")
    assert f"\x1b]8;;{page}/sessions/{session_id}\x1b\\{session_id}\x1b]8;;\x1b\\" in line
    text = re.sub(r"\x1b\[\d*m|\x1b\]8;;[^\x1b]*\x1b\\", "", line)
    assert "hello-world/execute" in text
    assert len(text) <= 80


def test_dev_whose_reader_went_away_serves_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "noukai_sdk.cli", "dev", "--port", "0", "--db"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "a.db")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        process.stdout.close()
        process.stdout = None
        for _ in range(2):
            response = httpx.post(f"{url}{HELLO}/execute", json={"message": "a"}, headers=HEADERS)
            assert response.status_code == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")


def test_dev_on_taken_port_names_port_and_option(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        result = run("dev", "--port", port, "--db", str(tmp_path / "a.db"))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: port {port} of 127.0.0.1 is already in use")
    assert "--port" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["--flows", "nowhere"], {}, "'nowhere' does not exist"),
        (["--port", "70000"], {}, "70000 is not in the range"),
        (["--host", "203.0.113.1"], {}, "cannot listen on 203.0.113.1"),
        (["--host", "no host"], {}, "cannot listen on no host"),
        (["--db", "README.md"], {}, "cannot open the database README.md: file is not a database"),
        (["--db", "README.md/a.db"], {}, "cannot create the folder of README.md/a.db"),
        (["--db", "."], {}, "is a folder; name a file in it"),
        (["--db", "nodb://x:nope@h"], {}, "nodb://x:***@h"),
        (
            ["--db", "postgresql://x:nope@localhost/d?sslmode=disable"],
            {},
            "cannot open the database postgresql://x:***@localhost/d: connect() got an unexpected",
        ),
        ([], {"NOUKAI_DEV_KEYS": "nope"}, "NOUKAI_DEV_KEYS: entry 1"),
        ([], {"NOUKAI_DEV_RETENTION_DAYS": "soon"}, "NOUKAI_DEV_RETENTION_DAYS: 'soon'"),
    ],
)
def test_dev_with_invalid_setting_reports_it_without_secrets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    env: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("Not a database. " * 100)
    result = run("dev", "--port", "0", *arguments, **env)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert "nope" not in result.stderr


# `noukai dev` with a model that hangs on "wait".
HANGING_DEV = """
import anyio, sys
from noukai_sdk.local.llm.providers.offline import OfflineModel

stream = OfflineModel.stream

async def hang(self, request):
    if "wait" in str(request):
        await anyio.sleep_forever()
    async for part in stream(self, request):
        yield part

OfflineModel.stream = hang
sys.argv = ["noukai", *sys.argv[1:]]
from noukai_sdk.cli import main
main()
"""


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
def test_dev_started_again_completes_jobs_and_ends_calls(
    tmp_path: Path, end: Callable[[Server], None]
) -> None:
    database = str(tmp_path / "noukai.db")
    command = ["python", "-c", HANGING_DEV, "dev", "--port", "{port}", "--db", database]
    outcomes: dict[str, httpx.Response | httpx.TransportError] = {}
    with serve_command(command, ready="/healthz") as server:
        url, session_url = f"{server.api}{HELLO}", f"{server.api}/seq/sessions/dev"

        def call(verb: str, message: str = "wait") -> None:
            body = {"message": message}
            try:
                response = httpx.post(f"{url}/{verb}", json=body, headers=HEADERS, timeout=60)
                outcomes[verb] = response
            except httpx.TransportError as error:
                outcomes[verb] = error

        def executions() -> list[dict[str, object]]:
            session = httpx.get(session_url, headers=HEADERS).json()
            return list(session.get("executions", ()))

        call("execute", "hello")
        completed = executions()
        call("jobs")
        callers = [threading.Thread(target=call, args=[verb]) for verb in ("execute", "step")]
        for caller in callers:
            caller.start()
        wait_until(lambda: httpx.get(f"{server.url}/dev/stats").json()["modelCalls"] == 4)
        # The row of a run may be written after its model has been called.
        wait_until(lambda: len(executions()) == 4)
        end(server)
        for caller in callers:
            caller.join(20)
        assert "Traceback" not in server.output()
    assert isinstance(outcomes["step"], httpx.TransportError)
    if end is Server.stop:
        response = outcomes["execute"]
        assert isinstance(response, httpx.Response)
        assert response.status_code == 503
        detail = response.json()["detail"]
        assert detail["code"] == "STOPPED"
        assert detail["executionId"]
        assert "the run is cancelled" in detail["message"]
        assert response.headers["x-request-id"].startswith("req_")
    job = outcomes["jobs"]
    assert isinstance(job, httpx.Response)
    with serve_backend(tmp_path) as server:
        job_url = f"{server.api}{HELLO}/jobs/{job.json()['executionId']}"
        get = functools.partial(httpx.get, headers=HEADERS)
        wait_until(lambda: get(job_url).json()["status"] == "completed")
        session = get(f"{server.api}/seq/sessions/dev").json()
    assert session["executions"][:1] == completed
    statuses = {run["triggerType"]: run["status"] for run in session["executions"][1:]}
    if end is Server.kill:
        # The caller of a step run can go on at its last finished step: here, at the first.
        assert statuses == {"job": "completed", "execute": "failed", "step": "running"}
    else:
        assert statuses == {"job": "completed", "execute": "cancelled", "step": "cancelled"}


def test_help_lists_commands_without_importing_backend() -> None:
    result = run_python(
        "import sys, runpy; sys.argv = ['noukai', '--help']\n"
        "try: runpy.run_module('noukai_sdk.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted(sys.modules))"
    )
    assert "dev " in result.stdout
    assert "Serve flows on this machine" in result.stdout
    for name in ("fastapi", "sqlalchemy", "uvicorn", "noukai_sdk.cli.dev"):
        assert f"'{name}'" not in result.stdout


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (["click", "rich"], ["--help"], "noukai needs click, rich: pip install click rich"),
        (["fastapi"], ["dev"], "noukai dev needs fastapi: pip install fastapi"),
        (
            ["uvicorn", "yaml"],
            ["dev"],
            "noukai dev needs uvicorn, yaml: pip install uvicorn pyyaml",
        ),
        (["anyio"], ["flows", "list"], "this command needs anyio: pip install anyio"),
    ],
)
def test_command_without_its_packages_names_them(
    missing: list[str], arguments: list[str], message: str
) -> None:
    result = run_without(missing, arguments)
    assert (result.returncode, result.stderr) == (2, f"Error: {message}\n")


@pytest.mark.parametrize("module", ["noukai_sdk.cli.commands", "noukai_sdk.backend.app"])
def test_command_without_module_of_ours_is_a_bug_with_traceback(module: str) -> None:
    result = run_without([module], ["dev"])
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def run_without(modules: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return run_python(
        f"import sys; sys.modules.update(dict.fromkeys({modules}))\n"
        f"sys.argv = ['noukai', *{arguments!r}]\n"
        "from noukai_sdk.cli import main; main()"
    )


def test_command_whose_module_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ("noukai_sdk.cli.missing:missing", "Not there.")
    known = {"dev": commands.COMMANDS["dev"], "missing": missing}
    monkeypatch.setattr(commands, "COMMANDS", known)
    assert "missing" not in run("--help").output
    assert "No such command 'missing'" in run("missing").output


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash_suggests_commands_options_and_flows(tmp_path: Path) -> None:
    script = tmp_path / "noukai"
    script.write_text(f"#!{sys.executable}\nfrom noukai_sdk.cli import main; main()")
    script.chmod(0o755)
    complete = """
        eval "$(_NOUKAI_COMPLETE=bash_source noukai)"
        for line in "noukai flo" "noukai session show --fu" "noukai flows run acme/samples/h"; do
            COMP_WORDS=($line) COMPREPLY=()
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _noukai_completion noukai
            printf '%s\n' "${COMPREPLY[@]}"
        done
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        ["bash", "-c", complete], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert completed.stdout.split() == ["flows", "--full", "acme/samples/hello-world"]


def test_help_lists_exit_codes_and_completion() -> None:
    output = run("--help").output
    assert "2  not done" in output
    assert 'eval "$(_NOUKAI_COMPLETE=bash_source noukai)"' in output
    for group in ("flows", "session"):
        assert "2  not done" in run(group, "--help").output


def test_main_prints_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["noukai", "--version"])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 0
    assert __version__ in capsys.readouterr().out
