"""Trace and replay web applications: one module for each framework."""

from __future__ import annotations

from .captured import CaptureRequests
from .responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
)

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_ID",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "CaptureRequests",
]
