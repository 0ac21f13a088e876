"""The gate in front of replay, and what a request's header asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import ReplayInvalidSessionError
from ..protocol.paths import require_session_id

GATE = "NOUKAI_REPLAY_ENABLED"
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True)
class ReplayRequest:
    """What to replay. ``live_from`` N serves the first N calls and lets the rest go live."""

    session_id: str
    live_from: int | None = None


def replay_enabled() -> bool:
    """Whether the gate is open. Read at every request, so that it can be closed at any time."""
    return os.environ.get(GATE, "").strip().lower() in _TRUE


def requested_replay(header: str | None) -> ReplayRequest | None:
    """What the ``X-Noukai-Replay`` header asks for: ``<session id>`` or ``<session id>;live-from=N``.

    Returns:
        None where there is no header, or the gate is closed: then the request is captured.

    Raises:
        ReplayInvalidSessionError: The gate is open and the header cannot be read.
    """
    if header is None or not replay_enabled():
        return None
    session_id, *options = (part.strip() for part in header.split(";"))
    return ReplayRequest(require_session_id(session_id), _live_from(options))


def _live_from(options: list[str]) -> int | None:
    if not options:
        return None
    name, _, number = options[0].partition("=")
    if len(options) > 1 or name != "live-from" or not (number.isascii() and number.isdigit()):
        raise ReplayInvalidSessionError(
            "bad replay header: write '<session id>' or '<session id>;live-from=N'"
        )
    return int(number[:9])
