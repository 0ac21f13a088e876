"""Decide what is stored of a run, by its flow's capture mode, and mask secrets under ``redacted``.

Masking has two rules. Any text under a name of a secret (``api_key``, ``password``, ``token``, ...) is
replaced, and so is everything within other texts that looks like a secret (``Bearer ...``, ``nk_...``,
``password: ...``). Numbers stay: token counts are not secrets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..local.workflow.plan import CaptureMode

MASK = "***"

Event = dict[str, Any]
"""A stream event in wire form."""

_WORDS = (
    r"(?:api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|secret|token|password|passwd|passphrase"
    r"|authorization|credential|cookie)s?"
)
_SECRET_NAME = re.compile(_WORDS, re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"""
      \bBearer\s+(?P<bearer>[^\s"'\\,;]+)
    | \b(?P<key>(?:nk|sk|pk|rk|ghp|gho|ghs|github_pat|xox[abprs])[-_][A-Za-z0-9_-]{6,})
    | \b(?P<aws>AKIA[0-9A-Z]{16})\b
    | (?<![\w-])(?P<jwt>eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)
    | ://[^\s/:@]+:(?P<url>[^\s/@]+)@
    | """
    + _WORDS
    + r"""[\w-]{0,32}\\{0,8}["']?\s{0,8}[:=]\s{0,8}\\{0,8}["']?
      (?:(?:Basic|Bearer)\s+)?(?P<named>[^\s"'\\,;}&]+)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def keeps_snapshots(mode: CaptureMode | str) -> bool:
    """Return True if inputs and outputs are stored."""
    return mode in ("full", "redacted")


def keeps_steps(mode: CaptureMode | str) -> bool:
    """Return True if steps are stored, with or without their inputs and outputs."""
    return mode != "off"


def captured(mode: CaptureMode | str, value: Any) -> Any:
    """Return ``value`` as it may be stored: unchanged, masked, or None."""
    if mode == "full":
        return value
    return masked(value) if mode == "redacted" else None


def captured_events(mode: CaptureMode | str, events: list[Event]) -> list[Event]:
    """Return the events as they may be stored.

    Pass all chunks of one output in one call: a secret may be split between two of them.
    """
    if mode == "full":
        return events
    if mode != "redacted":
        return []
    out = list(events)
    # The chunks of each output that is still growing: parallel steps take turns.
    growing: dict[Any, list[int]] = {}
    texts: list[list[int]] = []
    for index, event in enumerate(events):
        step = (event.get("stepId"), event.get("loopIndex"))
        if event["eventType"] == "step_output" and isinstance(event["outputData"], str):
            growing.setdefault(step, []).append(index)
            continue
        out[index] = masked(event)
        if step in growing:
            texts.append(growing.pop(step))
    for indexes in [*texts, *growing.values()]:
        chunks = masked_chunks([events[index]["outputData"] for index in indexes])
        for index, chunk in zip(indexes, chunks, strict=True):
            out[index] = {**events[index], "outputData": chunk}
    return out


def masked(value: Any) -> Any:
    """Return a copy of ``value`` with every secret replaced by ``***``.

    Example:
        >>> masked({"token": "abc", "note": "password: hunter2", "max_tokens": 5})
        {'token': '***', 'note': 'password: ***', 'max_tokens': 5}
    """
    if isinstance(value, str):
        return masked_chunks([value])[0]
    if isinstance(value, dict):
        return {
            name: _blank(item) if _SECRET_NAME.search(name) else masked(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [masked(item) for item in value]
    return value


def _blank(value: Any) -> Any:
    """Replace every text in ``value``."""
    if isinstance(value, str):
        return MASK
    if isinstance(value, dict):
        return {name: _blank(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_blank(item) for item in value]
    return value


def masked_chunks(chunks: Sequence[str]) -> list[str]:
    """Mask the chunks of one text as a whole: a secret may be split anywhere.

    Each mask stands in the chunk in which its secret starts.

    Example:
        >>> masked_chunks(["Bearer a", "bc, then"])
        ['Bearer ***', ', then']
    """
    spans = [match.span(str(match.lastgroup)) for match in _SECRET_TEXT.finditer("".join(chunks))]
    if not spans:
        return list(chunks)
    out = []
    start = 0
    for chunk in chunks:
        end = start + len(chunk)
        text = ""
        position = start
        for first, last in spans:
            if last <= position or first >= end:
                continue
            text += chunk[position - start : max(first - start, 0)]
            text += MASK if first >= start else ""
            position = min(last, end)
        out.append(text + chunk[position - start :])
        start = end
    return out
