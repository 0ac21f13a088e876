"""Characters by which a recorded text could control a terminal, or show other text than it holds."""

from __future__ import annotations

import re

_DIRECTIONS = "\u202a-\u202e\u2066-\u2069"
CONTROLS = re.compile(rf"[\x00-\x1f\x7f-\x9f{_DIRECTIONS}]")
CONTROLS_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_DIRECTIONS}]")


def clean_lines(text: str) -> str:
    """Return a text of several lines that cannot control the terminal."""
    return CONTROLS_IN_LINES.sub(" ", text)
