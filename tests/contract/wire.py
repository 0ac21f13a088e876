"""The responses and events of docs/wire.md as strict models: exact types, and no fields but those listed.

A field with the default ``ABSENT`` may be left out, but not be null.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

ABSENT: Any = None

Json = dict[str, Any]
Decimal = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$")]
Milliseconds = Annotated[int, Field(ge=0)]


class Wire(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", alias_generator=to_camel, protected_namespaces=()
    )


class Tokens(Wire):
    prompt: int
    completion: int
    total: int


class Failure(Wire):
    code: str
    message: str


class ToolFunction(Wire):
    name: str
    arguments: str


class ToolCall(Wire):
    id: str
    type: Literal["function"]
    function: ToolFunction


# Responses of execute, jobs and errors.


class UsedStep(Wire):
    step_id: str
    duration_ms: Milliseconds
    tokens: Tokens = ABSENT
    cost_usd: Decimal = ABSENT


class Usage(Wire):
    duration_ms: Milliseconds
    tokens: Tokens = ABSENT
    cost_usd: Decimal = ABSENT
    steps: list[UsedStep] = ABSENT


class Completed(Usage):
    """The fields of Usage are additions of ours."""

    status: Literal["completed"]
    result: Any
    flow_id: str
    block_count: int
    execution_id: str


class Paused(Wire):
    status: Literal["tool_calls_required"]
    execution_id: str
    paused_at_step: str
    iterations_used: int
    tool_call_messages: list[Json]
    tool_calls: list[ToolCall]
    accumulated_outputs: Json
    flow_id: str
    block_count: int


class Submitted(Wire):
    execution_id: str
    status: Literal["pending"]
    flow_id: str
    block_count: int


class Poll(Wire):
    execution_id: str
    status: Literal["pending", "running", "completed", "failed"]
    result: Any = ABSENT
    error: Failure = ABSENT


class ErrorDetail(Failure):
    # An addition of ours.
    execution_id: str = Field(ABSENT, alias="executionId")


class ErrorBody(Wire):
    detail: ErrorDetail


# Events.


class Event(Wire):
    run_id: str
    execution_id: str


class RunStarted(Event):
    event_type: Literal["run_started"]
    flow_id: str
    step_count: int


class StepStarted(Event):
    event_type: Literal["step_started"]
    step_id: str
    name: str
    step_index: int


class StepInput(Event):
    event_type: Literal["step_input"]
    step_id: str
    input_data: Json
    # An addition of ours, in loops.
    loop_index: int = ABSENT


class StepOutput(Event):
    event_type: Literal["step_output"]
    step_id: str
    output_data: Any
    # An addition of ours, in loops.
    loop_index: int = ABSENT


class StepCompleted(Event):
    event_type: Literal["step_completed"]
    step_id: str
    name: str
    output: Any
    duration_ms: Milliseconds
    tokens: Tokens = ABSENT
    cost_usd: Decimal = ABSENT
    step_index: int
    # An addition of ours, of steps that a condition skipped.
    skipped: Literal[True] = ABSENT
    # An addition of ours, of steps that a fallback stood in for.
    fallbacks: list[str] = ABSENT


class StepError(Event):
    event_type: Literal["step_error"]
    step_id: str
    name: str
    error: Failure


class StepPaused(Event):
    event_type: Literal["step_paused"]
    step_id: str
    step_index: int


class StepPausedForToolCalls(Event):
    event_type: Literal["step_paused_for_tool_calls"]
    step_id: str
    step_index: int
    iterations_used: int
    tool_call_messages: list[Json]
    tool_calls: list[ToolCall]
    accumulated_outputs: Json


class FlowCompleted(Event):
    event_type: Literal["flow_completed"]
    result: Any


AnyEvent = Annotated[
    RunStarted
    | StepStarted
    | StepInput
    | StepOutput
    | StepCompleted
    | StepError
    | StepPaused
    | StepPausedForToolCalls
    | FlowCompleted,
    Field(discriminator="event_type"),
]

_event: TypeAdapter[Any] = TypeAdapter(AnyEvent)


def parse_stream(stream: str) -> list[Any]:
    """Return the events of a stream, whose frames must be ``event:``, ``data:`` and an empty line."""
    assert stream.endswith("\n\n")
    assert "\r" not in stream
    events = []
    for frame in stream.removesuffix("\n\n").split("\n\n"):
        type_line, data_line = frame.split("\n")
        event = _event.validate_json(data_line.removeprefix("data: "))
        assert type_line == f"event: {event.event_type}"
        events.append(event)
    return events


# Run traces.


class FlowRun(Wire):
    id: str
    flow_id: str
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    trigger_type: Literal["execute", "step", "job"]
    started_at: Time
    completed_at: Time | None
    duration_ms: Milliseconds | None
    step_count: int
    # Additions of ours.
    version: int | None
    content_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    session_id: str | None
    error: Failure | None


class Attempt(Wire):
    """What traces and sessions share."""

    step_id: str
    attempt: Annotated[int, Field(ge=1)]
    loop_index: int | None
    status: Literal["running", "completed", "failed", "skipped"]
    started_at: Time
    completed_at: Time | None
    duration_ms: Milliseconds | None
    truncated: bool


class StepTrace(Attempt):
    model_used: str | None
    tokens: Tokens | None
    cost_usd: Decimal | None
    input_context: Json | None
    output_context: Json | None
    error_context: Failure | None
    input_size_bytes: int | None
    output_size_bytes: int | None


class StepAttempts(Wire):
    step_id: str
    attempts: Annotated[list[StepTrace], Field(min_length=1)]


class RunTrace(Wire):
    flow_run: FlowRun
    steps: list[StepTrace]


# Sessions.


class Snapshot(Attempt):
    input_snapshot: Json | None
    output_snapshot: Any
    error_snapshot: Failure | None


class RecordedCall(Wire):
    org: str
    project: str
    slug: str
    version: int | None
    request: Json


class RecordedError(Failure):
    status_code: int = Field(alias="statusCode")


class ToolResult(Wire):
    model_config = ConfigDict(alias_generator=None)

    role: Literal["tool"]
    tool_call_id: str
    content: str


class ToolRound(Wire):
    paused: Paused
    tool_results: list[ToolResult] | None


class Execution(Wire):
    execution_id: str
    flow_id: str
    slug: str | None
    trigger_type: Literal["execute", "step", "job"]
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    started_at: Time
    completed_at: Time | None
    trace_capture_mode: Literal["full", "redacted", "metadata_only", "off"]
    snapshots_available: bool
    error_at_step: str | None
    # Additions of ours.
    version: int | None
    content_hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    steps: list[Snapshot]
    # Additions of ours, where snapshots are available.
    call: RecordedCall = ABSENT
    result: Any = ABSENT
    error: RecordedError | None = ABSENT
    events: list[AnyEvent] = ABSENT
    tool_rounds: list[ToolRound] = ABSENT
    usage: Usage = ABSENT


class OutcomeCall(Wire):
    org: str | None
    project: str | None
    slug: str | None
    version: int | None
    request: Json


class OutcomeError(Wire):
    status_code: int | None
    code: str | None
    message: str
    type: str | None
    details: Json


class Outcome(Wire):
    kind: Literal["execute", "step", "job"]
    position: int
    calls: int | None
    execution_id: str | None
    call: OutcomeCall
    started_at: str | None
    completed_at: str | None
    abandoned: bool
    completed: bool
    seen: int | None
    chunks: list[tuple[float, int]]
    error: OutcomeError | None


class ServedCall(Wire):
    order: int
    index: int
    execution_id: str | None


class EditedCall(Wire):
    order: int
    execution_id: str | None
    call: OutcomeCall


class ForkParent(Wire):
    session_id: str
    served: list[ServedCall]
    edited: EditedCall = ABSENT
    also_edited: list[EditedCall] = ABSENT


class Boundary(Wire):
    name: str
    position: int
    kind: Literal["generator"] = ABSENT
    arguments: Any = ABSENT
    result: Any = ABSENT
    items: list[Any] = ABSENT
    chunks: list[tuple[float, int]] = ABSENT
    error: dict[str, Any] = ABSENT
    started_at: str = ABSENT
    completed_at: str = ABSENT
    abandoned: Literal[True] = ABSENT
    live: Literal[True] = ABSENT
    site: str = ABSENT
    unavailable: str = ABSENT


class Session(Wire):
    session_id: str
    executions: list[Execution]
    # Additions of ours, where clients have stored them.
    outcomes: list[Outcome] = ABSENT
    parent: ForkParent = ABSENT
    total_calls: int = ABSENT
    client_left: bool = ABSENT
    boundaries: list[Boundary] = ABSENT
    total_boundaries: int = ABSENT


# What noukai dev keeps of sessions besides their runs.


class SessionSummary(Wire):
    session_id: str
    started_at: Time
    completed_at: Time | None
    calls: int
    flows: list[str]
    status: Literal["completed", "failed", "running"]
    tokens: int | None
    cost_usd: Decimal | None
    request: str | None
    response_status: int | None
    parent: str | None
    pinned: bool
    replays: int
    last_verdict: str | None


class SessionPage(Wire):
    sessions: list[SessionSummary]
    next_cursor: str | None


# Flows and their versions.


class FlowVersion(Wire):
    version: int
    content_hash: str
    published_at: Time | None


class PublishedVersion(FlowVersion):
    org: str
    project: str
    slug: str
    is_new: bool


class FlowProblem(Wire):
    file: str
    line: int | None
    field: str | None
    message: str


class FlowSummary(Wire):
    org: str
    project: str
    slug: str
    flow_id: str | None
    description: str | None
    block_count: int | None
    trace_capture_mode: Literal["full", "redacted", "metadata_only", "off"] | None
    content_hash: str | None
    versions: list[FlowVersion]
    problems: list[FlowProblem]


class FlowPage(Wire):
    flows: list[FlowSummary]
    next_cursor: str | None


class FlowStep(Wire):
    id: str
    name: str
    kind: Literal[
        "agent", "function", "condition", "route", "transform", "flow", "repeat", "approval"
    ]
    model: str | None
    needs: list[str]
    unless: list[str]
    when: dict[str, list[str | int | float | bool]]
    branches: list[str | int | float | bool]
    for_each: str | None
    prompt: str | None
    system: str | None
    tools: bool
    functions: list[str]
    code: str | None
    at_most: int | None
    steps: list[FlowStep]


class FlowDescription(FlowSummary):
    parameters: Json
    steps: list[FlowStep]
    takes_step_outputs: bool


# Jobs and workers.


class JobSummary(Wire):
    execution_id: str
    org: str
    project: str
    slug: str
    version: int | None
    session_id: str | None
    status: Literal["pending", "running", "completed", "failed", "cancelled"]
    submitted_at: Time
    completed_at: Time | None
    block_count: int
    steps_done: int | None
    error_at_step: str | None
    error: Failure | None
    worker_id: str | None
    retry_of: str | None
    retried_as: str | None


class InProgress(Wire):
    pending: int
    running: int


class JobPage(Wire):
    jobs: list[JobSummary]
    in_progress: InProgress
    next_cursor: str | None


class Worker(Wire):
    id: str
    role: Literal["dev", "serve", "worker"]
    name: str | None
    started_at: Time
    heartbeat_at: Time
    running_jobs: int


class WorkerList(Wire):
    workers: list[Worker]


class CapturedBody(Wire):
    text: str
    encoding: Literal["utf-8", "base64"]
    size: int
    truncated: bool
    complete: bool


class CapturedRequest(Wire):
    method: str
    origin: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: CapturedBody | None
    redacted: list[str]


class CapturedResponse(Wire):
    status: int | None
    headers: list[tuple[str, str]]
    body: CapturedBody | None


class Exchange(Wire):
    request: CapturedRequest
    response: CapturedResponse
    started_at: str | None
    completed_at: str | None
    client_left: bool


class SentReplay(Wire):
    target: str
    edits: list[str]
    live_from: int | None
    what_if: Json | None
    session_id: str | None
    process_id: str | None
    result: str | None
    headline: str
    notes: list[str]
    differences: list[Json] | None


class StoredReport(Wire):
    replay_id: str
    session_id: str
    state: Literal["running", "finished"]
    verdict: str | None
    summary: str
    report: Json
    error: Json | None
    status: int | None
    request_line: str | None
    started_at: str | None
    completed_at: str | None
    sent: SentReplay | None


class ReplayList(Wire):
    replays: list[StoredReport]
