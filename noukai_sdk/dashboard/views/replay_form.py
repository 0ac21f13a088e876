"""The form that sends a captured request again: what it shows, and what the visitor changes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import CapturedRequestError
from ...models.exchanges import CapturedRequest, Exchange, Header
from ...replaying.app_request import refuse_websocket
from .texts import visible

# A longer body is sent as it was captured; a browser would be slow to edit it.
_LONGEST_EDITED = 500_000
# A header can take 8,190 bytes in gunicorn, and base64 makes four of three.
_LONGEST_EDIT = 5_500
_LONGEST_INPUT = 20_000
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")
_TARGET = re.compile(r"/[!-\"$-~]*\Z")
# They belong to the connection, or to the replay.
_OWN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te"}
)
_INPUTS: dict[str, type] = {"message": str, "messages": list, "parameters": dict}
HEADER_FIELD = "header:"


class FormError(Exception):
    """The form cannot be sent as it is. The message is for the visitor."""


@dataclass(frozen=True)
class ForkPoint:
    """The first call that goes live.

    Attributes:
        number: The number of the call on the page of the session, from 1.
        served: How many calls are replayed before it: also those that the page does not count, which were
            refused, or served from the session that this one was forked from.
        flow: Its flow, empty if it is not known.
        total: The number of recorded calls.
        inputs: The parts of its input that can be changed: name, and the text as it was recorded.
    """

    number: int
    served: int
    flow: str = ""
    total: int = 0
    inputs: tuple[tuple[str, str], ...] = ()


def fork_inputs(request: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the parts of a call's input that a fork can change, as texts; all but the message are JSON."""
    found = []
    for name, kind in _INPUTS.items():
        value = request.get(name)
        if isinstance(value, str) and kind is str:
            found.append((name, value))
        elif isinstance(value, kind):
            found.append((name, json.dumps(value, ensure_ascii=False, indent=2)))
    # What is longer could not be sent either.
    return tuple((name, text) for name, text in found if len(text) <= _LONGEST_INPUT)


@dataclass
class ReplayForm:
    """The form of a session.

    Attributes:
        why_not: Why the request cannot be sent at all; empty if it can.
        masked_headers: Headers that were removed at capture. Their values are never shown again.
        masked_parts: What else was masked, such as ``body $.password``.
        body: The body as text, None if it cannot be edited here.
        body_note: What to know of the body.
        values: What the visitor has entered, if the form is shown again; without the values of headers.
        error: Why it is shown again.
    """

    session_id: str
    why_not: str = ""
    line: str = ""
    target: str = ""
    path: str = ""
    masked_headers: tuple[str, ...] = ()
    masked_parts: tuple[str, ...] = ()
    body: str | None = None
    body_note: str = ""
    fork: ForkPoint | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def longest_edit(self) -> int:
        """Return how many characters a changed input of a call can have, about."""
        return _LONGEST_EDIT // 500 * 500

    @property
    def is_fork(self) -> bool:
        """Return whether the fork is chosen."""
        return "fork" in self.values if self.values else self.fork is not None

    def value(self, name: str, default: str | None = "") -> str:
        """Return what a field shows."""
        return self.values.get(name, default or "")


@dataclass(frozen=True)
class Sending:
    """What the visitor wants to be sent.

    Attributes:
        target: The server.
        path: Path and query.
        headers: Headers to add or to replace.
        content: The body, None for the captured one.
        options: Those of the replay header, as for ``replay_header``.
        edits: What was changed, in words; no values.
    """

    target: str
    path: str
    headers: tuple[Header, ...]
    content: bytes | None
    options: Mapping[str, Any]
    edits: tuple[str, ...]


def replay_form(
    session_id: str, exchange: Exchange | None, fork: ForkPoint | None = None
) -> ReplayForm:
    """Return the form for a session."""
    if exchange is None:
        return ReplayForm(
            session_id,
            "The request of this session was not captured: set capture_requests=True on the adapter.",
        )
    request = exchange.request
    form = ReplayForm(session_id, line=f"{request.method} {request.target}", fork=fork)
    try:
        refuse_websocket(exchange)
    except CapturedRequestError as error:
        form.why_not = f"{error.message}."
        return form
    form.target, form.path = request.origin, request.target
    parts = [each.partition(" ") for each in request.redacted]
    form.masked_headers = tuple(name for kind, _, name in parts if kind == "header")
    form.masked_parts = tuple(f"{kind} {name}" for kind, _, name in parts if kind != "header")
    form.body, form.body_note = _editable_body(request)
    return form


