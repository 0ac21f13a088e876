"""Test who sees the pages, and which requests may change something: over HTTP, without a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from noukai_sdk.backend.settings import DEV_KEY, Settings
from noukai_sdk.cli import dev as dev_command
from noukai_sdk.cli import serve as serve_command
from noukai_sdk.cli.commands import noukai
from tests.support.servers import ROOT, serve_app, wait_until
from tests.support.servers import serve_command as serve_command_line

from .conftest import Dev

KEY, OTHER_KEY = "nk_secret_of_acme", "nk_secret_of_otherorg"
WRONG_KEYS = 3
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
CALL = {"message": "Hello"}


def served_by(
    monkeypatch: pytest.MonkeyPatch, command: Any, settings: Settings, *arguments: str
) -> dict[str, Any]:
    """Return what ``noukai dev`` or ``noukai serve`` would serve, and what it printed."""
    served: dict[str, Any] = {}

    def keep(app: Any, _settings: Any, _listener: Any, logged: Any, **more: Any) -> None:
        served.update(more, app=logged)

    monkeypatch.setattr(command, "serve_app", keep)
    name = "_read_settings" if command is dev_command else "_settings"
    monkeypatch.setattr(command, name, lambda *_, **__: settings)
    result = CliRunner().invoke(noukai, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {**served, "output": result.output}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve what ``noukai serve`` serves, over SQLite; return its root URL."""
    keys = {KEY: "acme", OTHER_KEY: "otherorg"}
    settings = Settings(tmp_path / "a.db", keys=keys, wrong_keys_per_minute=WRONG_KEYS)
    served = served_by(
        monkeypatch, serve_command, settings, "serve", "--db", "-", "--port", "0", "--log", "text"
    )
    assert re.search(r"^Page: http://127\.0\.0\.1:[0-9]+/$", served["output"], re.MULTILINE)
    with serve_app(served["app"]) as url:
        call = f"{url}/api/v1/seq/acme/samples/hello-world/execute"
        headers = {"Authorization": f"Bearer {KEY}", "X-Session-Id": "acmes-own"}
        assert httpx.post(call, json=CALL, headers=headers).status_code == 200
        yield url


def token_of(response: httpx.Response) -> str:
    """Return the token of the forms on a page."""
    found = re.search('name="csrf" value="([0-9a-f]{64})"', response.text)
    assert found is not None, response.text
    return found[1]


def log_in(client: httpx.Client, key: str, **fields: str) -> httpx.Response:
    """Send the form of the login page."""
    token = token_of(client.get("/login"))
    return client.post("/login", data={"csrf": token, "key": key, **fields})


def visitor(url: str) -> httpx.Client:
    """Return a client that sends what a browser sends with a form."""
    return httpx.Client(base_url=url, headers={"Origin": url}, timeout=30)


