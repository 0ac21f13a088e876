"""Test ``noukai session replay`` and ``curl`` with captured requests."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from noukai_sdk import AsyncNoukai, Noukai, trace_scope_sync
from noukai_sdk.adapters.fastapi import instrument
from noukai_sdk.cli.commands import noukai
from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.models.session_lists import ReplayList, StoredReport
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from tests.cli.commands import run, run_json
from tests.support.servers import serve_app, serve_backend, wait_until

JSON = (("content-type", "application/json"),)


@pytest.fixture(scope="module")
def backend_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server.api


class SpellingApp:
    """An app at ``url``, and what of its code has been edited."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.url = ""
        self.greeting = "hello"
        self.suffix = ""
        self.end = "end"

    def app(self) -> FastAPI:
        client = AsyncNoukai(org="acme", project="samples")
        app = instrument(FastAPI(), client=client, capture_requests=True)
        flow = client.flow("hello-world")

        @app.post("/say")
        async def say(words: list[str], request: Request) -> dict[str, Any]:
            results = [(await flow.execute(message=word + self.suffix)).result for word in words]
            return {
                "greeting": self.greeting,
                "results": results,
                "q": request.query_params.get("q"),
            }

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            async def parts() -> Any:
                yield "data: begin\n\n"
                async for event in flow.events(message="a"):
                    yield f"data: {event.type}\n\n"
                if self.suffix:
                    await flow.execute(message="one more")
                yield f"data: {self.end}\n\n"

            return StreamingResponse(parts(), media_type="text/event-stream")

        @app.get("/boom")
        async def boom() -> None:
            await flow.execute(message="a")
            raise RuntimeError("a bug")

        return app

    def capture(self, method: str, path: str, **options: Any) -> str:
        """Send a request, and return its session when its exchange is stored."""
        response = httpx.request(method, self.url + path, **options)
        session_id = response.headers["X-Noukai-Session"]
        stored = f"{self.service}/seq/sessions/{session_id}/exchange"
        headers = {"Authorization": "Bearer nk_dev"}
        wait_until(lambda: httpx.get(stored, headers=headers).status_code == 200)
        return session_id


@pytest.fixture
def spelling(
    backend_url: str, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SpellingApp]:
    use_service(backend_url)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    spelling = SpellingApp(backend_url)
    with serve_app(spelling.app()) as spelling.url:
        yield spelling


def test_replay_of_captured_request_needs_only_the_session(spelling: SpellingApp) -> None:
    for words in (
        ("POST", "/say?q=1%202", {"json": ["one", "é"]}),
        ("GET", "/stream"),
        ("GET", "/boom"),
    ):
        method, path, *options = words
        session_id = spelling.capture(method, path, **(options[0] if options else {}))
        assert "replayed as recorded" in run("replay", session_id).stdout
        assert run_json("replay", session_id)["differences"] == []
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    shown = CliRunner(env=terminal).invoke(noukai, ["session", "replay", session_id])
    assert re.search(
        r"\x1b\]8;[^;]*;http://127\.0\.0\.1:\d+/replays/[0-9a-f-]{36}\x1b", shown.output
    )


def test_replay_of_edited_app_prints_what_differs(spelling: SpellingApp, tmp_path: Path) -> None:
    session_id = spelling.capture("POST", "/say", json=["one"])
    spelling.greeting = "good day"
    output = run("replay", session_id, exit_code=1).stdout
    assert "the response differs from the captured one" in output
    assert '$.greeting: captured "hello", received "good day"' in output
    run("replay", session_id, "--ignore", "$.greeting")
    [difference] = run_json("replay", session_id, exit_code=1)["differences"]
    assert difference == {"where": "$.greeting", "captured": "hello", "received": "good day"}

    spelling.greeting, spelling.suffix = "hello", " day"
    output = run("replay", session_id, exit_code=1).stdout
    assert "replayed, with differences" in output
    assert re.search(r"- one\n *\+ one day", output)
    assert "test_session_replay.py" in output

    # --expect is compared in place of the captured body.
    spelling.suffix = ""
    expected = tmp_path / "expected.json"
    expected.write_text('{"greeting": "good day"}')
    words = ("replay", session_id, "--expect", str(expected))
    wheres = {each["where"] for each in run_json(*words, exit_code=1)["differences"]}
    assert wheres == {"$.greeting", "$.results", "$.q"}


def test_replay_of_edited_stream_exits_with_1(spelling: SpellingApp) -> None:
    session_id = spelling.capture("GET", "/stream")
    spelling.end = "other"
    assert "event" in run("replay", session_id, exit_code=1).stdout
    spelling.end, spelling.suffix = "end", "!"
    # The call fails after the response has started: only the final report knows.
    failed = run_json("replay", session_id, exit_code=1)
    assert (failed["status"], failed["result"]) == (200, "failed")
    assert any("misses: hello-world" in problem for problem in failed["problems"])


