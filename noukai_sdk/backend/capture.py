"""How much of a run is kept, by the flow's capture mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..local.workflow.plan import CaptureMode
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
    out = [event if _is_text(event) else masked(event) for event in events]
    for places in _texts(events):
        chunks = masked_chunks([events[place]["outputData"] for place in places])
        for place, chunk in zip(places, chunks, strict=True):
            out[place] = {**events[place], "outputData": chunk}
    return out


def _texts(events: list[Event]) -> Iterator[list[int]]:
    """Where the pieces of each text stand: steps that run side by side take turns."""
    growing: dict[Any, list[int]] = {}
    for place, event in enumerate(events):
        key = (event.get("stepId"), event.get("loopIndex"))
        if _is_text(event):
            growing.setdefault(key, []).append(place)
        elif key in growing:
            yield growing.pop(key)
    yield from growing.values()


def _is_text(event: Event) -> bool:
    return event["eventType"] == "step_output" and isinstance(event["outputData"], str)
