"""The request that replays a session in an app: the captured one, with what the user changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.responses import HEADER_REPLAY
from ..errors import CapturedRequestError
from ..models.exchanges import Exchange, Header
from ..replay.resending import sent_again
from ..session.options import encode_edit
from ..whatif.changes import WhatIfOptions

_NOT_SENT_AGAIN = frozenset({HEADER_REPLAY.lower(), "accept-encoding"})


@dataclass(frozen=True)
class RequestEdits:
    """What the user says about the request; None leaves it as it was captured.

    Attributes:
        url: The whole address, instead of the captured one.
        server: Without ``url``, the server to send the request to: ``scheme://host[:port][/prefix]``.
        content: The body.
        file: The file that holds the body.
    """

    url: str | None = None
    server: str | None = None
    method: str | None = None
    content: bytes | None = None
    file: str | None = None
    headers: Sequence[Header] = ()

    @property
    def has_body(self) -> bool:
        """Whether a body is given."""
        return self.content is not None or self.file is not None

    @property
    def is_complete(self) -> bool:
        """Whether the captured request is not needed."""
        return self.url is not None and (self.method is not None or self.has_body)


@dataclass(frozen=True)
class AppRequest:
    """A request to an app.

    Attributes:
        headers: All headers, that for the replay included.
        content: The body, None without one or if it is in ``file``.
        file: The file that holds the body.
        masked: What was removed at capture and is not given by the user either.
    """

    method: str
    url: str
    headers: tuple[Header, ...]
    content: bytes | None = None
    file: str | None = None
    masked: tuple[str, ...] = ()

    @property
    def has_body(self) -> bool:
        """Whether the request has a body."""
        return self.content is not None or self.file is not None

    def body(self) -> bytes | None:
        """Return the body.

        Raises:
            OSError: The file cannot be read.
        """
        return self.content if self.file is None else Path(self.file).read_bytes()


def replay_header(
    session_id: str,
    *,
    live_from: int | None = None,
    on_miss: str | None = None,
    strict: bool = False,
    pacing: str | None = None,
    lost: str | None = None,
    edit: Mapping[str, Any] | None = None,
    what_if: WhatIfOptions | None = None,
    replay_id: str | None = None,
) -> Header:
    """Return the header that asks an app to replay a session.

    Example:
        >>> replay_header("s-1", live_from=2, strict=True)
        ('X-Noukai-Replay', 's-1; live-from=2; strict')
    """
    options = {
        "live-from": live_from,
        "on-miss": on_miss,
        "pacing": pacing,
        "lost": lost,
        "edit": None if edit is None else encode_edit(edit),
        "id": replay_id,
    }
    parts = [
        session_id,
        *(f"{name}={value}" for name, value in options.items() if value is not None),
        *(f"{name}={value}" for name, value in (what_if.header_options() if what_if else ())),
    ]
    return HEADER_REPLAY, "; ".join([*parts, "strict"] if strict else parts)


def build_request(edits: RequestEdits, replay: Header, exchange: Exchange | None) -> AppRequest:
    """Return the captured request with the user's edits.

    Raises:
        CapturedRequestError: Only a part of the body was captured, and no other is given.
    """
    given = tuple(each for each in edits.headers if each[0].lower() != HEADER_REPLAY.lower())
    if exchange is None or edits.is_complete:
        if edits.url is None:
            raise AssertionError("neither a captured request nor a URL")
        if edits.has_body and not has_header(given, "content-type"):
            given = (("Content-Type", "application/json"), *given)
        method = edits.method or ("POST" if edits.has_body else "GET")
        return AppRequest(method, edits.url, (replay, *given), edits.content, edits.file)

    refuse_websocket(exchange)
    if edits.has_body:
        captured = exchange.request.model_copy(update={"body": None})
        exchange = exchange.model_copy(update={"request": captured})
    again = sent_again(exchange)
    overridden = {name.lower() for name, _ in given} | _NOT_SENT_AGAIN
    kept = tuple(each for each in again.headers if each[0].lower() not in overridden)
    if edits.has_body and not has_header((*kept, *given), "content-type"):
        kept = (("Content-Type", "application/json"), *kept)
    server = (edits.server or again.origin).rstrip("/")
    return AppRequest(
        edits.method or again.method,
        edits.url or server + _absolute(again.target),
        (replay, *kept, *given),
        edits.content if edits.has_body else again.content,
        edits.file,
        tuple(each for each in again.masked if not _is_given(each, overridden, edits)),
    )


def refuse_websocket(exchange: Exchange) -> None:
    """Raise CapturedRequestError for the handshake of a websocket."""
    if exchange.request.origin.startswith(("ws:", "wss:")) or exchange.response.status == 101:
        raise CapturedRequestError(
            f"{exchange.request.path} is a websocket, and its messages were not captured: connect with a "
            f"client of your own, and the header {HEADER_REPLAY}"
        )


def _absolute(target: str) -> str:
    # Without the slash, a captured path could become a part of the host's name.
    return target if target.startswith("/") else f"/{target}"


def _is_given(masked: str, overridden: set[str], edits: RequestEdits) -> bool:
    """Return whether the user gives what was masked, such as ``header authorization``."""
    kind, _, name = masked.partition(" ")
    return (kind == "body" and edits.has_body) or (kind == "header" and name in overridden)


def has_header(headers: Sequence[Header], name: str) -> bool:
    """Return whether there is a header of this name, which is in lower case."""
    return any(each.lower() == name for each, _ in headers)
