"""The HTTP exchange that a session belongs to, as ``PUT /seq/sessions/{id}/exchange`` takes it.

An extension of our backend (docs/wire.md, "Sessions"); the hosted service answers 404.
"""

from __future__ import annotations

import base64
from typing import Literal

from .base import WireModel

Header = tuple[str, str]


class CapturedBody(WireModel):
    """The body of a request or a response, redacted.

    Attributes:
        text: The body as UTF-8 text, or as base64 if ``encoding`` says so.
        size: The number of bytes that the application received or sent.
        truncated: ``text`` holds only the first part: the body was longer than the cap.
        complete: False if the client went away, or the application failed, before the end.
    """

    text: str = ""
    encoding: Literal["utf-8", "base64"] = "utf-8"
    size: int = 0
    truncated: bool = False
    complete: bool = True

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        return base64.b64decode(self.text) if self.encoding == "base64" else self.text.encode()


class CapturedRequest(WireModel):
    """A request as the application received it, redacted.

    Attributes:
        method: The HTTP method, in capitals.
        origin: Scheme and host, such as ``http://127.0.0.1:8000``.
        path: The path as it was sent, percent-encoded, with the root path of a mounted application.
        query: The query string without the question mark.
        headers: Those of the allow-list, in order, with lower-case names.
        redacted: Headers, query fields and body fields were removed or masked; names only.
    """

    method: str
    origin: str
    path: str
    query: str = ""
    headers: tuple[Header, ...] = ()
    body: CapturedBody | None = None
    redacted: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


class CapturedResponse(WireModel):
    """The application's response, redacted. ``status`` is None if it failed before it started one."""

    status: int | None = None
    headers: tuple[Header, ...] = ()
    body: CapturedBody | None = None


class Exchange(WireModel):
    """One request and its response.

    Attributes:
        started_at, completed_at: ISO 8601, with the UTC offset of the application's process.
        client_left: The client went away before the end of the response.
    """

    request: CapturedRequest
    response: CapturedResponse
    started_at: str | None = None
    completed_at: str | None = None
    client_left: bool = False
