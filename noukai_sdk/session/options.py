"""The options of a scope: the keyword arguments of ``trace_scope``, and the replay header."""

from __future__ import annotations

import base64
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..errors import ReplayInvalidSessionError, ReplaySessionNotFoundError
from ..protocol.requests import require_session_id

if TYPE_CHECKING:
    from ..client import AsyncNoukai, Noukai
    from ..transport.drivers import AsyncTransport, SyncTransport
    from ..whatif.changes import WhatIfOptions

GATE = "NOUKAI_REPLAY_ENABLED"
CASSETTES = "NOUKAI_CASSETTES"
NO_CASSETTE = "no_cassette"  # the code of an error that does not come from the service
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})
_FILE = "file"
_SEGMENT = r"[A-Za-z0-9 ._@+=,-]+"
_LONGEST_NAME = 255
_OPTIONS_HELP = (
    "write '<session id>' or 'file:<name>', then any of '; live-from=N', '; on-miss=live', "
    "'; strict', '; pacing=recorded', '; lost=live', '; edit=<base64>', '; live=FLOW', "
    "'; change=<base64>', '; id=<uuid>'"
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EDITABLE = {"message": str, "messages": list, "parameters": dict}

logger = logging.getLogger("noukai_sdk")
_logged: set[str] = set()  # values of the gate that are not understood

Path = str | os.PathLike[str]


class ScopeOptions(TypedDict, total=False):
    """The keyword arguments of ``trace_scope``, ``trace_scope_sync`` and ``@trace(...)``.

    Attributes:
        replay_session_id: Serve the calls from this recorded session. Needs
            ``NOUKAI_REPLAY_ENABLED``, and ``client`` or ``transport``.
        capture: Tag calls with a new session (default). False leaves them untagged.
        transport: The transport of a client, to fetch the session with: ``client._transport``. The
            client's ``log_handler`` receives the scope; without a client, that of its first call does.
        client: The client itself, instead of its transport.
        strict: Raise if replay is not enabled, instead of capturing with a logged warning; and
            refuse lost calls.
        lost: What happens to calls from threads and tasks that lost the scope while this replay runs.
            ``"live"`` (default) sends them to the service, with a warning; ``"refuse"`` (default with
            ``strict``) raises ReplayError. The report lists them.
        record: Write the calls to this cassette file, replacing it.
        cassette: Serve the calls from this cassette file, as ``record_mode`` says.
        record_mode: ``"none"`` (default) serves and never records. ``"once"`` serves the file if it
            exists, and records it if not. ``"new_episodes"`` serves the recorded calls and records
            new ones. ``"all"`` records everything, and replaces the file's recordings of the same
            calls. ``"rewrite"`` starts a new file.
        redact: A function called with each recording as a dict before it is written; returns the
            dict to keep. When a call is compared with a recording, the dict holds only the sent
            parts: ``request``, and in ``rounds`` the ``tool_results``.
        redact_paths: JSON paths to blank in the file, such as ``request.parameters.email``.
        redact_pii: Remove e-mail addresses, phone numbers, payment cards and IBANs from the file.
        strict_inputs: An input that differs from the recorded one is an error, not drift.
        pacing: ``"recorded"`` keeps the timing of the live calls. ``"instant"`` (default) does not:
            overlapping calls complete in recorded order, all others at once.
        on_miss: ``"live"`` sends a call that has no recording to the service, under a new child
            session. ``"raise"`` (default) raises ReplayMissError.
        live_from: Serve this many calls and let the rest go live, under a new child session.
    """

    replay_session_id: str | None
    capture: bool
    transport: SyncTransport | AsyncTransport | None
    client: Noukai | AsyncNoukai | None
    strict: bool
    lost: Literal["refuse", "live"]
    record: Path | None
    cassette: Path | None
    record_mode: Literal["none", "once", "new_episodes", "all", "rewrite"]
    redact: Callable[[dict[str, Any]], dict[str, Any]] | None
    redact_paths: Sequence[str]
    redact_pii: bool
    strict_inputs: bool
    pacing: Literal["instant", "recorded"]
    on_miss: Literal["raise", "live"]
    live_from: int | None


_CHOICES = {
    "record_mode": ("none", "once", "new_episodes", "all", "rewrite"),
    "pacing": ("instant", "recorded"),
    "on_miss": ("raise", "live"),
    "lost": ("live", "refuse"),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options that no scope accepts."""
    for name in options:
        if name not in ScopeOptions.__optional_keys__:
            raise TypeError(f"trace_scope() got an unexpected keyword argument {name!r}")
    for name, allowed in _CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise ValueError(f"bad {name} {options[name]!r}: use one of {', '.join(allowed)}")
    live_from = options.get("live_from")
    if live_from is not None and (not isinstance(live_from, int) or live_from < 0):
        raise ValueError(f"live_from must be a number of calls >= 0, not {live_from!r}")

    sources = [name for name in ("replay_session_id", "cassette", "record") if options.get(name)]
    if len(sources) > 1:
        raise ValueError(f"{' and '.join(sources)} exclude each other: pass one of them")
    # An empty path taken for "no cassette" would send calls live that were meant to be replayed.
    for name in ("cassette", "record"):
        if options.get(name) == "":
            raise ValueError(f"{name} is empty: pass the path of a file, or None for no cassette")
    if "record_mode" in options and "cassette" not in options:
        raise ValueError("record_mode needs cassette=, the file to record to")

    hook, paths = options.get("redact"), options.get("redact_paths", ())
    if hook is not None and not callable(hook):
        raise TypeError(f"redact must be a function, not {hook!r}")
    # A str is a sequence of strings too.
    is_list = isinstance(paths, Iterable) and not isinstance(paths, str)
    if not is_list or not all(isinstance(path, str) for path in paths):
        raise TypeError(f"redact_paths must be a list of JSON paths, not {paths!r}")


def replay_enabled() -> bool:
    """Return whether the environment allows replay. Read at every request, so it can change."""
    value = os.environ.get(GATE, "").strip().lower()
    if value in _TRUE:
        return True
    if value not in _FALSE and value not in _logged:
        _logged.add(value)
        logger.warning(
            "%s=%.50s is not understood, so replay stays off: use 1, true, yes or on", GATE, value
        )
    return False


@dataclass(frozen=True)
class ReplayRequest:
    """The replay that a request's header asks for. See :class:`ScopeOptions` for the options.

    Attributes:
        session_id: The session to replay, or ``file:<name>``.
        live_from: Serve this many calls and let the rest go live; None serves all.
        lost: What happens to calls that lost the scope.
        on_miss: What happens to calls that have no recording.
        pacing: Whether the timing of the live calls is kept.
        strict_inputs: An input that differs from the recorded one is a miss.
        edit: Fields of the first live call's request, instead of those of the application.
        what_if: Calls that go live with a change, while the others are served.
        replay_id: The id that the replay gets; None for a new one.
    """

    session_id: str
    live_from: int | None = None
    lost: Literal["refuse", "live"] = "refuse"
    on_miss: Literal["raise", "live"] = "raise"
    pacing: Literal["instant", "recorded"] = "instant"
    strict_inputs: bool = False
    edit: Mapping[str, Any] | None = None
    what_if: WhatIfOptions | None = None
    replay_id: str | None = None

    @property
    def file(self) -> str | None:
        """The name of the cassette file to replay, None for a session of the service."""
        prefix, _, name = self.session_id.partition(":")
        return name if prefix == _FILE else None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the scope, by the names of :class:`ScopeOptions`."""
        return {name: value for name, value in vars(self).items() if name != "session_id"}


def requested_replay(header: str | None) -> ReplayRequest | None:
    """Parse the ``X-Noukai-Replay`` header: a session id or ``file:<name>``, then options.

    The options are ``live-from=N``, ``on-miss=live``, ``strict``, ``pacing=recorded``, ``lost=live``,
    ``edit=<base64>``, ``live=<flow, call or step>``, which may be there several times, with
    ``change=<base64>``, and ``id=<uuid>``, in any order, each after a semicolon.

    Returns:
        None if there is no header or replay is not enabled: then the request is captured.

    Raises:
        ReplayInvalidSessionError: Replay is enabled and the header is malformed.
    """
    if header is None or not replay_enabled():
        return None
    session_id, *parts = (part.strip() for part in header.split(";"))
    if session_id.startswith(f"{_FILE}:"):
        _require_file_name(session_id.removeprefix(f"{_FILE}:"))
    else:
        session_id = require_session_id(session_id)
    options: dict[str, Any] = {}
    live: list[str] = []
    change: str | None = None
    for part in parts:
        name, equals, given = (word.strip() for word in part.partition("="))
        name, value = name.lower(), given.lower()
        field = name.replace("-", "_")
        chosen: Any = value
        if name == "strict" and not equals:
            field, chosen = "strict_inputs", True
        elif name == "live-from" and value.isascii() and value.isdigit():
            chosen = int(value[:9])
        elif name == "edit":
            chosen = _edited_input(given)
        elif name == "live" and given:
            live.append(given)
            continue
        elif name == "change" and given and change is None:
            change = given
            continue
        elif name == "id" and _UUID.fullmatch(value):
            field = "replay_id"
        elif name not in ("on-miss", "pacing", "lost") or value not in _CHOICES[field]:
            raise ReplayInvalidSessionError(f"bad option {part[:50]!r}: {_OPTIONS_HELP}")
        if field in options:
            raise ReplayInvalidSessionError(f"option {name!r} is given twice: {_OPTIONS_HELP}")
        options[field] = chosen
    if "edit" in options and "live_from" not in options:
        raise ReplayInvalidSessionError("edit= changes the first live call: it needs live-from=N")
    if live or change is not None:
        options["what_if"] = _what_if(live, change, options)
    return ReplayRequest(session_id, **options)


def _what_if(live: list[str], change: str | None, options: Mapping[str, Any]) -> WhatIfOptions:
    """Return the what-if of the options ``live`` and ``change``."""
    from ..whatif.changes import read_header

    if "live_from" in options:
        raise ReplayInvalidSessionError("live= and live-from= exclude each other")
    try:
        return read_header(live, change)
    except ValueError as error:
        raise ReplayInvalidSessionError(f"bad what-if: {error}") from error


def _edited_input(encoded: str) -> dict[str, Any]:
    """Return the fields in the option ``edit``: a JSON object in URL-safe base64."""
    try:
        # Python ignores characters outside of the alphabet.
        padding = "=" * (-len(encoded) % 4)
        fields = json.loads(base64.b64decode(encoded + padding, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not fields:
        raise ReplayInvalidSessionError("edit= must be a JSON object in URL-safe base64")
    for name, value in fields.items():
        if not isinstance(value, _EDITABLE.get(name, ())):
            raise ReplayInvalidSessionError(
                "edit= may have a message (a text), messages (a list) and parameters (an object)"
            )
    return fields


def encode_edit(fields: Mapping[str, Any]) -> str:
    """Return the value of the option ``edit``.

    Example:
        >>> encode_edit({"message": "The cat."})
        'eyJtZXNzYWdlIjogIlRoZSBjYXQuIn0'
    """
    try:
        data = json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # halves of characters
        data = json.dumps(fields).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _require_file_name(name: str) -> None:
    segments = name.split("/")
    if len(name) > _LONGEST_NAME or not all(
        re.fullmatch(_SEGMENT, segment) and segment.strip(". ") for segment in segments
    ):
        raise ReplayInvalidSessionError(
            f"bad file name {name[:50]!r}: write the name of a cassette in the folder of {CASSETTES}"
        )


def find_cassette(name: str) -> str:
    """Return the path of the cassette file ``name`` in the folder of ``NOUKAI_CASSETTES``.

    Raises:
        ReplayInvalidSessionError: The folder is not set.
        ReplaySessionNotFoundError: The folder has no such file.
    """
    folder = os.environ.get(CASSETTES, "")
    if not folder:
        raise ReplayInvalidSessionError(
            f"no folder of cassettes: set {CASSETTES} where the application runs"
        )
    root = pathlib.Path(folder).resolve()
    for candidate in (name, f"{name}.jsonl"):
        path = (root / candidate).resolve()  # a link may point out of the folder
        if path.is_relative_to(root) and path.is_file():
            return str(path)
    message = f"there is no cassette {name!r} in the folder of {CASSETTES}"
    raise ReplaySessionNotFoundError(message, code=NO_CASSETTE)
