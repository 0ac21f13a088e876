"""Test ``noukai session`` with a backend, an app and cassette files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from noukai_sdk import AsyncNoukai, FlowNotFoundError, Noukai, trace_scope_sync
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware
from noukai_sdk.cli.commands import noukai
from noukai_sdk.models.sessions import RecordedError
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.diff import differences
from noukai_sdk.replay.recording import Recording, recording_adapter
from tests.cli.commands import run, run_json
from tests.support.servers import Server, serve_app, serve_backend, wait_until

URL = "http://localhost:8000/x"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture
def dev(backend: Server, use_service: Callable[[str], None]) -> Server:
    use_service(backend.api)
    return backend


@pytest.fixture
def app_url(dev: Server) -> Iterator[str]:
    client = AsyncNoukai(org="acme", project="samples")
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=client)

    @app.post("/say")
    async def say(words: list[str]) -> dict[str, Any]:
        flow = client.flow("hello-world")
        return {"results": [(await flow.execute(message=word)).result for word in words]}

    with serve_app(app) as url:
        yield f"{url}/say"


@pytest.fixture
def replay_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
def captured(app_url: str, tmp_path: Path) -> tuple[str, Path]:
    """A session id, and the file with the body of its response."""
    response = httpx.post(app_url, json=["one", "two"])
    path = tmp_path / "response.json"
    path.write_bytes(response.content)
    return response.headers["X-Noukai-Session"], path


def test_show_session_prints_its_calls(captured: tuple[str, Path]) -> None:
    session_id, _ = captured
    output = run("show", session_id).stdout
    assert session_id in output
    assert "hello-world" in output
    assert "█" in output

    calls = run_json("show", session_id)["calls"]
    assert [call["input"] for call in calls] == ["one", "two"]
    assert all(call["output"] and call["tokens"] > 0 and call["costUsd"] for call in calls)
    assert calls[0]["startMs"] == 0
    assert calls[1]["startMs"] >= calls[0]["durationMs"]


LONG = "one two three " * 40 + "\n\nend"


@pytest.fixture
def two_calls(tmp_path: Path) -> str:
    """The path of a cassette with a call of 1.5 s, and one of 0.25 s that starts after it."""
    path = str(tmp_path / "two.jsonl")
    request = {"message": LONG, "parameters": {"limit": 3}}
    first = {"request": request, "started_at": 5.0, "completed_at": 6.5}
    second = {"request": {"message": "b"}, "started_at": 6.5, "completed_at": 6.75}
    result = {"result": {"grade": [LONG]}}
    recordings = [
        Recording(slug="first", kind="execute", result=result, **first),
        Recording(slug="second", kind="step", **second),
    ]
    write_cassette(path, "s-1", recordings)
    return path


def test_show_waterfall_has_durations(two_calls: str) -> None:
    *_, header, first, second = run("show", two_calls).stdout.splitlines()
    assert header.split() == ["#", "flow", "start", "duration"]
    assert first.split()[-4:] == ["0.0", "ms", "1,500.0", "ms"]
    assert second.split()[-4:] == ["1,500.0", "ms", "250.0", "ms"]


def test_show_full_or_one_call_prints_whole_inputs_and_outputs(two_calls: str) -> None:
    assert LONG not in run("show", two_calls).stdout
    full = run("show", two_calls, "--full").stdout
    first = run("show", two_calls, "--call", "1").stdout
    for output in (full, first):
        assert f"input:\n{LONG}\n" in output
        assert json.dumps({"grade": [LONG]}, indent=2) in output
        assert '"limit": 3' in output
    assert "2  second  step  250.0 ms" in full
    assert "second" not in first
    assert [call["number"] for call in run_json("show", two_calls, "--call", "2")["calls"]] == [2]
    too_far = run("show", two_calls, "--call", "3", exit_code=2)
    assert "there is no call 3: session s-1 has 2 calls" in too_far.stderr


def test_show_call_that_failed_or_was_abandoned_prints_reason(tmp_path: Path, dev: Server) -> None:
    path = str(tmp_path / "failed.jsonl")
    with Noukai() as client, pytest.raises(FlowNotFoundError), trace_scope_sync(record=path):
        client.flow("acme/samples/none").execute(message="x")
    assert "FLOW_NOT_FOUND" in run_json("show", path)["calls"][0]["error"]
    run("show", path)

    events = ({"eventType": "step_started"}, {"eventType": "step_completed"})
    slow = Recording(slug="slow", kind="step", abandoned=True, events=events)
    write_cassette(path, None, [slow])
    [call] = run_json("show", path)["calls"]
    assert call["error"] == "abandoned by its caller"
    assert (call["tokens"], call["costUsd"]) == (None, None)


def test_show_prints_refused_calls_and_parent_of_fork(dev: Server, replay_enabled: None) -> None:
    with Noukai() as client:
        flow = client.flow("acme/samples/hello-world")
        with trace_scope_sync(client=client) as scope:
            flow.execute(message="one")
            with pytest.raises(FlowNotFoundError):
                client.flow("acme/samples/none").execute(message="x")
        session_id = str(scope.session_id)
        wait_until(lambda: len(run_json("show", session_id)["calls"]) == 2, what="the refusal")
        options = {"client": client, "replay_session_id": scope.session_id, "live_from": 1}
        with trace_scope_sync(**options) as fork:
            flow.execute(message="one")
            flow.execute(message="two")
        fork_id = str(fork.session_id)
        wait_until(lambda: run_json("show", fork_id).get("parent"), what="the parent")
    refused = run_json("show", str(scope.session_id))["calls"][1]
    assert refused["slug"] == "none"
    assert "FLOW_NOT_FOUND" in refused["error"]
    shown = run_json("show", str(fork.session_id))
    assert shown["parent"]["sessionId"] == scope.session_id
    assert [call["input"] for call in shown["calls"]] == ["one", "two"]
    line = f"fork of session {scope.session_id}, which served 1 call"
    assert line in run("show", str(fork.session_id)).stdout.replace("\n", " ")


def test_show_and_diff_escape_control_characters_and_markup(tmp_path: Path) -> None:
    path, empty = str(tmp_path / "hostile.jsonl"), str(tmp_path / "empty.jsonl")
    hostile = "\x1b[31m[red]a[/]\x9b2Jb\n"
    request = {"message": hostile}
    write_cassette(path, None, [Recording(slug=hostile, kind="execute", request=request)])
    write_cassette(empty, None, [])
    shown = (run("show", path), run("show", path, "--full"))
    for result in (*shown, run("diff", path, empty, exit_code=1)):
        assert not set(result.stdout) & {"\x1b", "\x9b"}
        assert "[red]" in result.stdout
    assert run_json("show", path)["calls"][0]["input"] == hostile


def test_show_on_ascii_output_replaces_other_characters(tmp_path: Path) -> None:
    path = str(tmp_path / "words.jsonl")
    request = {"message": "日本語"}
    write_cassette(path, None, [Recording(slug="a", kind="execute", request=request)])
    result = CliRunner(charset="ascii").invoke(noukai, ["session", "show", path])
    assert result.exit_code == 0
    assert "?" in result.stdout


def test_pull_writes_cassette_that_replays(
    captured: tuple[str, Path], tmp_path: Path, replay_enabled: None
) -> None:
    session_id, response = captured
    path = str(tmp_path / "pulled.jsonl")
    assert "2 calls" in run("pull", session_id, "-o", path).stdout
    assert f"{path} exists: use --force" in run("pull", path, "-o", path, exit_code=2).stderr
    assert run_json("pull", session_id, "-o", path, "--force")["calls"] == 2

    with Noukai() as client, trace_scope_sync(cassette=path) as scope:
        flow = client.flow("acme/samples/hello-world")
        results = [flow.execute(message=word).result for word in ("one", "two")]
    assert results == json.loads(response.read_text())["results"]
    assert scope.report.clean
    assert run_json("show", path)["calls"] == run_json("show", session_id)["calls"]


def test_pull_of_cassette_writes_copy_that_replays(
    dev: Server, tmp_path: Path, replay_enabled: None
) -> None:
    """The copy keeps the redacted paths: without them, calls would differ from their recordings."""
    source, copy = str(tmp_path / "source.jsonl"), str(tmp_path / "copy.jsonl")

    def ask(client: Noukai) -> object:
        flow = client.flow("acme/samples/hello-world")
        return flow.execute(message="a", parameters={"email": "ada@example.org"}).result

    with Noukai() as client:
        with trace_scope_sync(record=source, redact_paths=["request.parameters.email"]):
            live = ask(client)
        assert "1 call of session" in run("pull", source, "-o", copy).stdout
        with trace_scope_sync(cassette=copy, strict_inputs=True) as scope:
            assert ask(client) == live
    assert scope.report.clean

    write_cassette(source, None, [])
    assert run("pull", source, "-o", copy, "--force").stdout == f"{copy}: 0 calls of {source}\n"


def test_diff_lists_calls_that_differ(app_url: str, captured: tuple[str, Path]) -> None:
    a, _ = captured
    b = httpx.post(app_url, json=["one", "three", "four"]).headers["X-Noukai-Session"]
    assert run("diff", a, a).stdout == "no differences\n"
    assert "input.message" in run("diff", a, b, exit_code=1).stdout
    listed = run_json("diff", a, b, exit_code=1)["differences"]
    assert [(each["position"], each["what"]) for each in listed] == [
        (1, "input.message"),
        (1, "result"),
        (2, "call"),
    ]
    assert (listed[0]["a"], listed[0]["b"]) == ("two", "three")


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        ({"version": 1}, {"version": 2}, "version"),
        ({"error": RecordedError(code="X")}, {}, "error"),
        ({"events": [{"eventType": "step_output", "stepId": "s", "outputData": 1}]}, {}, "events"),
        ({"rounds": [{"paused": {"toolCalls": []}}]}, {}, "tools"),
        ({"kind": "job", "statuses": [{"result": 1}]}, {"kind": "job"}, "result"),
    ],
)
def test_differences_compare_every_part_of_a_call(
    a: dict[str, Any], b: dict[str, Any], what: str
) -> None:
    first, second = (
        recording_adapter().validate_python({"slug": "a", "kind": "step", **fields})
        for fields in (a, b)
    )
    assert [each.what for each in differences([first], [second])] == [what]
    assert differences([first], [first]) == []


def test_curl_prints_line_for_the_shell() -> None:
    words = ("curl", "s-1", URL, "-d", '{"text": "it\'s"}', "-H", "A: b")
    assert run(*words).stdout.startswith(
        "curl -i -H 'X-Noukai-Replay: s-1' -H 'Content-Type: application/json' -H 'A: b' -d '"
    )
    assert run_json(*words, "-X", "PUT")["command"].count("-X PUT") == 1
    assert "-d" not in run("curl", "s-1", URL).stdout.split()


@pytest.mark.parametrize(
    "data", ['{"a": "it\'s \\"quoted\\" $HOME `id`",\n "b": "\\u00e9é"}', "@body.json", ""]
)
def test_curl_line_sends_same_request_as_replay(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("body.json").write_text('{\n"a": 1}\n')
    requests: list[tuple[Any, ...]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = {k: v for k, v in scope["headers"] if k.startswith(b"x-") or k == b"content-type"}
        requests.append((scope["method"], scope["path"], scope["query_string"], headers, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"not JSON"})

    with serve_app(app, lifespan="off") as url:
        words = ("s-1", f"{url}/x?a[0]={{1}}", "-d", data, "-H", "X-Name: Zoë", "-H", "X-B: it's")
        run("replay", *words, exit_code=2)
        line = run("curl", *words).stdout
        subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    by_replay, by_curl = requests
    assert by_curl == by_replay
    assert by_curl[0] == "POST"
    assert by_curl[3][b"content-type"] == b"application/json"


def test_curl_with_cassette_uses_session_id_of_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "pulled.jsonl")
    write_cassette(path, "s-1", [])
    assert "X-Noukai-Replay: s-1" in run("curl", path, URL).stdout
    write_cassette(path, None, [])
    assert "this file has no session id" in run("curl", path, URL, exit_code=2).stderr


def test_base_url_option_wins_over_env_and_variables(
    backend: Server, captured: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, _ = captured
    path = str(tmp_path / "a.jsonl")
    monkeypatch.setenv("NOUKAI_BASE_URL", "http://127.0.0.1:9/api/v1")
    assert "127.0.0.1:9/" in run("show", session_id, "--env", "dev", exit_code=2).stderr
    option = ("--base-url", backend.url)
    run("pull", session_id, "-o", path, *option, "--env", "production")
    assert run("diff", session_id, path, *option).stdout == "no differences\n"
    assert run_json("show", session_id, *option)["sessionId"] == session_id


def test_invalid_address_of_service_is_reported(
    dev: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("show", "s-1", "--base-url", "localhost:80", exit_code=2)
    assert "it must be like 'http://127.0.0.1:8080/api/v1'" in result.stderr
    monkeypatch.delenv("NOUKAI_BASE_URL")
    monkeypatch.setenv("NOUKAI_ENV", "staging")
    assert "bad env 'staging'" in run("show", "s-1", exit_code=2).stderr


@pytest.mark.parametrize("header", ["no colon", ": b", "A: b\nC: d"])
def test_curl_and_replay_with_invalid_header_report_it(header: str) -> None:
    for command in ("curl", "replay"):
        result = run(command, "s-1", URL, "-H", header, exit_code=2)
        assert "is not a valid header: write 'Name: value'" in result.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cassettes/none.jsonl", "no such file"),
        ("none.jsonl", "no such file"),
        (".", "session id"),
        ("a b", "session id"),
    ],
)
def test_show_and_curl_with_invalid_session_report_it(source: str, message: str) -> None:
    for words in (("show", source), ("curl", source, URL)):
        assert message in run(*words, exit_code=2).stderr


def test_replay_as_recorded_exits_with_0(
    app_url: str, captured: tuple[str, Path], replay_enabled: None
) -> None:
    session_id, response = captured
    words = ("replay", session_id, app_url, "-d", '["one", "two"]', "--expect", str(response))
    output = run(*words).stdout
    assert "replayed as recorded" in output
    assert "hits=2" in output
    assert run_json(*words)["exitCode"] == 0


def test_replay_with_differences_exits_with_1(
    app_url: str, captured: tuple[str, Path], replay_enabled: None, tmp_path: Path
) -> None:
    session_id, response = captured
    words = ("replay", session_id, app_url)
    body = tmp_path / "body.json"
    body.write_text('["one", "other"]')
    drift = run(*words, "-d", f"@{body}", "-H", "X-Any: thing", exit_code=1)
    assert "replayed, with differences" in drift.stdout

    miss = run(*words, "-d", '["one", "two", "three"]', exit_code=1).stdout
    assert "misses: hello-world [execute] call 3" in miss
    assert "HTTP 500" in miss

    response.write_text("other")
    expected = ("--expect", str(response))
    other_body = run(*words, "-d", '["one", "two"]', *expected, exit_code=1)
    assert "differs from the captured one" in other_body.stdout


def test_replay_with_lost_call_exits_with_1() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"x-noukai-session", b"s-1"),
            (b"x-noukai-replay-report", b"hits=1; misses=0; drift=0; leftovers=0; lost=1"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    with serve_app(app, lifespan="off") as url:
        assert "lost=1" in run("replay", "s-1", url, exit_code=1).stdout


def test_replay_by_app_that_does_not_replay_exits_with_2(
    app_url: str, captured: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, _ = captured
    ignored = run("replay", session_id, app_url, "-d", '["one", "two"]', exit_code=2)
    assert "NOUKAI_REPLAY_ENABLED" in ignored.stdout
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    refused = run("replay", "unknown-id", app_url, "-d", "[]", exit_code=2).stdout
    assert "the app refused it" in refused
    assert "HTTP 404" in refused
    assert "no session of this id" in refused

    cassette = tmp_path / "other.jsonl"
    write_cassette(cassette, "unknown-id", [])
    refused = run("replay", str(cassette), app_url, "-d", "[]", exit_code=2).stdout
    assert "its service does not have it" in refused


def test_command_that_fails_prints_one_line_and_exits_with_2(dev: Server, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("{}\n")
    for words in (
        ("show", "no-such-session"),
        ("show", str(foreign)),
        ("replay", "s", "http://127.0.0.1:9/"),
        ("replay", "s", "no url", "--data", "@no-such-file"),
        ("pull", "no-such-session", "-o", str(tmp_path / "x")),
    ):
        result = run(*words, exit_code=2)
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        message = result.stderr.removeprefix("Error: ").removesuffix("\n")
        in_json = run(*words, "--json", exit_code=2)
        assert json.loads(in_json.stdout)["error"]["message"] == message
        assert in_json.stderr == ""


def test_error_in_json_has_type_and_code_of_service(dev: Server) -> None:
    missing = run_json("show", "no-such-session", exit_code=2)["error"]
    assert missing["type"] == "ReplaySessionNotFoundError"
    assert missing["code"] == "SESSION_NOT_FOUND"
    usage = run_json("show", "--call", "x", exit_code=2)["error"]
    assert "'x' is not a valid integer" in usage["message"]
