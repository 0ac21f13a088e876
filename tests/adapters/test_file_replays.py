"""Test the replay of cassette files that a request names: ``X-Noukai-Replay: file:<name>``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from noukai_sdk import AsyncNoukai, AuthenticationError, Noukai, trace_scope_sync
from noukai_sdk.adapters import asgi, wsgi
from noukai_sdk.transport import background
from tests.support.asgi_driver import Connection, http_scope
from tests.support.sessions import RecordedSessions
from tests.support.wsgi_driver import Exchange

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("replay_enabled", "no_scope_leaks")]

UNREACHABLE = "http://127.0.0.1:9/api/v1"


class Apps:
    """The same application under both adapters; its client cannot reach any service."""

    def __init__(self, adapter: str, key: str | None = "nk_dummy") -> None:
        self.adapter = adapter
        self.messages = ["a"]
        kind: Any = AsyncNoukai if adapter == "asgi" else Noukai
        client = kind(key, base_url=UNREACHABLE, org="acme", project="spelling", max_retries=0)
        self.flow = client.flow("grade-3")
        self.middleware: Any
        if adapter == "asgi":
            self.middleware = asgi.NoukaiTraceMiddleware(self.asgi_app, client=client)
        else:
            self.middleware = wsgi.NoukaiTraceMiddleware(self.wsgi_app, client=client)

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        results = [(await self.flow.execute(message=text)).result for text in self.messages]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(results).encode()})

    def wsgi_app(self, environ: Any, start_response: Any) -> list[bytes]:
        results = [self.flow.execute(message=text).result for text in self.messages]
        start_response("200 OK", [])
        return [json.dumps(results).encode()]

    async def replay(self, header: str | None) -> Any:
        """Send a request with the header, if there is one."""
        if self.adapter == "asgi":
            return await Connection(self.middleware, http_scope(replay=header)).run()
        return await anyio.to_thread.run_sync(Exchange(self.middleware, replay=header).run)


@pytest.fixture(params=["asgi", "wsgi"])
def apps(request: pytest.FixtureRequest) -> Apps:
    return Apps(request.param)


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync_noukai: Noukai, sessions: RecordedSessions
) -> Path:
    """The folder of cassettes, with one cassette of two calls."""
    folder = tmp_path / "cassettes"
    folder.mkdir()
    monkeypatch.setenv("NOUKAI_CASSETTES", str(folder))
    with trace_scope_sync(record=folder / "two.jsonl"):
        for text in "ab":
            sync_noukai.flow("grade-3").execute(message=text)
    return folder


def error_of(response: Any) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error"]


async def test_file_replays_with_no_service_and_its_response_can_be_sent_again(
    apps: Apps, folder: Path, sessions: RecordedSessions
) -> None:
    apps.messages = ["a", "b"]
    recorded = json.loads((folder / "two.jsonl").read_text().splitlines()[0])["session_id"]
    (folder / "sub").mkdir()
    (folder / "two.jsonl").rename(folder / "sub" / "a b.jsonl")
    for name in ("file:sub/a b.jsonl", "file:sub/a b"):
        response = await apps.replay(name)
        assert (response.status, json.loads(response.body)) == (200, ["grade-3: a", "grade-3: b"])
        assert response.headers["x-noukai-session"] == recorded
        assert response.headers["x-noukai-replay-report"].startswith("hits=2; misses=0")
        assert response.headers["x-noukai-replay-id"]

    lines = (folder / "sub" / "a b.jsonl").read_text().splitlines()
    header = {**json.loads(lines[0]), "session_id": None}
    (folder / "no-id.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]))
    for _ in range(2):
        response = await apps.replay("file:no-id.jsonl")
        assert response.status == 200
        assert response.headers["x-noukai-session"] == "file:no-id.jsonl"
    assert background.flush(10)
    assert sessions.fetched == []
    assert sessions.sent == []


async def test_file_replays_without_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOUKAI_API_KEY")
    for adapter in ("asgi", "wsgi"):
        apps = Apps(adapter, key=None)
        apps.messages = ["a", "b"]
        assert (await apps.replay("file:two")).status == 200
        # All else needs a key.
        assert error_of(await apps.replay("some-session")) == (502, "replay_unavailable")
        with pytest.raises(AuthenticationError, match="no API key"):
            await apps.replay(None)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "no")
    with pytest.raises(AuthenticationError, match="no API key"):
        Apps("wsgi", key=None)


async def test_options_apply_to_files(apps: Apps, folder: Path) -> None:
    assert error_of(await apps.replay("file:two")) == (500, "replay_error")  # a leftover
    apps.messages = ["a", "other"]
    drifted = await apps.replay("file:two")
    assert (drifted.status, "drift=1" in drifted.headers["x-noukai-replay-report"]) == (200, True)
    strict = await apps.replay("file:two; strict")
    assert error_of(strict) == (500, "replay_error")
    assert "misses=1" in strict.headers["x-noukai-replay-report"]
    apps.messages = ["a"]
    fork = await apps.replay("file:two; live-from=1")
    assert fork.status == 200
    assert fork.headers["x-noukai-session"] != drifted.headers["x-noukai-session"]


async def test_file_outside_of_the_folder_is_refused(
    apps: Apps, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = folder.parent / "outside.jsonl"
    outside.write_bytes((folder / "two.jsonl").read_bytes())
    (folder / "link.jsonl").symlink_to(outside)
    (folder / "up").symlink_to(folder.parent)
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe")
    for name in ("missing", "link", "link.jsonl", "up/outside.jsonl", "folder.jsonl", "pipe"):
        refused = await apps.replay(f"file:{name}")
        assert error_of(refused) == (404, "replay_not_found"), name
        assert f"no cassette {name!r}" in refused.body.decode()
        assert refused.headers["x-noukai-session"] == f"file:{name}"
    for name in ("../outside.jsonl", str(outside), "", "a/../../outside.jsonl"):
        refused = await apps.replay(f"file:{name}")
        assert error_of(refused) == (400, "replay_invalid_session"), name
    # A link that stays in the folder is as good as a file.
    (folder / "alias").symlink_to("two.jsonl")
    apps.messages = ["a", "b"]
    assert (await apps.replay("file:alias")).status == 200
    # So is a folder that is a link itself.
    (folder.parent / "linked").symlink_to(folder)
    monkeypatch.setenv("NOUKAI_CASSETTES", str(folder.parent / "linked"))
    assert (await apps.replay("file:two")).status == 200


async def test_damaged_file_and_missing_folder_are_named(
    apps: Apps, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in (b"", b"secret=1\n", b'{"noukai_cassette": 99}\n', b"\xff\xfe"):
        (folder / "bad.jsonl").write_bytes(content)
        refused = await apps.replay("file:bad.jsonl")
        assert error_of(refused) == (400, "replay_invalid_session")
        body = refused.body.decode()
        assert "file:bad.jsonl" in body
        assert str(folder) not in body
        assert "secret" not in body
    monkeypatch.setenv("NOUKAI_CASSETTES", "")
    refused = await apps.replay("file:two")
    assert error_of(refused) == (400, "replay_invalid_session")
    assert "set NOUKAI_CASSETTES" in refused.body.decode()
    monkeypatch.setenv("NOUKAI_CASSETTES", str(folder / "nowhere"))
    assert error_of(await apps.replay("file:two")) == (404, "replay_not_found")