def test_replay_with_other_data_or_address_overrides_captured_request(
    spelling: SpellingApp,
) -> None:
    session_id = spelling.capture("POST", "/say?q=a", json=["one"])
    more = run_json("replay", session_id, "-d", '["one", "two"]', exit_code=1)
    assert more["result"] == "failed"
    # Only the address: method, body and headers are the captured ones.
    other_query = run_json("replay", session_id, f"{spelling.url}/say?q=b", exit_code=1)
    assert [each["where"] for each in other_query["differences"]] == ["$.q"]


def test_replay_of_session_without_request_says_what_to_give(spelling: SpellingApp) -> None:
    assert "is not known to the service" in run("replay", "no-such-session", exit_code=2).stderr
    with Noukai() as client, trace_scope_sync(client=client) as scope:
        client.flow("acme/samples/hello-world").execute(message="a")
    for command in ("replay", "curl"):
        message = run(command, str(scope.session_id), exit_code=2).stderr
        assert "was captured without its request: give URL" in message


def exchange(path: str = "/a", *, origin: str = "http://127.0.0.1", **fields: Any) -> Exchange:
    request = {"method": "POST", "origin": origin, "path": path, "headers": JSON}
    return Exchange(
        request=CapturedRequest(**{**request, **fields}),
        response=CapturedResponse(status=200, body=CapturedBody(text="{}", size=2)),
    )


def write(tmp_path: Path, captured: Exchange | None) -> str:
    path = tmp_path / "captured.jsonl"
    write_cassette(path, "s-1", [], exchange=captured)
    return str(path)


class Replies:
    """An app that replays nothing, but says so; and the requests that it got.

    Attributes:
        reports: What it answers when it is asked for a report: statuses and bodies, the last one for ever.
    """

    def __init__(self, *reports: tuple[int, Any], headers: dict[str, str] | None = None) -> None:
        self.requests: list[dict[str, Any]] = []
        self.reports = list(reports)
        self.headers = {"x-noukai-session": "s-1", "x-noukai-replay-report": "hits=0"} | (
            headers or {}
        )
        self.body = b"{}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sent = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, body, headers = 200, self.body, self.headers
        if "x-noukai-replay-report" in sent:
            status, value = self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]
            body, headers = json.dumps(value).encode(), {}
        else:
            content = b""
            while (message := await receive())["type"] == "http.request":
                content += message.get("body", b"")
                if not message.get("more_body"):
                    break
            target = scope["raw_path"].decode(), scope["query_string"].decode()
            self.requests.append(
                {"method": scope["method"], "target": target, "headers": sent, "body": content}
            )
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def serve(replies: Replies) -> Iterator[str]:
    with serve_app(replies, lifespan="off") as url:
        yield url


def test_captured_request_is_sent_to_its_own_server_only_if_that_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(replies := Replies()) as url:
        run("replay", write(tmp_path, exchange("/a%20b", query="c=d", origin=url)))
        for origin in (
            "https://api.acme.com",
            "http://169.254.169.254",
            "http://app:80",
            "x",
            "http://[::",
        ):
            path = write(tmp_path, exchange("/a", origin=origin))
            message = run("replay", path, exit_code=2).stderr
            assert "--against" in message
            run("replay", path, "--against", f"{url}/prefix/")
            monkeypatch.setenv("NOUKAI_APP_URL", url)
            run("replay", path)
            run("replay", path, f"{url}/whole")  # the variable gives way to a URL
            monkeypatch.delenv("NOUKAI_APP_URL")
        targets = [request["target"] for request in replies.requests]
        assert targets[0] == ("/a%20b", "c=d")
        assert targets[1:4] == [("/prefix/a", ""), ("/a", ""), ("/whole", "")]
        # A path is never a part of the host's name.
        assert (
            f"{url}/@evil.example/"
            in run("curl", write(tmp_path, exchange("@evil.example/", origin=url))).stdout
        )
        both = run("curl", path, url, "--against", url, exit_code=2)
        assert "exclude each other" in both.stderr
    gone = write(tmp_path, exchange("/a", origin="http://127.0.0.1:9"))
    assert "--against names another server" in run("replay", gone, exit_code=2).stderr
    for address in ("localhost:80", "ftp://a", "http://a?b", "http://", "http://a b"):
        assert (
            "not the address of a server"
            in run("curl", path, "--against", address, exit_code=2).stderr
        )


