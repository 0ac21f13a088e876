"""Rows as the contract's answers: run traces and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from .capture import keeps_snapshots, keeps_steps, kept
from .clock import iso
from .encoding import loaded
from .errors import step_status
from .rows import open_steps, step_row

Row = Mapping[str, Any]
Json = dict[str, Any]


def wire_status(row: Row) -> str:
    """The status as the contract has it: a paused run is one that runs."""
    return "running" if row["status"] == "paused" else str(row["status"])


def all_steps(row: Row, stored: Sequence[Row]) -> list[Row]:
    """The run's steps, with those that it is in the middle of, in the order in which they began."""
    mode = row["capture_mode"]
    unfinished = open_steps(row) if keeps_steps(mode) else []
    steps = [*stored, *(step_row(row["id"], mode, step) for step in unfinished)]
    return sorted(steps, key=itemgetter("number"))


def run_trace(row: Row, steps: Sequence[Row]) -> Json:
    """``GET .../trace``: the latest attempt of each step."""
    latest = {(step["step_id"], step["loop_index"]): step for step in steps}
    return {
        "flowRun": {
            "id": row["id"],
            "flowId": row["flow_id"],
            "status": wire_status(row),
            "triggerType": row["trigger"],
            "startedAt": iso(row["started_at"]),
            "completedAt": iso(row["completed_at"]),
            "durationMs": _duration(row),
            "stepCount": row["block_count"],
        },
        "steps": [step_trace(step) for step in latest.values()],
    }


def _duration(row: Row) -> float | None:
    if row["completed_at"] is None:
        return None
    return float((row["completed_at"] - row["started_at"]) / 1000)


def step_trace(step: Row) -> Json:
    """One attempt of a step, as the traces have it."""
    return {
        **_attempt(step),
        "modelUsed": step["model_used"],
        "tokens": loaded(step["tokens"]),
        "costUsd": step["cost_usd"],
        "inputContext": loaded(step["input"]),
        "outputContext": loaded(step["output"]),
        "errorContext": loaded(step["error"]),
        "inputSizeBytes": step["input_size"],
        "outputSizeBytes": step["output_size"],
        "truncated": step["truncated"],
    }


def _attempt(step: Row) -> Json:
    return {
        "stepId": step["step_id"],
        "attempt": step["attempt"],
        "loopIndex": step["loop_index"],
        "status": step["status"],
        "startedAt": iso(step["started_at"]),
        "completedAt": iso(step["completed_at"]),
        "durationMs": step["duration_ms"],
    }


def session_execution(
    row: Row, steps: Sequence[Row], events: Sequence[Row], *, is_deleted: bool
) -> Json:
    """One run of a session; ``is_deleted``: its flow is there no more."""
    mode = row["capture_mode"]
    view: Json = {
        "executionId": row["id"],
        "flowId": row["flow_id"],
        "slug": None if is_deleted else row["slug"],
        "triggerType": row["trigger"],
        "status": wire_status(row),
        "startedAt": iso(row["started_at"]),
        "completedAt": iso(row["completed_at"]),
        "traceCaptureMode": mode,
        "snapshotsAvailable": keeps_snapshots(mode),
        "errorAtStep": row["error_at_step"],
        "steps": [_snapshot(step) for step in steps],
    }
    return {**view, **_additions(row, events)} if keeps_snapshots(mode) else view


def _snapshot(step: Row) -> Json:
    return {
        **_attempt(step),
        "inputSnapshot": loaded(step["input"]),
        "outputSnapshot": loaded(step["output"]),
        "errorSnapshot": loaded(step["error"]),
        "truncated": step["truncated"],
    }


def _additions(row: Row, events: Sequence[Row]) -> Json:
    """What a plain session of the contract lacks (``models/sessions.py``)."""
    mode = row["capture_mode"]
    error = kept(mode, loaded(row["error"]))
    return {
        "call": {
            "org": row["org"],
            "project": row["project"],
            "slug": row["slug"],
            "version": row["version"],
            "request": loaded(row["request"]),
        },
        "result": kept(mode, loaded(row["result"])),
        "error": {"statusCode": step_status(error.get("code")), **error} if error else None,
        "events": [event for chunk in events for event in loaded(chunk["body"])],
        "toolRounds": loaded(row["tool_rounds"]),
    }