def _editable_body(request: CapturedRequest) -> tuple[str | None, str]:
    body = request.body
    if body is None or not (body.size or body.text):
        return "", "The request has no body."
    if body.truncated or not body.complete:
        return "", "Only a part of the body was captured: enter it whole."
    if body.encoding == "base64":
        return None, "The body is not text: it is sent as it was captured."
    if len(body.text) > _LONGEST_EDITED or visible(body.text) != body.text.replace("\r\n", "\n"):
        return None, "The body is too long to be edited here: it is sent as it was captured."
    return body.text, ""


def read_form(form: Mapping[str, str], exchange: Exchange) -> Sending:
    """Return what the visitor wants to be sent. A field that is missing leaves all as it was captured.

    Raises:
        FormError: A field is not valid.
    """
    request = exchange.request
    edits: list[str] = []
    path = form.get("path", request.target).strip()
    if path != request.target:
        edits.append("path")
        if not _TARGET.match(path):
            raise FormError("The path must begin with '/', and be percent-encoded.")
    headers: list[Header] = []
    for name, value in form.items():
        if name.startswith(HEADER_FIELD) and value:
            headers.append(header_of(name.removeprefix(HEADER_FIELD), value))
    for line in form.get("headers", "").splitlines():
        if line.strip():
            name, colon, value = line.partition(":")
            if not colon:
                raise FormError("Write each header as 'Name: value'.")
            headers.append(header_of(name.strip(), value.strip()))
    edits += [f"header {name.lower()}" for name, _ in headers]
    content = None
    body, _ = _editable_body(request)
    if body is not None and "body" in form:
        # Browsers send the lines of a form with a carriage return.
        entered = form["body"].replace("\r\n", "\n")
        if entered != body.replace("\r\n", "\n"):
            content = entered.encode()
            edits.append("body")
    options, changed = _options(form)
    return Sending(
        form.get("target", request.origin).strip() or request.origin,
        path,
        tuple(headers),
        content,
        options,
        tuple(edits + changed),
    )


def header_of(name: str, value: str) -> Header:
    """Return a header that the visitor has entered.

    Raises:
        FormError: It is not valid, or not to be set here.
    """
    is_ours = name.lower() in _OWN_HEADERS or name.lower().startswith("x-noukai-")
    if not _HEADER_NAME.match(name) or is_ours:
        raise FormError(f"The header {name[:100]!r} cannot be set here.")
    if not value.isprintable():
        raise FormError(f"The value of the header {name} has control characters.")
    return name, value


def _options(form: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    options: dict[str, Any] = {}
    changed: list[str] = []
    if form.get("strict"):
        options["strict"] = True
    if form.get("pacing") == "recorded":
        options["pacing"] = "recorded"
    if form.get("on_miss") == "live":
        options["on_miss"] = "live"
    if "fork" not in form:
        return options, changed
    number = form.get("from_call", "").strip()
    if not re.fullmatch("[1-9][0-9]{0,5}", number):
        raise FormError("Enter the number of the first call that goes live, from 1.")
    options["live_from"] = int(number) - 1
    edit = {}
    for name, kind in _INPUTS.items():
        if name not in form:
            continue
        value, recorded = (_input(name, form.get(each, "")) for each in (name, f"recorded_{name}"))
        if not isinstance(value, kind):
            raise FormError(f"The {name} of the call must be JSON of the same kind as it was.")
        if value != recorded:
            edit[name] = value
    if edit:
        if len(json.dumps(edit, ensure_ascii=False).encode()) > _LONGEST_EDIT:
            raise FormError(
                "The input is too long: it goes to the app in a header, which has room for about "
                f"{_LONGEST_EDIT:,} characters. Change the body of the request instead."
            )
        options["edit"] = edit
        changed += [f"{name} of call {number}" for name in edit]
    return options, changed


def _input(name: str, text: str) -> Any:
    """Return the value of a field; None if it should be JSON and is not."""
    if name == "message":
        return text.replace("\r\n", "\n")
    try:
        value = json.loads(text)
        # NaN and halves of characters, which are no JSON that can be sent.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return value
