"""Links from a terminal to the page of the service."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Literal
from urllib.parse import quote

_API = "/api/v1"


def page_of_service(env: Literal["production", "dev"] | None, base_url: str | None) -> str | None:
    """Return the address of the page of the service that the options name.

    The hosted service has no page of this kind: None.
    """
    from ..client import BASE_URLS, resolve_base_url

    try:
        api = resolve_base_url(base_url, env).rstrip("/")
    except ValueError:
        return None
    if api == BASE_URLS["production"] or not api.endswith(_API):
        return None
    return f"{api.removesuffix(_API)}/"


def session_url(page: str, session_id: str) -> str:
    """Return the address of a session.

    Example:
        >>> session_url("http://127.0.0.1:8080/", "s-1")
        'http://127.0.0.1:8080/sessions/s-1'
    """
    return f"{page}sessions/{quote(session_id, safe='')}"


def linked(text: str, page: str | None, session_id: str | None) -> str:
    """Return rich markup that links to a session; rich leaves the link out if there is no terminal.

    Args:
        text: Rich markup.
        page: The address of the page, None without one.
        session_id: The session, None if it has no id.
    """
    return _linked(text, page, session_url(page, session_id) if page and session_id else None)


def linked_to_replay(text: str, page: str | None, replay_id: str | None) -> str:
    """Return rich markup that links to a replay, as :func:`linked` does to a session."""
    url = f"{page}replays/{quote(replay_id, safe='')}" if page and replay_id else None
    return _linked(text, page, url)


def _linked(text: str, page: str | None, url: str | None) -> str:
    # Rich reads no brackets, those of an IPv6 address, in the address of a link.
    if page is None or url is None or "[" in page:
        return text
    return f"[link={url}]{text}[/link]"


def hyperlink(text: str, url: str) -> str:
    """Return a text that terminals show as a link (OSC 8). Neither may hold control characters."""
    return f"\x1b]8;;{url}\x1b\\{text}\x1b]8;;\x1b\\"


def open_in_browser(url: str) -> bool:
    """Open an address if there is a display; return whether a browser was started.

    Without a display, Python would start a browser in the terminal.
    """
    has_display = (
        sys.platform in ("darwin", "win32")
        or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
        or "WSL_DISTRO_NAME" in os.environ
    )
    try:
        return has_display and webbrowser.open(url)
    except webbrowser.Error:
        return False
