"""``noukai dev`` as a user starts it: a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from noukai_sdk import __version__
from noukai_sdk.cli import commands, main, ports
from noukai_sdk.cli.commands import noukai
from tests.support.servers import Server, free_port, serve_backend, serve_command, wait_until

HEADERS = {"Authorization": "Bearer nk_dev", "X-Session-Id": "dev"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
HELLO = "/seq/acme/samples/hello-world"


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command adds the current folder to the path that modules are looked for in."""
    monkeypatch.setattr(sys, "path", sys.path.copy())


def execute(server: Server, **headers: str) -> httpx.Response:
    body = {"message": "hello"}
    return httpx.post(f"{server.api}{HELLO}/execute", json=body, headers={**HEADERS, **headers})


def run(*arguments: str, **env: str) -> Result:
    """The command, where it is expected to end by itself."""
    return CliRunner().invoke(noukai, arguments, env=env)


def test_says_what_it_serves(tmp_path: Path) -> None:
    flows = tmp_path / "flows"
    (flows / "acme/mine").mkdir(parents=True)
    (flows / "acme/mine/good.v3.yaml").write_text("steps: [{id: a}]")
    (flows / "acme/mine/bad[1].yaml").write_text("steps: 5")
    keys = {"NOUKAI_DEV_KEYS": "nk_very_secret:otherorg"}
    with serve_backend(tmp_path, flows=flows, env=keys) as server:
        said = server.output()
        assert execute(server).json()["status"] == "completed"
        # There are no websockets: a request for one is like any other.
        asked = httpx.get(f"{server.api}{HELLO}/execute", headers=WEBSOCKET)
        assert (asked.status_code, "x-request-id" in asked.headers) == (405, True)
        assert execute(server, Authorization="Bearer nk_very_secret").status_code == 403
    assert f"{server.api}\n" in said
    assert "API key: nk_dev and 1 more from NOUKAI_DEV_KEYS\n" in said
    assert "nk_very_secret" not in said
    assert "  acme/samples/hello-world\n" in said
    assert "  acme/mine/good v3\n" in said
    assert "Problem: acme/mine/bad[1].yaml" in said


def test_port_0_takes_a_free_one_and_says_which(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "noukai_sdk.cli", "dev", "--port", "0", "--db"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "a.db")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = re.search(r"http://127\.0\.0\.1:(\d+)/api/v1", process.stdout.readline())
        assert said is not None
        port = int(said[1])
        assert port != 0
        wait_until(lambda: answers(port), what="the backend")
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in output


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_uses_what_lies_in_the_current_folder(tmp_path: Path) -> None:
    flow = tmp_path / "flows/acme/mine/local.yaml"
    flow.parent.mkdir(parents=True)
    flow.write_text("steps: [{id: a, function: 'of_mine:shout'}]")
    (tmp_path / "of_mine.py").write_text("def shout(message): return message.upper()")
    # As the installed command: ``python -m`` would look in the current folder by itself.
    command = tmp_path / "bin/noukai"
    command.parent.mkdir()
    command.write_text("from noukai_sdk.cli import main; main()")
    words = ["python", str(command), "dev", "--port", "{port}"]
    with serve_command(words, cwd=tmp_path, ready="/healthz") as server:
        url = f"{server.api}/seq/acme/mine/local/execute"
        answer = httpx.post(url, json={"message": "hello"}, headers=HEADERS)
        assert answer.json()["result"] == "HELLO"
        assert "  acme/mine/local\n" in server.output()
        assert "Database: .noukai/dev.db" in server.output()
    assert (tmp_path / ".noukai/dev.db").is_file()


