"""Help for tests: send a captured request through an app, and shuffle the order of flow calls."""

from ..replaying.apps import AppError
from .captured_requests import ReplayedRequest, send_captured_request
from .freezing import FreezeError
from .shuffling import ShuffleDifference, ShuffleReport, shuffle_replay

__all__ = [
    "AppError",
    "FreezeError",
    "ReplayedRequest",
    "ShuffleDifference",
    "ShuffleReport",
    "send_captured_request",
    "shuffle_replay",
]
