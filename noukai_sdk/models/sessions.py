"""A recorded session, as ``GET /seq/sessions/{id}`` returns it (docs/wire.md, "Sessions").

The hosted service sends the plain fields. Our local backend adds ``call``, ``result``, ``error``,
``events`` and ``tool_rounds`` to each execution, so that a replay of a local session is faithful to
the last event; a client works without them.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

# pydantic reads those of typing only since Python 3.12.
from typing_extensions import Required, TypedDict

from .base import WireModel
from .boundaries import Boundary


class RecordedCall(WireModel):
    """The request of a call: its flow, and the body of the fresh call as it went over the wire."""

    org: str | None = None
    project: str | None = None
    slug: str | None = None
    version: int | None = None
    request: dict[str, Any] = Field(default_factory=dict)


class RecordedError(WireModel):
    """The error of a failed call.

    A service sends status, code and message. A recorder keeps the whole exception: the name of its class
    in ``type`` and its attributes in ``details``.
    """

    status_code: int | None = None
    code: str | None = None
    message: str = ""
    type: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class ToolRound(WireModel):
    """One pause for tools: the pause as it went over the wire, and the results that were sent back."""

    paused: dict[str, Any]
    tool_results: list[dict[str, Any]] | None = None


class StepSnapshot(TypedDict, total=False):
    """The input and output of one attempt of one step, with the names of the wire."""

    stepId: Required[str]
    attempt: int
    loopIndex: int | None
    status: str
    startedAt: str | None
    completedAt: str | None
    durationMs: int | float | None
    inputSnapshot: Any
    outputSnapshot: Any
    errorSnapshot: Any
    truncated: bool
    # Additions of our local backend to a single call (docs/wire.md, "Calls"):
    modelUsed: str | None
    tokens: dict[str, int] | None
    costUsd: str | None


class SessionExecution(TypedDict, total=False):
    """One call of the session, with the names of the wire. Without ``slug``, the flow was deleted since.

    A session has thousands of them. They are read once, so pydantic only checks them and builds no models.
    """

    executionId: Required[str]
    flowId: str | None
    slug: str | None
    triggerType: str | None
    status: Required[str]
    startedAt: str | None
    completedAt: str | None
    traceCaptureMode: str | None
    snapshotsAvailable: bool
    errorAtStep: str | None
    steps: list[StepSnapshot]
    # Additions of our local backend:
    call: RecordedCall | None
    result: Any
    error: RecordedError | None
    events: list[dict[str, Any]] | None
    toolRounds: list[ToolRound] | None
    usage: dict[str, Any] | None


class Outcome(WireModel):
    """How a call ended for its caller, where the service cannot know it.

    Either the call was refused before a run began (``error``, no ``execution_id``), or it failed on the
    way (``error``), or its caller gave it up (``abandoned``), or it ended well and only its times are told,
    because it overlapped others (``completed``). With neither, the reader of a stream left between two
    events.

    Attributes:
        kind: ``execute``, ``step`` or ``job``.
        position: The number of the call among the calls of this kind to this flow in the session, from 0.
        execution_id: The run's id, if the client knew it.
        call: The flow, and the body of the fresh call.
        started_at, completed_at: ISO 8601, on the client's clock.
        abandoned: The caller stopped waiting: a timeout, a cancelled task, a client that went away.
        completed: The service knows how the call ended, but not when its caller had the response.
        seen: How many events of a stream, or pauses of ``execute``, the caller had received.
        calls: How many calls of this kind to this flow the session had, as far as the client knows.
        chunks: Of a stream: the seconds from ``started_at`` at which events arrived, and how many arrived
            together. Events that have none came later.
    """

    kind: str
    position: int
    calls: int | None = None
    execution_id: str | None = None
    call: RecordedCall
    started_at: str | None = None
    completed_at: str | None = None
    abandoned: bool = False
    completed: bool = False
    seen: int | None = None
    chunks: tuple[tuple[float, int], ...] = ()
    error: RecordedError | None = None


class ServedCall(WireModel):
    """A call of a fork that was served from its parent's session.

    Attributes:
        order: The number of the call among all calls of the fork, from 0; live calls count too.
        index: The number of its recording in the parent's cassette, from 0.
        execution_id: The run of that recording, if it has one. It decides; ``index`` is the fallback.
    """

    order: int
    index: int
    execution_id: str | None = None


class EditedCall(WireModel):
    """A call of a fork whose input was edited, as the application made it.

    Attributes:
        order: The number of the call among all calls of the fork, from 0.
        execution_id: The run that the service made of it, if it is known. It decides; ``order`` is the
            fallback.
    """

    order: int
    execution_id: str | None = None
    call: RecordedCall


class ForkParent(WireModel):
    """The session that a fork was replayed from, and which calls were served from it.

    Attributes:
        edited: The first call that went to the service with another input, None if there is none.
        also_edited: The others.
    """

    session_id: str
    served: tuple[ServedCall, ...] = ()
    edited: EditedCall | None = None
    also_edited: tuple[EditedCall, ...] = ()

    @property
    def all_edited(self) -> tuple[EditedCall, ...]:
        """The calls that went to the service with another input."""
        return self.also_edited if self.edited is None else (self.edited, *self.also_edited)


class Outcomes(WireModel):
    """The body of ``PUT /seq/sessions/{id}/outcomes``. A second PUT replaces the first.

    Attributes:
        outcomes: None keeps those that are stored, with their ``parent``.
        total_calls: How many calls the session has, if they were made with several API keys: a key may
            read only some of them.
    """

    outcomes: tuple[Outcome, ...] | None = ()
    parent: ForkParent | None = None
    total_calls: int | None = None


class Session(WireModel):
    """All calls of one session, ordered by the time they began."""

    session_id: str
    executions: list[SessionExecution] = Field(default_factory=list)
    # Additions of our local backend:
    outcomes: list[Outcome] = Field(default_factory=list)
    parent: ForkParent | None = None
    total_calls: int | None = None  # with all API keys, if it was made with several
    client_left: bool = False  # of the captured request, before the end of the response
    boundaries: list[Boundary] = Field(default_factory=list)
    total_boundaries: int | None = None  # if not all of them are kept