def test_a_taken_port_names_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        ended = run("dev", "--port", port, "--db", str(tmp_path / "a.db"))
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"Error: port {port} of 127.0.0.1 is held by ")
    assert f"(process {os.getpid()})" in ended.stderr
    assert "--port" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (["--flows", "nowhere"], {}, "'nowhere' does not exist"),
        (["--port", "70000"], {}, "70000 is not in the range"),
        (["--host", "203.0.113.1"], {}, "cannot listen on 203.0.113.1"),
        (["--host", "no host"], {}, "cannot listen on no host"),
        (["--db", "README.md"], {}, "cannot open the database README.md: file is not a database"),
        (["--db", "README.md/a.db"], {}, "cannot make the folder of README.md/a.db"),
        (["--db", "."], {}, "is a folder; name a file in it"),
        (["--db", "nodb://x:nope@h"], {}, "nodb://x:***@h is neither a file nor in Postgres"),
        (
            ["--db", "postgresql://x:nope@localhost/d?sslmode=disable"],
            {},
            "cannot open the database postgresql://x:***@localhost/d: connect() got an unexpected",
        ),
        ([], {"NOUKAI_DEV_KEYS": "nope"}, "NOUKAI_DEV_KEYS: entry 1"),
        ([], {"NOUKAI_DEV_RETENTION_DAYS": "soon"}, "NOUKAI_DEV_RETENTION_DAYS: 'soon'"),
    ],
)
def test_what_it_cannot_do_it_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    env: dict[str, str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("Not a database. " * 100)
    ended = run("dev", "--port", "0", *arguments, **env)
    assert ended.exit_code != 0
    assert isinstance(ended.exception, SystemExit)
    assert message in ended.stderr
    assert "nope" not in ended.stderr


def test_sessions_outlive_a_crash(tmp_path: Path) -> None:
    with serve_backend(tmp_path) as server:
        execute(server)
        before = httpx.get(f"{server.api}/seq/sessions/dev", headers=HEADERS).json()
        server.kill()
    with serve_backend(tmp_path) as server:
        assert httpx.get(f"{server.api}/seq/sessions/dev", headers=HEADERS).json() == before


SLOW = """
import anyio, sys
from noukai_sdk.local.llm.providers.offline import OfflineModel

async def hold(self, request):
    await anyio.sleep_forever()
    yield

OfflineModel.stream = hold
sys.argv = ["noukai", *sys.argv[1:]]
from noukai_sdk.cli import main
main()
"""


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
def test_what_was_in_progress_when_it_stopped_has_failed_or_is_cancelled(
    tmp_path: Path, end: Callable[[Server], None]
) -> None:
    """A job is not run again: nobody knows how much of it was paid for."""
    command = ["python", "-c", SLOW, "dev", "--port", "{port}", "--db", str(tmp_path / "noukai.db")]
    ended: dict[str, httpx.Response | httpx.TransportError] = {}
    with serve_command(command, ready="/healthz") as server:

        def call(verb: str) -> None:
            url = f"{server.api}{HELLO}/{verb}"
            try:
                ended[verb] = httpx.post(url, json={"message": "a"}, headers=HEADERS, timeout=60)
            except httpx.TransportError as error:
                ended[verb] = error

        call("jobs")
        callers = [threading.Thread(target=call, args=[verb]) for verb in ("execute", "step")]
        for caller in callers:
            caller.start()
        wait_until(lambda: httpx.get(f"{server.url}/dev/stats").json()["modelCalls"] == 3)
        # A model that is at work is no row in the database yet.
        session_url = f"{server.api}/seq/sessions/dev"
        wait_until(
            lambda: len(httpx.get(session_url, headers=HEADERS).json().get("executions", ())) == 3
        )
        end(server)
        for caller in callers:
            caller.join(20)
        assert "Traceback" not in server.output()
    assert isinstance(ended["step"], httpx.TransportError)
    if end is Server.stop:
        answer = ended["execute"]
        assert isinstance(answer, httpx.Response)
        assert answer.status_code == 503
        assert answer.json()["detail"]["code"] == "STOPPED"
        assert answer.headers["x-request-id"].startswith("req_")
    job = ended["jobs"]
    assert isinstance(job, httpx.Response)
    with serve_backend(tmp_path) as server:
        name = job.json()["executionId"]
        poll = httpx.get(f"{server.api}{HELLO}/jobs/{name}", headers=HEADERS).json()
        assert poll["status"] == "failed"
        assert poll["error"]["code"] == "INTERNAL_ERROR"
        assert "stopped" in poll["error"]["message"]
        session = httpx.get(f"{server.api}/seq/sessions/dev", headers=HEADERS).json()
        for execution in session["executions"]:
            [step] = execution["steps"]
            assert (step["status"], step["stepId"]) == ("failed", execution["errorAtStep"])
        statuses = [run["status"] for run in session["executions"]]
        cut_off = "failed" if end is Server.kill else "cancelled"
        assert statuses == ["failed", cut_off, cut_off]


def test_a_live_trace_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    with serve_backend(tmp_path) as server:
        path = f"{server.api}/seq/acme/samples/two-step"
        first = httpx.post(f"{path}/step", json={"message": "a"}, headers=HEADERS).text
        run_id = json.loads(first.split("data: ")[1].split("\n")[0])["executionId"]
        with httpx.stream("GET", f"{path}/runs/{run_id}/trace/stream", headers=HEADERS) as live:
            pieces = live.iter_text()
            assert "run_started" in next(pieces)
            server.process.terminate()
            # It ends well: no cut connection, no grace period that runs out.
            "".join(pieces)
            server.process.wait(15)
        assert "Cancel" not in server.output()


def test_help_is_there_without_the_backend() -> None:
    """None of the backend is imported for the list of commands."""
    code = (
        "import sys, runpy; sys.argv = ['noukai', '--help']\n"
        "try: runpy.run_module('noukai_sdk.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dev " in said.stdout
    assert "Serve flows on this machine" in said.stdout
    for name in ("fastapi", "sqlalchemy", "uvicorn", "noukai_sdk.cli.dev"):
        assert f"'{name}'" not in said.stdout


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("click", ["--help"], "noukai needs click: pip install 'noukai-sdk[cli]'"),
        ("rich", ["dev"], "noukai needs rich: pip install 'noukai-sdk[cli]'"),
        ("fastapi", ["dev"], "noukai dev needs fastapi: pip install 'noukai-sdk[backend]'"),
        ("uvicorn", ["dev"], "noukai dev needs uvicorn: pip install 'noukai-sdk[backend]'"),
    ],
)
def test_a_missing_extra_is_named(missing: str, arguments: list[str], message: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['noukai', *{arguments!r}]\n"
        "from noukai_sdk.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_module_of_ours_that_is_missing_is_no_extra() -> None:
    for missing in ("noukai_sdk.cli.commands", "noukai_sdk.backend.app"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['noukai', 'dev']\n"
            "from noukai_sdk.cli import main; main()"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "ModuleNotFoundError" in ended.stderr


def test_commands_that_are_not_there_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"dev": commands.COMMANDS["dev"], "gone": ("noukai_sdk.cli.gone:gone", "Not there.")}
    monkeypatch.setattr(commands, "COMMANDS", here)
    runner = CliRunner()
    assert "gone" not in runner.invoke(noukai, ["--help"]).output
    assert "No such command 'gone'" in runner.invoke(noukai, ["gone"]).output
    assert __version__ in runner.invoke(noukai, ["--version"]).output


def test_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["noukai", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_holders_that_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ports.holders(free_port()) == []
    monkeypatch.setattr(ports, "PROC", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(
            ports.PortTakenError, match=f"port {port} of 127.0.0.1 is held by another"
        ):
            ports.listen("127.0.0.1", port)


def fake_process(proc: Path, number: str, **files: Any) -> None:
    (proc / number / "fd").mkdir(parents=True)
    (proc / number / "fd/3").symlink_to("socket:[4711]")
    for name, text in files.items():
        (proc / number / name).write_text(text)


def test_holders_are_read_from_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    row = "0: 0100007F:{port:04X} 00000000:0000 {state} 0:0 0:0 0 0 0 {inode}\n"
    lines = [
        "header\n",
        row.format(port=8080, state="0A", inode=4711),
        row.format(port=8080, state="01", inode=1),
        row.format(port=9090, state="0A", inode=2),
    ]
    (tmp_path / "net/tcp").write_text("".join(lines))
    fake_process(tmp_path, "7", comm="python\n")
    fake_process(tmp_path, "8")
    (tmp_path / "9").mkdir()
    (tmp_path / "10/fd").mkdir(parents=True)
    (tmp_path / "10/fd/0").write_text("no link")
    monkeypatch.setattr(ports, "PROC", tmp_path)
    assert ports.holders(8080) == ["python (process 7)", "a process (process 8)"]