def test_service_shows_nothing_without_a_key_and_only_own_sessions_with_one(service: str) -> None:
    pages = ("/", "/sessions/acmes-own", "/live/sessions", "/flows", "/jobs", "/?q=a")
    with visitor(service) as anna, visitor(service) as otto:
        for page in pages:
            response = anna.get(page)
            if response.status_code == 404:  # a page that is not there yet
                continue
            assert response.status_code == 303, page
            assert response.headers["location"].startswith("/login")
            assert response.text == ""
        assert anna.get("/?q=a").headers["location"] == "/login?next=/%3Fq%3Da"
        fragment = anna.get("/", headers={"HX-Request": "true"})
        assert (fragment.headers["hx-redirect"], fragment.text) == ("/login", "")
        shown = anna.get("/login", params={"next": "/?q=a"})
        assert 'value="/?q=a"' in shown.text

        response = log_in(anna, KEY, next="/?q=hello")
        assert (response.status_code, response.headers["location"]) == (303, "/?q=hello")
        cookie = response.headers["set-cookie"]
        # Browsers send cookies to all ports of a host, and another service may be there.
        name = f"noukai_key_{service.rpartition(':')[2]}"
        assert cookie == f"{name}={KEY}; HttpOnly; Path=/; SameSite=strict"
        for target in ("//evil.example", "https://evil.example", "/\\evil.example", "/login", ""):
            assert log_in(anna, KEY, next=target).headers["location"] == "/"
        assert "Secure" in log_in_by_tls(service).headers["set-cookie"]

        assert log_in(otto, OTHER_KEY).status_code == 303
        assert "acmes-own" in anna.get("/").text
        assert "acmes-own" not in otto.get("/").text
        # Nor can he change it.
        data = {"csrf": token_of(otto.get("/"))}
        assert otto.post("/sessions/acmes-own/delete", data=data).status_code == 303
        assert "acmes-own" in anna.get("/").text
        # The key is in no page: the example of the empty list has a variable.
        assert "$NOUKAI_API_KEY" in otto.get("/").text
        for page in pages[:2] + pages[3:]:
            for client in (anna, otto):
                assert "nk_" not in client.get(page).text.replace("nk_...", "")

        assert anna.post("/logout", data={"csrf": token_of(anna.get("/"))}).status_code == 303
        assert anna.get("/").headers["location"] == "/login"
        # A key that is revoked, or never was one.
        for value in ("nk_revoked", "nk_é", "x" * 5000):
            sent = {"Cookie": f"{name}={value}".encode("latin-1")}
            gone = httpx.get(service, headers=sent)
            told = "/login?revoked=1" if value == "nk_revoked" else "/login"
            assert gone.headers["location"] == told, value
        assert "not valid any longer" in httpx.get(f"{service}/login?revoked=1").text


def log_in_by_tls(service: str) -> httpx.Response:
    """Log in through a proxy that takes TLS off."""
    headers = {"Origin": "https://noukai.example", "Host": "noukai.example"}
    headers["X-Forwarded-Proto"] = "https"
    with httpx.Client(base_url=service, headers=headers) as client:
        return log_in(client, KEY)


def test_service_slows_down_who_guesses_keys_by_the_login(service: str) -> None:
    with visitor(service) as guesser:
        statuses = []
        for number in range(WRONG_KEYS + 2):
            response = log_in(guesser, f"nk_guess{number}")
            statuses.append(response.status_code)
            assert "set-cookie" not in response.headers
            assert f"nk_guess{number}" not in response.text
        # A guess that takes long gives one back.
        assert statuses[:WRONG_KEYS] == [401] * WRONG_KEYS
        assert 429 in statuses[WRONG_KEYS:]
        assert log_in(guesser, "").status_code == 400


def test_post_from_elsewhere_changes_nothing(dev: Dev) -> None:
    assert dev.run("tests/shout", session="kept").status_code == 200
    page = httpx.get(dev.url)
    token, good = token_of(page), {"Origin": dev.url}
    rebound = {"Origin": "http://evil.example", "Host": "evil.example"}
    for name, headers, data, status in [
        ("another origin", {"Origin": "http://evil.example"}, {"csrf": token}, 403),
        ("another port", {"Origin": "http://127.0.0.1:1"}, {"csrf": token}, 403),
        ("a sandboxed page", {"Origin": "null"}, {"csrf": token}, 403),
        ("no origin", {}, {"csrf": token}, 403),
        ("no token", good, {}, 403),
        ("another token", good, {"csrf": "0" * 64}, 403),
        ("not ASCII", good, {"csrf": "é"}, 403),
        ("a rebound name", rebound, {"csrf": token}, 421),
        ("a large form", good, {"csrf": token, "x": "x" * 5_000_000}, 413),
    ]:
        response = httpx.post(f"{dev.url}/sessions/kept/delete", headers=headers, data=data)
        assert response.status_code == status, name
        assert response.headers["content-security-policy"] == CSP
    assert httpx.get(f"{dev.url}/sessions/kept/delete").status_code == 405
    assert httpx.get(dev.url, headers={"Host": "evil.example"}).status_code == 421
    assert dev.client.get("/seq/sessions/kept").status_code == 200
    done = httpx.post(f"{dev.url}/sessions/kept/delete", headers=good, data={"csrf": token})
    assert done.status_code == 303
    assert dev.client.get("/seq/sessions/kept").status_code == 404


