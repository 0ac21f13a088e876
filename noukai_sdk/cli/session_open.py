"""``noukai session open`` and ``html``: a session on the service's page, or as one HTML file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import httpx
from rich.markup import escape

from ..replay.cassette_file import CassetteFile, redacted_file
from ..replay.redaction import Redactor
from ..replaying.controls import clean_lines
from . import missing_modules, packages_to_install
from .page_links import linked, open_in_browser, page_of_service, session_url
from .session_source import (
    Env,
    base_url_option,
    env_option,
    is_file,
    load,
    name_of,
    require_id,
    source_argument,
)
from .session_views import open_console, print_json
from .shared_options import CommandError, count, json_option, output_option

_TIMEOUT = 10.0


@click.command("open")
@source_argument
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@env_option
@base_url_option
@json_option
def open_command(
    source: str, no_browser: bool, env: Env | None, base_url: str | None, as_json: bool
) -> None:
    """Open a session in the browser: its page, or a cassette as an HTML file.

    Without a display, only the address is printed.
    """
    if is_file(source):
        file = load(source, env, base_url)
        address = _write_temporary(_html(file, source)).as_uri()
    else:
        address = _page_of(require_id(source), env, base_url)
    is_open = not no_browser and open_in_browser(address)
    print_json({"url": address, "opened": is_open}) if as_json else click.echo(address)


@click.command("html")
@source_argument
@output_option("HTML file to write.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@env_option
@base_url_option
@json_option
def html_command(
    source: str, path: Path, force: bool, env: Env | None, base_url: str | None, as_json: bool
) -> None:
    """Write a session to one HTML file, which opens without a server and without a network.

    Secrets are removed, as in a cassette file.
    """
    if path.exists() and not force:
        raise CommandError(f"{path} exists: use --force to replace it")
    file = load(source, env, base_url)
    text = _html(file, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "replace"))
    number = len(file.recordings)
    if as_json:
        print_json({"path": str(path), "sessionId": file.session_id, "calls": number})
    else:
        page = None if is_file(source) else page_of_service(env, base_url)
        name = linked(escape(name_of(file, source)), page, file.session_id)
        line = f"{escape(clean_lines(str(path)))}: {count(number, 'call')} of {name}"
        open_console().print(line, soft_wrap=True)


def _html(file: CassetteFile, source: str) -> str:
    missing = missing_modules("jinja2")
    if missing:
        raise CommandError(
            f"this command needs jinja2: pip install {packages_to_install(*missing)}"
        )
    from ..dashboard.export import session_html

    redactor = Redactor(file.redacted, pii=file.redacted_pii)
    clean = redacted_file(file, redactor, source)
    return session_html(clean, Path(source).name if is_file(source) else "")


def _write_temporary(text: str) -> Path:
    """Write a file that only its owner can read. It stays, because the browser reads it later."""
    handle, name = tempfile.mkstemp(suffix=".html", prefix="noukai-")
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8", "replace"))
    return Path(name)


def _page_of(session_id: str, env: Env | None, base_url: str | None) -> str:
    """Return the address of a session's page.

    Raises:
        CommandError: The service has no page, or cannot be reached.
    """
    page = page_of_service(env, base_url)
    if page is None:
        raise CommandError(
            "the hosted service has no page of sessions: write the session to a file with "
            f"`noukai session html {session_id} -o FILE`"
        )
    try:
        # A file of the page, which needs no key.
        status = httpx.get(f"{page}static/style.css", timeout=_TIMEOUT, trust_env=False).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"{page} cannot be reached: {error}") from error
    if status != 200:
        raise CommandError(
            f"{page} has no page: it was started with --no-ui. Write the session to a file with "
            f"`noukai session html {session_id} -o FILE`"
        )
    return session_url(page, session_id)
