"""Test ``noukai session open`` and ``html``, and the links to the page."""

from __future__ import annotations

import stat
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from noukai_sdk import Noukai, trace_scope_sync
from noukai_sdk.backend.app import create_app
from noukai_sdk.backend.settings import Settings
from noukai_sdk.cli.commands import noukai
from tests.cli.commands import run, run_json
from tests.support.servers import Server, serve_app, serve_backend, settings_of

SECRET = "sk-proj-1234567890abcdefghijklmnopqrstuv"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture
def session_id(backend: Server, use_service: Callable[[str], None]) -> str:
    use_service(backend.api)
    with Noukai(org="acme", project="samples") as client, trace_scope_sync(client=client) as scope:
        client.flow("hello-world").execute(message=f"</script><b>Hello {SECRET}")
        assert scope.session_id is not None
        return scope.session_id


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that are opened in the browser."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not addresses.append(url))
    monkeypatch.setenv("DISPLAY", ":0")
    return addresses


def test_session_open_of_an_id_opens_its_page(
    session_id: str, backend: Server, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{backend.url}/sessions/{session_id}"
    assert run("open", session_id).stdout == f"{url}\n"
    assert opened == [url]
    assert run_json("open", session_id, "--no-browser") == {"url": url, "opened": False}
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert run("open", session_id).stdout == f"{url}\n"
    assert opened == [url]


def test_session_open_without_a_page_names_the_html_file(tmp_path: Path, opened: list[str]) -> None:
    settings = Settings(database=f"sqlite:///{tmp_path}/a.db")
    with serve_app(create_app(settings)) as url:
        result = run("open", "s-1", "--base-url", f"{url}/api/v1", exit_code=2)
    assert "--no-ui" in result.output
    assert "noukai session html s-1 -o FILE" in result.output
    result = run("open", "s-1", "--base-url", "https://api.noukai.xyz/api/v1", exit_code=2)
    assert "the hosted service has no page" in result.output
    result = run("open", "s-1", "--base-url", f"{url}/api/v1", exit_code=2)
    assert "cannot be reached" in result.output
    assert opened == []


def test_session_open_of_a_file_opens_a_private_html_file(
    session_id: str, tmp_path: Path, opened: list[str]
) -> None:
    cassette = tmp_path / "a.jsonl"
    run("pull", session_id, "-o", str(cassette))
    assert run("open", str(cassette)).stdout.strip() == opened[0]
    page = Path(unquote(urlsplit(opened[0]).path))
    try:
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert session_id in page.read_text("utf-8")
    finally:
        page.unlink()


def test_session_html_writes_one_file_without_secrets(session_id: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.html"
    printed = run("html", session_id, "-o", str(path)).stdout
    assert printed == f"{path}: 1 call of session {session_id}\n"
    text = path.read_text("utf-8")
    assert "&lt;/script&gt;&lt;b&gt;Hello" in text
    assert SECRET not in text
    assert 'http-equiv="Content-Security-Policy"' in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "exists: use --force" in run("html", session_id, "-o", str(path), exit_code=2).output
    assert run_json("html", session_id, "-o", str(path), "--force")["calls"] == 1


def test_session_lines_on_a_terminal_link_to_the_page(
    session_id: str, backend: Server, tmp_path: Path
) -> None:
    url = f"{backend.url}/sessions/{session_id}\x1b\\"
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", **settings_of(backend.api)}
    file = ["-o", str(tmp_path / "a"), "--force"]
    written = (["pull", session_id, *file], ["html", session_id, *file])
    for words in (["list"], ["show", session_id], *written):
        shown = CliRunner(env=terminal).invoke(noukai, ["session", *words])
        assert url in shown.output, words
        assert "\x1b" not in run(*words).output