def test_every_response_of_the_pages_lets_no_foreign_script_run(dev: Dev) -> None:
    for path, status in [
        ("/", 200),
        ("/?since=never", 200),
        ("/login", 200),
        ("/sessions/a/b/c", 404),
        ("/static/none.js", 404),
        ("/static/page.js", 200),
        ("/static/..%2fsecurity.py", 404),
    ]:
        response = httpx.get(dev.url + path)
        assert response.status_code == status, path
        assert response.headers["content-security-policy"] == CSP, path
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"
        if response.headers["content-type"].startswith("text/html"):
            assert response.headers["cache-control"] == "no-store"
            assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=", response.text), path
    # A browser gets a page with a way home also beside the pages; the API responds as ever.
    for path, kind in [("/nope", "text/html"), ("/api/v1/nope", "application/json")]:
        headers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        response = httpx.get(dev.url + path, headers=headers)
        assert (response.status_code, response.headers["content-type"][: len(kind)]) == (404, kind)
        assert httpx.get(dev.url + path).json()["detail"]["code"] == "ROUTE_NOT_FOUND"
    for path in ("/sessions", "/replays"):
        assert httpx.get(dev.url + path).headers["location"] == "/"
    # A browser keeps a file whose URL has its version.
    url = re.search(r'"(/static/style\.css\?v=\w+)"', httpx.get(dev.url).text)
    assert url is not None
    assert "immutable" in httpx.get(dev.url + url[1]).headers["cache-control"]


def test_dev_needs_no_login_on_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def served(*arguments: str) -> dict[str, Any]:
        settings = Settings(tmp_path / "a.db")
        return served_by(monkeypatch, dev_command, settings, "dev", "--port", "0", *arguments)

    with serve_app(served("--host", "127.0.0.1")["app"]) as url:
        page = httpx.get(url)
        assert page.status_code == 200
        assert "Bearer nk_dev" in page.text
        assert "Log out" not in page.text
        # A service with a login was at this port before.
        stale = {"Cookie": f"noukai_key_{url.rpartition(':')[2]}=nk_of_before"}
        led = httpx.get(f"{url}/?q=a", headers=stale)
        assert led.headers["location"] == "/?q=a"
        assert "Max-Age=0" in led.headers["set-cookie"]
    everywhere = served("--host", "0.0.0.0")
    assert re.search(r"^Page: http://127\.0\.0\.1:[0-9]+/$", everywhere["output"], re.MULTILINE)
    with serve_app(everywhere["app"]) as url:
        assert httpx.get(url).headers["location"] == "/login"
    bare = served("--no-ui")
    assert "Page:" not in bare["output"]
    with serve_app(bare["app"]) as url:
        assert httpx.get(url).json()["detail"]["code"] == "ROUTE_NOT_FOUND"
    result = CliRunner().invoke(noukai, ["dev", "--no-ui", "--open"])
    assert (result.exit_code, "exclude each other" in result.output) == (2, True)


