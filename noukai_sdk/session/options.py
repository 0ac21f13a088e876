"""The options of a scope: the keyword arguments of ``trace_scope``, and the replay header."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..errors import ReplayInvalidSessionError
from ..protocol.requests import require_session_id

if TYPE_CHECKING:
    from ..client import AsyncNoukai, Noukai
    from ..transport.drivers import AsyncTransport, SyncTransport

GATE = "NOUKAI_REPLAY_ENABLED"
_TRUE = frozenset({"1", "true", "yes", "on"})

Path = str | os.PathLike[str]


class ScopeOptions(TypedDict, total=False):
    """The keyword arguments of ``trace_scope``, ``trace_scope_sync`` and ``@trace(...)``.

    Attributes:
        replay_session_id: Serve the calls from this recorded session. Needs
            ``NOUKAI_REPLAY_ENABLED``, and ``client`` or ``transport``.
        capture: Tag calls with a new session (default). False leaves them untagged.
        transport: The transport of a client, to fetch the session with: ``client._transport``. The
            client's ``log_handler`` hears of the scope; without a client, that of its first call does.
        client: The same, as the client itself.
        strict: Raise if replay is not enabled, instead of capturing with a logged warning; and
            refuse lost calls.
        lost: What happens to calls from threads and tasks that lost the scope while this replay runs.
            ``"live"`` (default) sends them to the service, with a warning; ``"refuse"`` (default with
            ``strict``) raises ReplayError. The report lists them.
        record: Write the calls to this cassette file, replacing it.
        cassette: Serve the calls from this cassette file, as ``record_mode`` says.
        record_mode: ``"none"`` (default) serves and never records. ``"once"`` serves the file if it
            exists, and records it if not. ``"new_episodes"`` serves the recorded calls and records
            new ones. ``"all"`` records everything, in place of the file's recordings of the same
            calls. ``"rewrite"`` starts the file anew.
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
    return os.environ.get(GATE, "").strip().lower() in _TRUE


@dataclass(frozen=True)
class ReplayRequest:
    """The replay that a request's header asks for.

    Attributes:
        session_id: The session to replay.
        live_from: Serve this many calls and let the rest go live; None serves all.
        lost: What happens to calls that lost the scope, as in :class:`ScopeOptions`.
    """

    session_id: str
    live_from: int | None = None
    lost: Literal["refuse", "live"] = "refuse"


def requested_replay(header: str | None) -> ReplayRequest | None:
    """Parse the ``X-Noukai-Replay`` header: ``<session id>`` or ``<session id>;live-from=N``.

    Returns:
        None if there is no header or replay is not enabled: then the request is captured.

    Raises:
        ReplayInvalidSessionError: Replay is enabled and the header is malformed.
    """
    if header is None or not replay_enabled():
        return None
    session_id, *options = (part.strip() for part in header.split(";"))
    session_id = require_session_id(session_id)
    if not options:
        return ReplayRequest(session_id)
    name, _, number = options[0].partition("=")
    if len(options) > 1 or name != "live-from" or not (number.isascii() and number.isdigit()):
        raise ReplayInvalidSessionError(
            "bad replay header: write '<session id>' or '<session id>;live-from=N'"
        )
    return ReplayRequest(session_id, int(number[:9]))
