"""``noukai session`` against a real backend, a real app, and files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI

from noukai_sdk import AsyncNoukai, FlowNotFoundError, Noukai, trace_scope_sync
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware
from noukai_sdk.cli.commands import noukai
from noukai_sdk.models.sessions import RecordedError
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.diff import differences
from noukai_sdk.replay.recording import Recording
from tests.support.servers import Server, serve_app, serve_backend


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture
def dev(backend: Server, redirect_dev: Callable[[str], None]) -> Server:
    redirect_dev(backend.api)
    return backend


@pytest.fixture
def app_url(dev: Server) -> Iterator[str]:
    client = AsyncNoukai(org="acme", project="samples")
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=client)

    @app.post("/say")
    async def say(words: list[str]) -> dict[str, Any]:
        flow = client.flow("hello-world")
        return {"said": [(await flow.execute(message=word)).result for word in words]}

    with serve_app(app) as url:
        yield f"{url}/say"


@pytest.fixture
def captured(app_url: str, tmp_path: Path) -> tuple[str, Path]:
    """A session, and the file that holds its answer."""
    answer = httpx.post(app_url, json=["one", "two"])
    path = tmp_path / "answer.json"
    path.write_bytes(answer.content)
    return answer.headers["X-Noukai-Session"], path


def run(*words: str) -> Result:
    return CliRunner().invoke(noukai, ["session", *words], catch_exceptions=False)


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


def test_show_lists_the_calls_of_a_session(captured: tuple[str, Path]) -> None:
    session_id, _ = captured
    shown = run("show", session_id)
    assert shown.exit_code == 0
    assert session_id in shown.stdout
    assert "hello-world" in shown.stdout
    assert "█" in shown.stdout

    calls = told("show", session_id)["calls"]
    assert [call["input"] for call in calls] == ["one", "two"]
    assert all(call["output"] and call["tokens"] > 0 and call["costUsd"] for call in calls)
    assert calls[0]["startMs"] == 0
    assert calls[1]["startMs"] >= calls[0]["durationMs"]


def test_pull_writes_a_cassette_that_replays(
    captured: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, answer = captured
    path = tmp_path / "pulled.jsonl"
    pulled = run("pull", session_id, "-o", str(path))
    assert pulled.exit_code == 0
    assert "2 calls" in pulled.stdout
    assert told("pull", session_id, "-o", str(path))["calls"] == 2

    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    with Noukai() as client, trace_scope_sync(cassette=path) as scope:
        flow = client.flow("acme/samples/hello-world")
        said = [flow.execute(message=word).result for word in ("one", "two")]
    assert said == json.loads(answer.read_text())["said"]
    assert scope.report.clean
    assert told("show", str(path))["calls"] == told("show", session_id)["calls"]


def test_diff_tells_which_call_differs_and_how(app_url: str, captured: tuple[str, Path]) -> None:
    a, _ = captured
    b = httpx.post(app_url, json=["one", "three", "four"]).headers["X-Noukai-Session"]

    same = run("diff", a, a)
    assert (same.exit_code, same.stdout) == (0, "no differences\n")

    found = run("diff", a, b)
    assert found.exit_code == 1
    assert "input.message" in found.stdout
    listed = told("diff", a, b)["differences"]
    assert [(each["position"], each["what"]) for each in listed] == [
        (1, "input.message"),
        (1, "result"),
        (2, "call"),
    ]
    assert (listed[0]["a"], listed[0]["b"]) == ("two", "three")


def recording(**fields: Any) -> Recording:
    return Recording.model_validate({"slug": "a", "kind": "step", **fields})


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
def test_every_part_of_a_call_counts(a: dict[str, Any], b: dict[str, Any], what: str) -> None:
    assert [each.what for each in differences([recording(**a)], [recording(**b)])] == [what]
    assert differences([recording(**a)], [recording(**a)]) == []


def test_curl_prints_a_line_for_the_shell() -> None:
    words = ("curl", "s-1", "http://localhost:8000/x", "-d", '{"text": "it\'s"}', "-H", "A: b")
    line = run(*words).stdout.strip()
    assert line.startswith(
        "curl -i -H 'X-Noukai-Replay: s-1' -H 'Content-Type: application/json' -H 'A: b' -d '"
    )
    assert told(*words, "-X", "PUT")["command"].count("-X PUT") == 1
    assert "-d" not in run("curl", "s-1", "http://localhost:8000/x").stdout.split()


@pytest.mark.parametrize(
    "data", ['{"a": "it\'s \\"quoted\\" $HOME `id`",\n "b": "\\u00e9é"}', "@body.json", ""]
)
def test_the_line_sends_what_replay_sends(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("body.json").write_text('{\n"a": 1}\n')
    seen: list[tuple[Any, ...]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        headers = {k: v for k, v in scope["headers"] if k.startswith(b"x-") or k == b"content-type"}
        seen.append((scope["method"], scope["path"], scope["query_string"], headers, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    with serve_app(app, lifespan="off") as url:
        words = ("s-1", f"{url}/x?a[0]={{1}}", "-d", data, "-H", "X-Name: Zoë", "-H", "X-B: it's")
        run("replay", *words)
        line = run("curl", *words).stdout
        subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    by_replay, by_curl = seen
    assert by_curl == by_replay
    assert by_curl[0] == "POST"
    assert by_curl[3][b"content-type"] == b"application/json"


def test_a_file_names_the_session_that_the_app_is_to_replay(
    captured: tuple[str, Path], tmp_path: Path
) -> None:
    session_id, _ = captured
    path = str(tmp_path / "pulled.jsonl")
    run("pull", session_id, "-o", path)
    assert f"X-Noukai-Replay: {session_id}" in run("curl", path, "http://localhost:8000/").stdout
    write_cassette(path, None, [])
    refused = run("curl", path, "http://localhost:8000/")
    assert refused.exit_code == 2
    assert "this file names no session to replay" in refused.stderr


@pytest.mark.parametrize("header", ["no colon", ": b", "A: b\nC: d"])
def test_what_is_no_header_is_refused(header: str) -> None:
    for command in ("curl", "replay"):
        refused = run(command, "s-1", "http://localhost:8000/", "-H", header)
        assert refused.exit_code == 2
        assert "is no header: write 'Name: value'" in refused.stderr


@pytest.mark.parametrize("source", ["cassettes/none.jsonl", "none.jsonl", "."])
def test_a_file_that_is_not_there_is_said(source: str) -> None:
    for words in (("show", source), ("curl", source, "http://localhost:8000/")):
        refused = run(*words)
        assert refused.exit_code == 2
        said = "not only dots" if source == "." else "there is no such file"
        assert said in refused.stderr


def test_a_call_that_was_given_up_says_so(tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl"
    write_cassette(path, None, [Recording(slug="slow", kind="execute", abandoned=True)])
    assert told("show", str(path))["calls"][0]["error"] == "given up by its caller"


def test_texts_tell_the_terminal_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hostile.jsonl"
    hostile = "\x1b[31m[red]a[/]\x9b2Jb\n"
    request = {"message": hostile}
    write_cassette(path, None, [Recording(slug=hostile, kind="execute", request=request)])
    other = tmp_path / "other.jsonl"
    write_cassette(other, None, [])
    for words in (("show", str(path)), ("diff", str(path), str(other))):
        shown = run(*words).stdout
        assert not set(shown) & {"\x1b", "\x9b"}
        assert "[red]" in shown
    assert told("show", str(path))["calls"][0]["input"] == hostile


def test_an_output_without_the_characters_shows_others(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    request = {"message": "日本語"}
    write_cassette(path, None, [Recording(slug="a", kind="execute", request=request)])
    shown = CliRunner(charset="ascii").invoke(noukai, ["session", "show", str(path)])
    assert shown.exit_code == 0
    assert "?" in shown.stdout


def test_curl_refuses_a_hostile_id() -> None:
    refused = run("curl", "a b", "http://localhost:8000/")
    assert refused.exit_code == 2
    assert "bad session id" in refused.stderr


def test_replay_says_that_all_is_as_recorded(
    app_url: str, captured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    session_id, answer = captured
    data = ("--data", '["one", "two"]', "--expect", str(answer))
    good = run("replay", session_id, app_url, *data)
    assert good.exit_code == 0
    assert "replayed as recorded" in good.stdout
    assert "hits=2" in good.stdout
    assert told("replay", session_id, app_url, *data)["exitCode"] == 0


def test_replay_tells_drift_from_the_expected_answer(
    app_url: str, captured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    session_id, answer = captured
    body = tmp_path / "body.json"
    body.write_text('["one", "other"]')
    drifted = run("replay", session_id, app_url, "-d", f"@{body}", "-H", "X-Any: thing")
    assert drifted.exit_code == 1
    assert "something differs" in drifted.stdout

    answer.write_text("other")
    differs = run("replay", session_id, app_url, "-d", '["one", "two"]', "--expect", str(answer))
    assert differs.exit_code == 1
    assert "differs from the captured one" in differs.stdout


def test_replay_shows_the_report_of_a_miss(
    app_url: str, captured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    session_id, _ = captured
    missed = run("replay", session_id, app_url, "-d", '["one", "two", "three"]')
    assert missed.exit_code == 1
    assert "misses: hello-world [execute] call 3" in missed.stdout
    assert "HTTP 500" in missed.stdout


def test_replay_says_when_the_app_does_not_replay(app_url: str, captured: tuple[str, Path]) -> None:
    session_id, _ = captured
    ignored = run("replay", session_id, app_url, "-d", '["one", "two"]')
    assert ignored.exit_code == 2
    assert "NOUKAI_REPLAY_ENABLED" in ignored.stdout


def test_errors_are_one_line_and_exit_code_two(dev: Server, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("{}\n")
    for words in (
        ("show", "no-such-session"),
        ("show", str(foreign)),
        ("replay", "s", "http://127.0.0.1:9/"),
        ("replay", "s", "no url", "--data", "@no-such-file"),
        ("pull", "no-such-session", "-o", str(tmp_path / "x")),
    ):
        failed = run(*words)
        assert failed.exit_code == 2, failed.output
        assert failed.stderr.startswith("noukai: ")
        assert failed.stderr.count("\n") == 1


def test_a_failed_call_shows_its_error(tmp_path: Path, dev: Server) -> None:
    path = tmp_path / "failed.jsonl"
    with (
        Noukai() as client,
        pytest.raises(FlowNotFoundError),
        trace_scope_sync(record=path),
    ):
        client.flow("acme/samples/none").execute(message="x")
    assert "FLOW_NOT_FOUND" in told("show", str(path))["calls"][0]["error"]
    assert run("show", str(path)).exit_code == 0