@pytest.mark.parametrize(
    "body",
    [
        None,
        CapturedBody(text='{"a": "it\'s \\"$HOME\\" `id`\\n"}', size=3),
        CapturedBody(text="@file", size=5),
        CapturedBody(text="'a\\n\x1b[2J\u202e\x9b\r\n\t", size=5),
        CapturedBody(text="AP+A", encoding="base64", size=3),
        CapturedBody(text="é" * 120_000, size=240_000),
    ],
)
def test_curl_line_sends_captured_request_as_replay_does(
    body: CapturedBody | None, tmp_path: Path
) -> None:
    headers = (("content-type", "text/x"), ("x-name", "it's"), ("x-empty", "")) if body else ()
    with serve(replies := Replies()) as url:
        path = write(tmp_path, exchange("/a[0]", origin=url, body=body, headers=headers))
        words = (path, "-H", "Authorization: Bearer t", "--live-from", "2", "--on-miss", "live")
        words += ("--strict", "--pacing", "recorded", "--lost", "live")
        run("replay", *words)
        line = run("curl", *words).stdout
        assert not set(line) & {"\x1b", "\u202e", "\x9b", "\r"}
        subprocess.run(["bash"], input=line.encode(), check=True, capture_output=True)
    for request in replies.requests:
        sent = request["headers"]
        request["headers"] = {
            name: sent.get(name) for name in ("content-type", "x-name", "x-empty")
        }
        options = "live-from=2; on-miss=live; pacing=recorded; lost=live; strict"
        assert sent["x-noukai-replay"] == f"s-1; {options}"
        assert sent["authorization"] == "Bearer t"
    by_replay, by_curl = replies.requests
    assert by_curl == by_replay
    assert by_curl["method"] == "POST"
    assert by_curl["body"] == (body.content if body else b"")


def test_curl_line_names_method_that_curl_would_not_choose(tmp_path: Path) -> None:
    url = "http://localhost"
    for method, option in (("HEAD", "--head"), ("PUT", "-X PUT"), ("POST", "-X POST")):
        path = write(tmp_path, exchange(origin=url, method=method, headers=()))
        assert run("curl", path).stdout == f"curl -i -H 'X-Noukai-Replay: s-1' {option} {url}/a\n"
    assert "-X DELETE" in run("curl", path, "-X", "DELETE").stdout
    path = write(tmp_path, exchange(origin=url, path="/b c/../d%2F", headers=()))
    line = f"curl -i --path-as-is -H 'X-Noukai-Replay: s-1' -X POST {url}/b%20c/../d%2F\n"
    assert run("curl", path).stdout == line


def test_websocket_cannot_be_sent_again(tmp_path: Path) -> None:
    path = write(tmp_path, exchange(origin="ws://127.0.0.1"))
    words = ("--app", "main:app", "-o", str(tmp_path / "test_a.py"))
    for command in (("replay", path), ("curl", path), ("test", path, *words)):
        assert "is a websocket" in run(*command, exit_code=2).stderr


def test_request_without_whole_body_needs_data(tmp_path: Path) -> None:
    body = CapturedBody(text="[1", size=2_000_000, truncated=True)
    with serve(replies := Replies()) as url:
        path = write(tmp_path, exchange(origin=url, body=body))
        assert "only the first part of its body" in run("replay", path, exit_code=2).stderr
        run("replay", path, "-d", "[1, 2]")
    assert replies.requests[0]["body"] == b"[1, 2]"
    assert replies.requests[0]["headers"]["content-type"] == "application/json"


def test_what_was_masked_is_named_unless_it_is_given(tmp_path: Path) -> None:
    masked = ("header authorization", "body $.password")
    with serve(replies := Replies()) as url:
        replies.body = b"other"
        path = write(tmp_path, exchange(origin=url, redacted=masked))
        note = "removed or masked at capture: header authorization, body $.password"
        assert note in run("replay", path, exit_code=1).stdout
        assert note in run("curl", path).stderr
        given = run("curl", path, "-H", "authorization: x", "-d", "{}")
        assert "masked" not in given.stderr
        assert run_json("curl", path)["masked"] == list(masked)


def test_many_differences_are_cut_in_the_terminal(tmp_path: Path) -> None:
    with serve(replies := Replies()) as url:
        path = write(tmp_path, exchange(origin=url))
        for content, text in (
            (json.dumps(dict.fromkeys(map(str, range(30)))), "and 10 more differences"),
            ("\n".join(map(str, range(100))), "more lines"),
        ):
            replies.body = content.encode()
            assert text in run("replay", path, exit_code=1).stdout
            assert text not in json.dumps(run_json("replay", path, exit_code=1))