def test_live_pages_are_limited_and_end_with_the_service(tmp_path: Path) -> None:
    # Also the only test that lets `--open` open something.
    browser = tmp_path / "browser"
    opened = tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part\nmv {opened}.part {opened}\n')
    browser.chmod(0o755)
    command = ["python", "-m", "noukai_sdk.cli", "dev", "--port", "{port}", "--open"]
    command += ["--db", str(tmp_path / "a.db")]
    with ExitStack() as stack:
        env = {"BROWSER": f"{browser} %s"}
        server = stack.enter_context(serve_command_line(command, env=env, ready="/healthz"))
        wait_until(opened.is_file, what="the page is opened")
        assert opened.read_text() == f"{server.url}/\n"
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=30))
        streams = []
        for _ in range(32):
            response = stack.enter_context(client.stream("GET", "/live/sessions"))
            assert response.status_code == 200
            streams.append(response.iter_text())
            # It has begun, so it is counted.
            assert next(streams[-1]).startswith(": live")
        assert client.get("/live/sessions").status_code == 503
        assert client.get("/").status_code == 200
        server.process.terminate()
        for stream in streams:
            list(stream)  # raises if the stream is cut off
        server.process.wait(30)


# Asks a path of the API, and then a page, and prints what is imported after each.
IMPORTS = """
import asyncio, sys
import noukai_sdk.cli.dev, noukai_sdk.cli.serve
from noukai_sdk.dashboard.app import Dashboard

async def api(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})

async def ask(dashboard, path):
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    async def receive(): return {"type": "http.request", "body": b""}
    async def send(message): pass
    await dashboard(scope, receive, send)
    heavy = ("jinja2", "httpx", "noukai_sdk.dashboard.pages", "noukai_sdk.dashboard.rendering")
    print(*[name for name in heavy if name in sys.modules])

async def main():
    dashboard = Dashboard(api)
    await ask(dashboard, "/api/v1/seq/sessions")
    await ask(dashboard, "/static/page.js")

asyncio.run(main())
"""


def test_nothing_of_the_pages_is_imported_before_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    before, after = done.stdout.split("\n")[:2]
    assert before == "", done.stderr
    assert "jinja2" in after


def test_service_sends_captured_requests_only_where_it_is_told(service: str) -> None:
    request = {"method": "GET", "origin": "http://127.0.0.1:9", "path": "/"}
    exchange = {"request": request, "response": {"status": 200}}
    stored = f"{service}/api/v1/seq/sessions/acmes-own/exchange"
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.put(stored, json=exchange, headers=headers).status_code == 200
    for key, status, message in (
        (KEY, 400, "nowhere. Start it with --replay-to http://127.0.0.1:9"),
        (OTHER_KEY, 404, "There is no session"),
    ):
        with visitor(service) as client:
            log_in(client, key)
            form = {"csrf": token_of(client.get("/"))}
            refused = client.post("/sessions/acmes-own/replays", data=form)
            assert refused.status_code == status
            assert message in refused.text
    for url in ("http://a:b@localhost", "localhost:8000", "http://localhost/app"):
        result = CliRunner().invoke(noukai, ["dev", "--replay-to", url])
        assert result.exit_code == 2
        assert "is not the address of a server" in result.output


def test_login_form_of_one_process_can_be_sent_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = set()
    for _ in range(2):
        settings = Settings(tmp_path / "a.db", keys={KEY: "acme"})
        arguments = ("serve", "--db", "-", "--port", "0")
        served = served_by(monkeypatch, serve_command, settings, *arguments)
        with serve_app(served["app"]) as url:
            tokens.add(token_of(httpx.get(f"{url}/login")))
    assert len(tokens) == 1


def test_page_that_is_open_while_dev_is_started_again_can_send_its_forms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = set()
    for _ in range(2):
        settings = Settings(tmp_path / "a.db", keys={DEV_KEY: None})
        served = served_by(monkeypatch, dev_command, settings, "dev", "--port", "0")
        with serve_app(served["app"]) as url:
            call = f"{url}/api/v1/seq/acme/samples/hello-world/execute"
            headers = {"Authorization": f"Bearer {DEV_KEY}", "X-Session-Id": "restarted"}
            httpx.post(call, json=CALL, headers=headers).raise_for_status()
            tokens.add(token_of(httpx.get(f"{url}/sessions/restarted")))
    assert len(tokens) == 1
    assert (tmp_path / "a.page-key").stat().st_mode & 0o077 == 0
