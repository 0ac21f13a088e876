"""Every exception that the SDK raises on purpose.

::

    NoukaiError
    ├── APIConnectionError              no response: network, DNS, TLS, a stream that was cut
    │   └── APITimeoutError             a request or ``job.wait`` took longer than its timeout
    ├── AuthenticationError             401, or no usable API key
    ├── InsufficientCreditsError        402
    ├── PermissionDeniedError           403
    ├── NotFoundError                   404
    │   ├── FlowNotFoundError           no such flow, or version of it
    │   ├── RunNotFoundError            no such run, job or step of a run
    │   └── SessionNotFoundError        no such session
    ├── NotSupportedError               the service does not have this route
    ├── RateLimitError                  429
    ├── FlowExecutionError              5xx, 408 and every other 4xx: branch on ``.code``
    ├── JobCancelledError               ``job.wait`` ends because the job was cancelled
    ├── OutputError                     a result that does not fit the call's ``response_model``
    ├── ToolCallLimitError              ``max_tool_rounds`` is used up
    ├── ToolHandlerRequiredError        the flow asks for tools and there is no handler
    ├── ClientClosedError               a call on a closed client
    ├── RecordedValueError              a value of a recorded function that cannot be kept, or read back
    ├── RecordedFunctionError           the recorded error of a function, of a class that is not loaded
    └── ReplayError
        ├── ReplayDisabledError         replay requested, ``NOUKAI_REPLAY_ENABLED`` not set
        ├── ReplayForbiddenError        403: another organisation's session
        ├── ReplaySessionNotFoundError  404: no such session
        ├── ReplaySessionExpiredError   410: past its retention
        ├── ReplayInvalidSessionError   the id or the payload is malformed
        ├── ReplayNoSnapshotsError      captured without snapshots: there is nothing to serve
        ├── CassetteError               a cassette file that is missing, damaged or not a cassette
        ├── CapturedRequestError        a captured request that cannot be sent again
        ├── ReplayMissError             no recording matches this call
        └── ReplayLeftoverError         recordings were left when the scope ended

Arguments that are not valid raise Python's own ``ValueError``, ``TypeError`` and
``NotImplementedError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.reports import CallSite, Candidate, ReplayReport

__all__ = [
    "APIConnectionError",
    "APITimeoutError",
    "AuthenticationError",
    "CapturedRequestError",
    "CassetteError",
    "ClientClosedError",
    "FlowExecutionError",
    "FlowNotFoundError",
    "InsufficientCreditsError",
    "JobCancelledError",
    "NotFoundError",
    "NotSupportedError",
    "NoukaiError",
    "OutputError",
    "PermissionDeniedError",
    "RateLimitError",
    "RecordedFunctionError",
    "RecordedValueError",
    "ReplayDisabledError",
    "ReplayError",
    "ReplayForbiddenError",
    "ReplayInvalidSessionError",
    "ReplayLeftoverError",
    "ReplayMissError",
    "ReplayNoSnapshotsError",
    "ReplaySessionExpiredError",
    "ReplaySessionNotFoundError",
    "RunNotFoundError",
    "SessionNotFoundError",
    "ToolCallLimitError",
    "ToolHandlerRequiredError",
]


class NoukaiError(Exception):
    """Base of all errors of this package.

    Args:
        message: What went wrong and what to do about it.
        status_code: HTTP status of the response, None without a response.
        code: The service's error code, for example ``"BYOK_KEY_REJECTED"``.
        execution_id: The run that the error belongs to, if known.
        request_id: The response's ``X-Request-ID``, to quote to support.
        response_body: The response's decoded JSON, or its text if it is not valid JSON.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int | None = None,
        code: str | None = None,
        execution_id: str | None = None,
        request_id: str | None = None,
        response_body: Any = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.execution_id = execution_id
        self.request_id = request_id
        self.response_body = response_body

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only state do not pickle by themselves, and worker pools pickle them.
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))


def _rebuild(kind: type[NoukaiError], message: str, state: dict[str, Any]) -> NoukaiError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


class APIConnectionError(NoukaiError):
    """The service could not be reached, or the connection broke before the response was complete.

    ``request_sent`` is False if nothing can have reached the service (the connection was refused or never
    made), so sending the call again cannot pay for a run twice. The HTTP library's own error is the
    ``__cause__``.
    """

    def __init__(self, message: str = "", *, request_sent: bool = True, **details: Any) -> None:
        super().__init__(message, **details)
        self.request_sent = request_sent


class APITimeoutError(APIConnectionError):
    """A request, or ``job.wait()``, took longer than its timeout."""


