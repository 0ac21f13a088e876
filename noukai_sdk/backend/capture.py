"""How much of a run is kept, by the flow's capture mode."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ..local.flow import CaptureMode
from .redaction import masked, masked_chunks

Event = dict[str, Any]


def keeps_snapshots(mode: CaptureMode | str) -> bool:
    """Whether inputs and outputs are stored at all."""
    return mode in ("full", "redacted")


def keeps_steps(mode: CaptureMode | str) -> bool:
    """Whether the steps are stored, be it without what they took and gave."""
    return mode != "off"


def kept(mode: CaptureMode | str, value: Any) -> Any:
    """``value`` as it may be stored: as it is, masked, or None."""
    if mode == "full":
        return value
    return masked(value) if mode == "redacted" else None


def kept_events(mode: CaptureMode | str, events: list[Event]) -> list[Event]:
    """The events as they may be stored. Chunks of one output belong into one call."""
    if mode != "redacted":
        return events if mode == "full" else []
    out: list[Event] = []
    for is_text, group in groupby(events, key=_is_text):
        some = list(group)
        out += _masked_texts(some) if is_text else masked(some)
    return out


def _is_text(event: Event) -> bool:
    return event["eventType"] == "step_output" and isinstance(event["outputData"], str)


def _masked_texts(events: list[Event]) -> list[Event]:
    chunks = masked_chunks([event["outputData"] for event in events])
    return [{**event, "outputData": chunk} for event, chunk in zip(events, chunks, strict=True)]
