"""Convert database rows to responses of the contract: run traces and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from .capture import captured, keeps_snapshots, keeps_steps
from .encoding import from_column, iso, spliced, spliced_list, to_column
from .errors import step_status
from .rows import log_from, step_row
from .run_usage import run_usage, step_usage

Row = Mapping[str, Any]
Json = dict[str, Any]


def all_steps(row: Row, stored: Sequence[Row]) -> list[Row]:
    """Return the run's stored steps and those in progress, in the order in which they began."""
    mode = row["capture_mode"]
    in_progress = log_from(row).open_steps.values() if keeps_steps(mode) else []
    steps = [*stored, *(step_row(row["id"], mode, step) for step in in_progress)]
    return sorted(steps, key=itemgetter("number"))


def run_trace(row: Row, steps: Sequence[Row]) -> Json:
    """Return the response of ``GET .../trace``: the run and the latest attempt of each step."""
    latest = {(step["step_id"], step["loop_index"]): step for step in steps}
    duration = None
    if row["completed_at"] is not None:
        duration = round((row["completed_at"] - row["started_at"]) / 1000)
    return {
        "flowRun": {
            "id": row["id"],
            "flowId": row["flow_id"],
            "status": wire_status(row),
            "triggerType": row["trigger"],
            "startedAt": iso(row["started_at"]),
            "completedAt": iso(row["completed_at"]),
            "durationMs": duration,
            "stepCount": row["block_count"],
            # Additions of ours.
            "version": row["version"],
            "contentHash": row["content_hash"],
            "sessionId": row["session_id"],
            "error": _error(row),
        },
        "steps": [step_trace(step) for step in latest.values()],
    }


def _error(row: Row) -> Json | None:
    # As what it is read from: the poll of a job has it in every capture mode, a session has not.
    if row["error"] is None or not (
        row["trigger"] == "job" or keeps_snapshots(row["capture_mode"])
    ):
        return None
    error: Json = from_column(row["error"])
    return error


def wire_status(row: Row) -> str:
    """Return the status of a run as the contract names it."""
    # The contract has no paused status: a paused run is running.
    return "running" if row["status"] == "paused" else str(row["status"])


def step_trace(step: Row) -> Json:
    """Return one attempt of a step as in a run trace, whose contexts are objects."""
    output = from_column(step["output"])
    if output is not None and not isinstance(output, dict):
        output = {"output": output}
    return {
        **_attempt(step),
        "modelUsed": step["model_used"],
        "tokens": from_column(step["tokens"]),
        "costUsd": step["cost_usd"],
        "inputContext": from_column(step["input"]),
        "outputContext": output,
        "errorContext": from_column(step["error"]),
        "inputSizeBytes": step["input_size"],
        "outputSizeBytes": step["output_size"],
        "truncated": step["truncated"],
    }


def _attempt(step: Row) -> Json:
    """Return the fields that a run trace and a session share."""
    return {
        "stepId": step["step_id"],
        "attempt": step["attempt"],
        "loopIndex": step["loop_index"],
        "status": step["status"],
        "startedAt": iso(step["started_at"]),
        "completedAt": iso(step["completed_at"]),
        # The column holds floats.
        "durationMs": None if step["duration_ms"] is None else round(step["duration_ms"]),
    }


def usage_of(row: Row, steps: Sequence[Row]) -> Json:
    """Return what a stored run took, as the response of ``execute`` has it."""
    taken = [
        step_usage(
            step["step_id"], step["duration_ms"], from_column(step["tokens"]), step["cost_usd"]
        )
        for step in steps
        if step["loop_index"] is None and step["status"] == "completed"
    ]
    return run_usage(row["started_at"], row["completed_at"], taken, mode=row["capture_mode"])


def session_execution(
    row: Row, steps: Sequence[Row], events: Sequence[Row], *, is_deleted: bool
) -> Json:
    """Return one run of a session, for :func:`encode_spliced`: a long session has megabytes of columns.

    ``is_deleted`` means that its flow does not exist any more.
    """
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
        # Additions of ours.
        "version": row["version"],
        "contentHash": row["content_hash"],
        "steps": [
            {
                **_attempt(step),
                "inputSnapshot": spliced(step["input"]),
                "outputSnapshot": spliced(step["output"]),
                "errorSnapshot": spliced(step["error"]),
                "truncated": step["truncated"],
            }
            for step in steps
        ],
    }
    if not keeps_snapshots(mode):
        return view
    # The rest is an extension of the contract's session (models/sessions.py).
    error = captured(mode, from_column(row["error"]))
    view["call"] = {
        "org": row["org"],
        "project": row["project"],
        "slug": row["slug"],
        "version": row["version"],
        "request": spliced(row["request"]),
    }
    result = row["result"]
    # A job's result is stored as it is, for its poll.
    kept = result if mode == "full" else to_column(captured(mode, from_column(result)))
    view["result"] = spliced(kept)
    error = {"statusCode": step_status(error.get("code")), **error} if error else None
    view["error"] = spliced(to_column(error))
    view["events"] = spliced_list(chunk["body"] for chunk in events)
    view["toolRounds"] = spliced(row["tool_rounds"])
    if row["trigger"] == "execute" and row["status"] == "completed":
        view["usage"] = usage_of(row, steps)
    return view


def session_additions(rows: Sequence[Row], boundaries: Sequence[Row] = ()) -> Json:
    """Return what clients stored of a session's calls, as far as there is any, for ``encode_spliced``."""
    outcomes: list[Json] = []
    for row in rows:
        # A key for all organisations may have stored the same row for several.
        outcomes += [outcome for outcome in from_column(row["body"]) if outcome not in outcomes]
    parent = next((from_column(row["parent"]) for row in rows if row["parent"] is not None), None)
    totals = [row["total_calls"] for row in rows if row["total_calls"] is not None]
    total = max(totals, default=None)
    additions: Json = {"outcomes": outcomes, "parent": parent, "totalCalls": total}
    view = {name: spliced(to_column(value)) for name, value in additions.items() if value}
    # A key for all organisations may have stored the same list for several.
    lists = list(dict.fromkeys(row["body"] for row in boundaries))
    if lists:
        view["boundaries"] = spliced_list(lists)
    totals = [row["total"] for row in boundaries if row["total"] is not None]
    if totals:
        view["totalBoundaries"] = sum(totals)
    return view
