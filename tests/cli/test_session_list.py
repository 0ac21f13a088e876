"""Test ``noukai session list`` with a backend, and with services that answer anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from noukai_sdk import FlowNotFoundError, Noukai, trace_scope_sync
from tests.cli.commands import run, run_json
from tests.support.servers import serve_app, serve_backend, wait_until


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_API_KEY", "nk_dev")
    monkeypatch.delenv("COLUMNS", raising=False)


@contextmanager
def serve_pages(pages: dict[str | None, Any], status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """Serve a list of sessions, one page for each cursor; yields the address and the queries."""
    queries: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        query = {
            name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()
        }
        queries.append(query)
        body = json.dumps(pages.get(query.get("cursor"), {"detail": "no such path"})).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with serve_app(app, lifespan="off") as url:
        yield f"{url}/api/v1", queries


def test_list_shows_sessions_of_backend_newest_first(
    tmp_path: Path, use_service: Callable[[str], None]
) -> None:
    with (
        serve_backend(tmp_path) as backend,
        Noukai(api_key="nk_dev", base_url=backend.api) as client,
    ):
        use_service(backend.api)
        assert run("list").stdout == "no sessions\n"
        ids = []
        for message in ("apples", "pears"):
            with trace_scope_sync(client=client) as scope:
                client.flow("acme/samples/hello-world").execute(message=message)
            ids.append(scope.session_id)
        with trace_scope_sync(client=client) as scope, pytest.raises(FlowNotFoundError):
            client.flow("acme/samples/no-such-flow").execute(message="plums")
        ids.append(scope.session_id)

        def listed(*words: str) -> list[str]:
            return [each["sessionId"] for each in run_json("list", *words)["sessions"]]

        wait_until(lambda: len(listed()) == 3, what="the refusal, which is sent in the background")

        assert listed() == ids[::-1]
        assert listed("--failed") == ids[2:]
        assert listed("--running") == []
        assert listed("--flow", "hello-world") == ids[1::-1]
        assert listed("-q", "apples") == ids[:1]
        assert listed("--since", "2h", "--limit", "2") == ids[:0:-1]
        assert listed("--since", "2999-01-01") == []
        result = run("list", "--limit", "2")
        assert "tokens" in result.stdout
        rows = [line.split() for line in result.stdout.splitlines()]
        assert rows[0][:2] == ["session", "age"]
        assert [row[0] for row in rows[1:]] == ids[:0:-1]
        assert rows[2][2:5] == ["acme/samples/hello-world", "1", "completed"]
        assert "--limit 4" in result.stderr


def test_list_reads_pages_until_limit() -> None:
    def page(*numbers: int, cursor: str | None) -> Any:
        return {"sessions": [{"sessionId": f"s-{n}"} for n in numbers], "nextCursor": cursor}

    pages = {None: page(1, 2, cursor="a"), "a": page(3, 4, cursor="b"), "b": page(5, cursor="b")}
    with serve_pages(pages) as (url, queries):
        words = ("list", "--base-url", url)
        ids = [each["sessionId"] for each in run_json(*words, "--limit", "3")["sessions"]]
        assert ids == ["s-1", "s-2", "s-3"]
        assert [query["limit"] for query in queries] == ["3", "1"]
        # The last cursor does not move.
        assert len(run_json(*words)["sessions"]) == 5


def test_list_of_hostile_texts_is_harmless() -> None:
    hostile = "\x1b]0;x\x07[red]\u202ea\n" * 3
    texts = dict.fromkeys(("sessionId", "request", "status", "costUsd", "startedAt"), hostile)
    sessions = [
        {**texts, "flows": [hostile]},
        {"sessionId": "s", "request": None, "flows": [hostile]},
    ]
    with serve_pages({None: {"sessions": sessions}}) as (url, _):
        output = run("list", "--base-url", url).stdout
        assert len(output.splitlines()) == 3
        assert not set(output) & {"\x1b", "\x07", "\u202e"}
        assert "[red]" in output
        assert run_json("list", "--base-url", url)["sessions"][0]["request"] == hostile


def test_list_of_service_without_list_says_so() -> None:
    for status, text in ((404, "X-Noukai-Session"), (405, "does not list"), (400, "no such path")):
        with serve_pages({}, status) as (url, _):
            assert text in run("list", "--base-url", url, exit_code=2).stderr
            assert run_json("list", "--base-url", url, exit_code=2)["error"]["message"]


def test_list_with_invalid_options_reports_them() -> None:
    for text in ("yesterday", "7", "99999999d", "2026-13-01", "999999w"):
        assert "is not a time" in run("list", "--since", text, exit_code=2).stderr
    assert "exclude each other" in run("list", "--failed", "--running", exit_code=2).stderr
