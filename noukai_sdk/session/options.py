"""What a scope may be asked for, and what is wrong with what it was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from ..client import AsyncNoukai, Noukai
    from ..transport.drivers import AsyncTransport, SyncTransport

Path = str | os.PathLike[str]


class ScopeOptions(TypedDict, total=False):
    """What ``trace_scope``, ``trace_scope_sync`` and ``@trace(...)`` take.

    Attributes:
        replay_session_id: Serve the calls from this recorded session. Needs
            ``NOUKAI_REPLAY_ENABLED``, and ``client`` or ``transport``.
        capture: Tag calls with a new session (default); False leaves them untagged.
        transport: Whose service holds the session: ``client._transport``.
        client: The same, as the client itself.
        strict: Raise where replay is not enabled, instead of capturing with a logged warning; and
            refuse calls from threads that lost the scope, instead of warning.
        record: Write the calls to this cassette file, replacing it.
        cassette: Serve the calls from this cassette file, as ``record_mode`` says.
        record_mode: ``"none"`` (default) serves and never records. ``"once"`` serves if the file is
            there and records it if not. ``"new_episodes"`` serves what is recorded and records what
            is new. ``"all"`` records everything, in place of what the file holds for the same
            calls. ``"rewrite"`` starts the file anew.
        redact: Called with each recording as a dict before it is written; returns what to keep.
            Where a call is compared with a recording, the dict holds what the call sent and no more:
            ``request``, and in ``rounds`` the ``tool_results``.
        redact_paths: JSON paths to blank in what is written, such as ``request.parameters.email``.
        strict_inputs: An input that differs from the recorded one is an error, not drift.
        pacing: ``"recorded"`` keeps the timing of the live calls; ``"instant"`` (default) does not.
        on_miss: ``"live"`` puts a call that has no recording to the service, under a new child
            session; ``"raise"`` (default) raises ReplayMissError.
        live_from: Serve this many calls and let the rest go live, under a new child session.
    """

    replay_session_id: str | None
    capture: bool
    transport: SyncTransport | AsyncTransport | None
    client: Noukai | AsyncNoukai | None
    strict: bool
    record: Path | None
    cassette: Path | None
    record_mode: Literal["none", "once", "new_episodes", "all", "rewrite"]
    redact: Callable[[dict[str, Any]], dict[str, Any]] | None
    redact_paths: Sequence[str]
    strict_inputs: bool
    pacing: Literal["instant", "recorded"]
    on_miss: Literal["raise", "live"]
    live_from: int | None


def check_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options that no scope takes."""
    for name in options:
        if name not in ScopeOptions.__optional_keys__:
            raise TypeError(f"trace_scope() got an unexpected keyword argument {name!r}")
    for name, allowed in _CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise ValueError(f"bad {name} {options[name]!r}: one of {', '.join(allowed)}")
    live_from = options.get("live_from")
    if live_from is not None and (not isinstance(live_from, int) or live_from < 0):
        raise ValueError(f"live_from must be a number of calls from 0, not {live_from!r}")
    _check_origin(options)
    _check_redaction(options)


_CHOICES = {
    "record_mode": ("none", "once", "new_episodes", "all", "rewrite"),
    "pacing": ("instant", "recorded"),
    "on_miss": ("raise", "live"),
}


def _check_origin(options: Mapping[str, Any]) -> None:
    origins = [name for name in ("replay_session_id", "cassette", "record") if options.get(name)]
    if len(origins) > 1:
        raise ValueError(f"{' and '.join(origins)} exclude each other: pass one of them")
    # Taken for "no cassette", these would let calls go live that were meant to be played.
    for name in ("cassette", "record"):
        if options.get(name) == "":
            raise ValueError(f"{name} is empty: give the path of a file, or None for no cassette")
    if "record_mode" in options and "cassette" not in options:
        raise ValueError("record_mode says how a file is used: name the file with cassette=")


def _check_redaction(options: Mapping[str, Any]) -> None:
    hook, paths = options.get("redact"), options.get("redact_paths", ())
    if hook is not None and not callable(hook):
        raise TypeError(f"redact takes a function, not {hook!r}")
    # A text is a sequence of texts too.
    is_list = isinstance(paths, Iterable) and not isinstance(paths, str)
    if not is_list or not all(isinstance(path, str) for path in paths):
        raise TypeError(f"redact_paths takes a list of JSON paths, not {paths!r}")
