"""What the apps share beside their routes: SSE frames of events, and whether anything still runs."""

from __future__ import annotations

import json
from typing import Any

from noukai_sdk.session.lost_scope import open_captures

from . import async_routes, sync_routes


def frame(value: Any) -> bytes:
    """Return an event of a flow, or a dict, as a server-sent event."""
    fields = value if isinstance(value, dict) else value.model_dump(mode="json")
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def idle() -> bool:
    """Return whether this request is the only one, and nothing runs on after another."""
    late = async_routes.LATE or sync_routes.LATE.under_way
    return len(open_captures) == 1 and not late
