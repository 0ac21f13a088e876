"""Lists that our backend keeps beside the runs: replay reports, and the sessions themselves.

Extensions of our backend (docs/wire.md, "Sessions"); the hosted service returns 404.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .base import DecimalText, WireModel
from .boundaries import Boundary
from .sessions import ForkParent, Outcome, RecordedError


class SentReplay(WireModel):
    """What only the sender of a replayed request knows: the response beside the captured one.

    Attributes:
        target: Where the request was sent, such as ``http://localhost:8000``.
        edits: What was changed in the captured request, such as ``body``. Never the values.
        live_from: The number of calls that were replayed in a fork, None if it was none.
        what_if: Of a what-if that the page has started: ``live``, ``changes``, ``runs`` (their number) and
            ``app`` (the request went through the app). The runs themselves are ``runs`` in the report.
        session_id: The session that the response names: of a fork, the new one.
        process_id: The process of the service that sends the request, None if another program does.
        result: ``clean``, ``differs``, ``failed``, ``unknown``, ``not replayed``, ``not sent`` or
            ``stopped``; None while it is not known.
        headline: The outcome in one line.
        notes: What else to say.
        differences: Between the captured response and this one, as in ``noukai session replay --json``;
            None if they were not compared.
    """

    target: str
    edits: tuple[str, ...] = ()
    live_from: int | None = None
    what_if: dict[str, Any] | None = None
    session_id: str | None = None
    process_id: str | None = None
    result: str | None = None
    headline: str = ""
    notes: tuple[str, ...] = ()
    differences: tuple[dict[str, Any], ...] | None = None


class StoredReport(WireModel):
    """The report of one replay, by its id.

    Attributes:
        replay_id: The id in ``X-Noukai-Replay-Id``.
        session_id: The session that was replayed.
        state: ``running`` or ``finished``.
        verdict: ``clean``, ``differs`` (drift) or ``failed`` (misses, leftovers, lost or unread
            calls, an error).
        summary: The line of ``X-Noukai-Replay-Report``.
        report: ``ReplayReport.as_dict()``.
        error: The replay's error, ``{"error": code, "message": text}``; None if there is none.
        status: The status of the response, None if none was sent.
        request_line: Such as ``POST /grade``.
        started_at, completed_at: ISO 8601, in UTC.
        sent: What the sender of the request says, None if it said nothing.
    """

    replay_id: str
    session_id: str | None = None
    state: str = "running"
    verdict: str | None = None
    summary: str = ""
    report: dict[str, Any] = Field(default_factory=dict)
    error: dict[str, Any] | None = None
    status: int | None = None
    request_line: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    sent: SentReplay | None = None


class ReplayList(WireModel):
    """The body of ``GET /seq/sessions/{id}/replays``: the newest first."""

    replays: tuple[StoredReport, ...] = ()


class SessionSummary(WireModel):
    """One row of ``GET /seq/sessions``.

    Attributes:
        calls: The number of runs.
        flows: The slugs of the flows, as ``org/project/slug``, each once.
        status: ``failed`` if a run failed, an outcome has an error or the response's status is 500 or
            more; ``running`` if a run is under way; else ``completed``.
        tokens: The sum over all steps, None if no step has any.
        cost_usd: Likewise, as a decimal string.
        request: The request line, such as ``POST /grade``, if the request was captured.
        response_status: The status of the captured response.
        parent: The session that this one was forked from.
        pinned: The session is kept beyond the retention.
        replays: How many reports of replays are stored, and ``last_verdict``, that of the newest:
            ``clean``, ``differs``, ``failed``, or ``running`` until it is finished.
    """

    session_id: str
    started_at: str | None = None
    completed_at: str | None = None
    calls: int = 0
    flows: tuple[str, ...] = ()
    status: str = "completed"
    tokens: int | None = None
    cost_usd: DecimalText | None = None
    request: str | None = None
    response_status: int | None = None
    parent: str | None = None
    pinned: bool = False
    replays: int = 0
    last_verdict: str | None = None


class SessionPage(WireModel):
    """The body of ``GET /seq/sessions``. ``next_cursor`` is None on the last page."""

    sessions: tuple[SessionSummary, ...] = ()
    next_cursor: str | None = None


class CallSummary(WireModel):
    """One row of ``GET /seq/sessions/{id}/calls``: a run without its inputs and outputs.

    Attributes:
        number: The number of the run in the session, from 1.
        steps: The number of steps that have begun; ``block_count`` is that of the flow.
        models: The models that its steps have called.
        tokens, cost_usd: The sums over its steps, None if no step has any.
        input, output: The beginning of the message and of the result, as a line; None if not captured.
    """

    number: int | None = None
    execution_id: str
    flow_id: str | None = None
    org: str | None = None
    project: str | None = None
    slug: str | None = None
    version: int | None = None
    trigger_type: str | None = None
    status: str
    started_at: str | None = None
    completed_at: str | None = None
    trace_capture_mode: str | None = None
    snapshots_available: bool = True
    error_at_step: str | None = None
    error: RecordedError | None = None
    steps: int = 0
    block_count: int | None = None
    models: tuple[str, ...] = ()
    tokens: int | None = None
    cost_usd: DecimalText | None = None
    input: str | None = None
    output: str | None = None


class SessionCalls(WireModel):
    """The body of ``GET /seq/sessions/{id}/calls``: some of the calls, and sums over all of them.

    Attributes:
        pinned: The session is kept beyond the retention.
        counts: The number of runs with each status.
        calls: In the order in which they began.
    """

    session_id: str
    pinned: bool = False
    started_at: str | None = None
    completed_at: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    tokens: int | None = None
    cost_usd: DecimalText | None = None
    calls: tuple[CallSummary, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    parent: ForkParent | None = None
    total_calls: int | None = None
    client_left: bool = False
    boundaries: tuple[Boundary, ...] = ()
    total_boundaries: int | None = None