class AuthenticationError(NoukaiError):
    """The API key is missing, malformed or not accepted (401).

    ``www_authenticate`` is the response's header of that name, if there is one.
    """

    def __init__(
        self, message: str = "", *, www_authenticate: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.www_authenticate = www_authenticate


class InsufficientCreditsError(NoukaiError):
    """The organisation's balance does not cover the call (402)."""


class PermissionDeniedError(NoukaiError):
    """The key may not use this resource (403)."""


class NotFoundError(NoukaiError):
    """The service does not know what was asked for (404)."""


class FlowNotFoundError(NotFoundError):
    """The flow, or this version of it, does not exist."""


class RunNotFoundError(NotFoundError):
    """The run, the job, or the step of the run does not exist."""


class SessionNotFoundError(NotFoundError):
    """The session does not exist, or belongs to another organisation."""


class NotSupportedError(NoukaiError):
    """The service does not have this extension of ``noukai dev`` and ``noukai serve``."""


class RateLimitError(NoukaiError):
    """Too many requests were sent (429). ``retry_after`` is in seconds, None if the service sent none."""

    def __init__(
        self, message: str = "", *, retry_after: float | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class FlowExecutionError(NoukaiError):
    """The service could not run the flow, or refused the request. Branch on ``.code``."""


class JobCancelledError(NoukaiError):
    """The job that ``job.wait()`` waited for was cancelled; it has no result."""


class OutputError(NoukaiError):
    """The run's result does not fit the call's ``response_model``.

    Attributes:
        text: The result as text: as it was, or as JSON if it is not a text.
        result: The result as it was on the wire.
    """

    def __init__(
        self, message: str = "", *, text: str = "", result: Any = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.text = text
        self.result = result


class ToolCallLimitError(NoukaiError):
    """The flow still asked for tools after ``max_tool_rounds`` rounds."""


class ToolHandlerRequiredError(NoukaiError):
    """The flow paused for tools, and the call has no way to resume it: pass ``tool_handler=``."""


class ClientClosedError(NoukaiError):
    """The client was closed; make a new one."""


class RecordedValueError(NoukaiError):
    """A value of a recorded function cannot be kept in a recording, or not be read from it.

    Attributes:
        function: The name of the recorded function.
        place: The part of the value, such as ``result.books[3].author``.
    """

    def __init__(
        self, message: str = "", *, function: str = "", place: str = "", **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.function = function
        self.place = place


class RecordedFunctionError(NoukaiError):
    """A recorded function raised an error whose class is not loaded now; this error stands for it.

    Attributes:
        error_type: The full name of the recorded error's class.
        error_message: Its message.
    """

    def __init__(
        self,
        message: str = "",
        *,
        error_type: str = "",
        error_message: str = "",
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.error_type = error_type
        self.error_message = error_message


class ReplayError(NoukaiError):
    """Base of everything that can go wrong with a replay.

    ``report`` is the scope's :class:`~noukai_sdk.models.reports.ReplayReport` so far, if there is one.
    ``parent_session_id`` is set if the session is a fork whose parent is not available.
    """

    parent_session_id: str | None = None

    def __init__(
        self, message: str = "", *, report: ReplayReport | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.report = report


class ReplayDisabledError(ReplayError):
    """A replay was requested, but ``NOUKAI_REPLAY_ENABLED`` is not set to a true value."""


class ReplayForbiddenError(ReplayError):
    """The session belongs to another organisation or project (403)."""


class ReplaySessionNotFoundError(ReplayError):
    """The session does not exist (404)."""


class ReplaySessionExpiredError(ReplayError):
    """The session is past its retention and its snapshots are gone (410)."""


class ReplayInvalidSessionError(ReplayError):
    """The session id, or what the service returned for it, is malformed."""


class ReplayNoSnapshotsError(ReplayError):
    """The session was captured without snapshots, so there is nothing to serve."""


class CassetteError(ReplayError):
    """A cassette file is missing, damaged, of an unknown version, or not a cassette.

    ``path`` is the file. ``line`` is the line of the problem, counted from 1, or None.
    """

    def __init__(
        self, message: str = "", *, path: str = "", line: int | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.path = path
        self.line = line


class CapturedRequestError(ReplayError):
    """A captured request cannot be sent again: the capture does not hold its whole body."""


class ReplayMissError(ReplayError):
    """No recording matches a call.

    Attributes:
        slug: The bare slug that was called, or the name of the recorded function.
        kind: ``"execute"``, ``"step"`` or ``"job"``; ``"recorded"`` for a recorded function.
        position: The number of the call among those to this slug and kind, counted from 0.
        recorded: How many recordings the cassette holds for this slug and kind.
        remaining: How many of the cassette's recordings are still unplayed.
        candidates: The nearest recordings, best first, with the parts of the input that differ.
        reason: What probably happened, in one sentence.
        call_site: The place in the application that made the call.
    """

    def __init__(
        self,
        message: str = "",
        *,
        slug: str | None = None,
        kind: str | None = None,
        position: int | None = None,
        recorded: int = 0,
        remaining: int = 0,
        candidates: Sequence[Candidate] = (),
        reason: str | None = None,
        call_site: CallSite | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.slug = slug
        self.kind = kind
        self.position = position
        self.recorded = recorded
        self.remaining = remaining
        self.candidates: tuple[Candidate, ...] = tuple(candidates)
        self.reason = reason
        self.call_site = call_site


class ReplayLeftoverError(ReplayError):
    """The scope ended while recordings were unplayed.

    ``leftovers`` lists them as ``(slug, position)`` pairs, in the cassette's order. ``slug`` is None for a
    flow that was deleted since.
    """

    def __init__(
        self,
        message: str = "",
        *,
        leftovers: Sequence[tuple[str | None, int]] = (),
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.leftovers: tuple[tuple[str | None, int], ...] = tuple(leftovers)
