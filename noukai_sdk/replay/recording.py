"""One recorded call, from any source, and the fingerprint of its input."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, cached_property
from typing import Annotated, Any

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ..models.reports import printable
from ..models.sessions import RecordedError, ToolRound
from ..protocol.call import CallKind

# The fields of a request that make up its input. How the response is delivered (runRemaining, trace)
# is not part of it.
INPUT_FIELDS = (
    "message",
    "messages",
    "parameters",
    "attachments",
    "blockOverrides",
    "inputOverrides",
    "tools",
    "toolChoice",
    "arguments",  # of a recorded function
)


_time: TypeAdapter[datetime] = TypeAdapter(datetime, config={"defer_build": True})
# Before Python 3.11 datetime reads no Z and no 7 digits of a second.
_read_time = datetime.fromisoformat if sys.version_info >= (3, 11) else _time.validate_python


@dataclass
class Recording:
    """A recorded call and its response, with the names of the wire.

    A dataclass, because a session has thousands of them and making one takes a third of a model's time.

    Attributes:
        slug: The bare slug; None for a flow that was deleted since.
        kind: None if the source does not say; such a recording serves calls of any kind.
        request: The body of the fresh call; None if the source does not hold it.
        message_only: ``request`` holds only the message.
        started_at, completed_at: Seconds, on one clock for the whole cassette.
        result: The final result of ``execute``, or the submission of a job.
        error: The error of a failed call.
        rounds: The pauses for tools, with the results that were sent back.
        events: Every event of a stream, in order.
        closed: The service closed the stream without a final event.
        chunks: When each part arrived: ``(seconds since the call began, 0)`` for each request sent,
            ``(seconds, number of events)`` for each network chunk with events, and ``(seconds, 1)``
            for each whole response and each error. Sessions hold no requests, and tell the times of
            events only by those of their steps. Empty if the source does not hold it.
        statuses: The status that each successful poll of a job returned.
        poll_errors: The errors of the other polls: ``(number of statuses before it, the error)``.
        abandoned: The caller stopped waiting (a timeout, a cancelled task), at ``completed_at``.
        passes: How many passes of the event loop after the call that ended before it this one ended,
            infinite if they were many; None if that is not known.
        unavailable: Why the recording cannot be served, None if it can.
    """

    slug: str | None
    kind: CallKind | None
    org: str | None = None
    project: str | None = None
    version: int | None = None
    execution_id: str | None = None
    flow_id: str | None = None
    request: dict[str, Any] | None = None
    message_only: bool = False
    started_at: float | None = None
    completed_at: float | None = None
    result: dict[str, Any] | None = None
    error: RecordedError | None = None
    rounds: tuple[ToolRound, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    closed: bool = False
    chunks: tuple[tuple[float, int], ...] = ()
    statuses: tuple[dict[str, Any], ...] = ()
    # Two fields had other names in the first cassette files.
    poll_errors: Annotated[
        tuple[tuple[int, RecordedError], ...],
        Field(validation_alias=AliasChoices("poll_errors", "look_errors")),
    ] = ()
    truncated: bool = False
    abandoned: Annotated[bool, Field(validation_alias=AliasChoices("abandoned", "given_up"))] = (
        False
    )
    passes: float | None = None
    unavailable: str | None = None

    @cached_property
    def fingerprint(self) -> str | None:
        """The fingerprint of the input, None if the input was not recorded."""
        if self.request is None:
            return None
        if self.message_only:
            return message_fingerprint(self.request)
        return fingerprint(self.request, self.version)

    @property
    def output(self) -> Any:
        """The final result, however the call was made; None if it did not end well."""
        if self.result is not None and "result" in self.result:
            return self.result["result"]
        if self.statuses:
            return self.statuses[-1].get("result")
        ends = [event for event in self.events if event.get("eventType") == "flow_completed"]
        return ends[-1].get("result") if ends else None

    @property
    def seconds(self) -> float:
        """How long the call took; 0 if that is not known."""
        if self.started_at is None or self.completed_at is None:
            return 0.0
        return max(0.0, self.completed_at - self.started_at)

    def __str__(self) -> str:
        name = f"{self.slug or '(deleted flow)'} [{self.kind or 'any kind'}]"
        return printable(f"{name} {self.execution_id or ''}", 200)


@cache
def recording_adapter() -> TypeAdapter[Recording]:
    """Return what validates recordings; built at first use."""
    return TypeAdapter(Recording)


def fingerprint(request: Mapping[str, Any], version: int | None) -> str:
    """Return a canonical hash of a call's input.

    Example:
        >>> fingerprint({"message": "a"}, None) == fingerprint({"message": "b"}, None)
        False
    """
    inputs = {name: request[name] for name in INPUT_FIELDS if name in request}
    return _digest({**inputs, "version": version})


def message_fingerprint(request: Mapping[str, Any]) -> str:
    """Return the fingerprint for sources that record only the message."""
    return _digest({"message only": request.get("message")})


def differing_fields(recorded: Mapping[str, Any], called: Mapping[str, Any]) -> list[str]:
    """Return the input fields in which a call differs from a recording."""
    return [name for name in INPUT_FIELDS if _differs(recorded.get(name), called.get(name))]


def moment_of(time: str | None) -> datetime | None:
    """Return an ISO 8601 time with its UTC offset; None if it is not valid."""
    if time is None:
        return None
    try:
        moment = _read_time(time)
    except ValueError:
        try:
            moment = _time.validate_python(time)
        except ValidationError:
            return None
    # A time without an offset is the service's own.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


def seconds_of(time: str | None) -> float | None:
    """Return an ISO 8601 time in seconds since 1970; None if it is not valid."""
    moment = moment_of(time)
    try:
        return None if moment is None else moment.timestamp()
    except (ValueError, OverflowError):
        return None  # a year that the platform does not know


def _differs(recorded: Any, called: Any) -> bool:
    # Most values are strings or missing; comparing those needs no canonical form.
    if recorded is None or isinstance(recorded, str):
        return bool(recorded != called)
    return _canonical(recorded) != _canonical(called)


def _digest(value: Any) -> str:
    return hashlib.blake2b(_canonical(value).encode(), digest_size=16).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(to_jsonable_python(value), sort_keys=True, separators=(",", ":"))