def test_file_in_folder_of_cassettes_is_replayed_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    write_cassette(folder / "sub" / "a.jsonl", None, [], exchange=exchange())
    path = str(folder / "sub" / "a.jsonl")
    assert "NOUKAI_CASSETTES" in run("curl", path, exit_code=2).stderr
    monkeypatch.setenv("NOUKAI_CASSETTES", str(folder))
    for source in (path, "file:sub/a.jsonl", "file:sub/a"):
        assert "X-Noukai-Replay: file:sub/a.jsonl" in run("curl", source).stdout
    assert "no cassette '../a'" in run("curl", "file:../a", exit_code=2).stderr
    elsewhere = write(tmp_path, exchange())
    assert "X-Noukai-Replay: s-1'" in run("curl", elsewhere).stdout


UNKNOWN = (404, {"error": "replay_report_unknown"})


def report(**fields: Any) -> tuple[int, dict[str, Any]]:
    values = {"replay_id": "r-1", "session_id": "s-1", "summary": "hits=1", **fields}
    return 200, StoredReport(**values).model_dump(by_alias=True)


def test_replay_waits_for_report_and_exits_by_it(tmp_path: Path) -> None:
    change = {"path": "message", "recorded": "a", "sent": "b", "diff": "-a\n+b\x1b[2J"}
    entry = {
        "slug": "grade",
        "kind": "execute",
        "position": 0,
        "detail": "input",
        "changes": [change],
    }
    finding = {"text": "calls 1 and 2 look swapped"}
    drift = {"drift": [entry], "findings": [finding]}
    error = {"error": "replay_error", "message": "no recording answers call 2"}
    clean = report(state="finished", verdict="clean")
    cases: list[tuple[int, str, list[tuple[int, Any]]]] = [
        (0, "replayed as recorded", [UNKNOWN, UNKNOWN, report(), clean]),
        (1, "-a", [report(state="finished", verdict="differs", report=drift)]),
        (1, "look swapped", [report(state="finished", verdict="differs", report=drift)]),
        (1, "no recording answers", [report(state="finished", verdict="failed", error=error)]),
        (2, "still running", [report()]),
        (2, "was not found", [UNKNOWN]),
        (2, "was not found", [report(replay_id="r-2", state="finished", verdict="clean")]),
    ]
    replies = Replies(headers={"x-noukai-replay-id": "r-1"})
    with serve(replies) as url:
        path = write(tmp_path, exchange(origin=url))
        for exit_code, text, replies.reports in cases:
            wait = ("--wait", "0.1" if exit_code == 2 else "10")
            output = run("replay", path, *wait, exit_code=exit_code).stdout
            assert text in output
            assert "\x1b" not in output


def test_report_that_another_worker_has_comes_from_the_service(
    tmp_path: Path, use_service: Callable[[str], None]
) -> None:
    stored = ReplayList(replays=(StoredReport(**report(state="finished", verdict="failed")[1]),))

    async def service(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/api/v1/seq/sessions/s-1/replays"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = stored.model_dump_json(by_alias=True).encode()
        await send({"type": "http.response.body", "body": body})

    with (
        serve_app(service, lifespan="off") as service_url,
        serve(Replies(UNKNOWN, headers={"x-noukai-replay-id": "r-1"})) as url,
    ):
        use_service(f"{service_url}/api/v1")
        path = write(tmp_path, exchange(origin=url))
        result = run_json("replay", path, exit_code=1)
        assert (result["result"], result["replayId"]) == ("failed", "r-1")


def test_stream_that_client_left_is_left_again(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-noukai-session", b"s-1"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"tick\ntick\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    body = CapturedBody(text="tick\ntick\n", size=10, complete=False)
    with serve_app(app, lifespan="off") as url:
        captured = exchange(origin=url)
        captured.response = CapturedResponse(
            status=200, headers=(("content-type", "text/plain"),), body=body
        )
        assert "replayed as recorded" in run("replay", write(tmp_path, captured)).stdout


def test_show_and_pull_keep_captured_request(
    spelling: SpellingApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = spelling.capture(
        "POST", "/say", json=["one"], headers={"Authorization": "Bearer t" * 9}
    )
    path = tmp_path / "pulled.jsonl"
    run("pull", session_id, "-o", str(path))
    captured = read_cassette(path).exchange
    assert captured is not None
    assert captured.request.path == "/say"
    for source in (session_id, str(path)):
        for words in (("show", source), ("show", source, "--full")):
            output = run(*words).stdout
            assert "POST /say -> 200" in output
            assert "removed or masked at capture: header authorization" in output
        assert run_json("show", source)["exchange"]["request"]["method"] == "POST"
    assert "replayed as recorded" in run("replay", str(path)).stdout
    # The app reads the file, and asks no service.
    monkeypatch.setenv("NOUKAI_CASSETTES", str(tmp_path))
    assert "file:pulled.jsonl" in run("curl", str(path)).stdout
    assert run_json("replay", str(path), "--wait", "10")["result"] == "clean"
