"""Decide what is stored of a run, by its flow's capture mode, and mask secrets under ``redacted``."""

from __future__ import annotations

from typing import Any

from ..local.workflow.plan import CaptureMode
from ..masking.values import Masker

_masker = Masker()

Event = dict[str, Any]
"""A stream event in wire form."""


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
    return _masker.value(value) if mode == "redacted" else None


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
        out[index] = _masker.value(event)
        if step in growing:
            texts.append(growing.pop(step))
    for indexes in [*texts, *growing.values()]:
        chunks = _masker.chunks([events[index]["outputData"] for index in indexes])
        for index, chunk in zip(indexes, chunks, strict=True):
            out[index] = {**events[index], "outputData": chunk}
    return out
