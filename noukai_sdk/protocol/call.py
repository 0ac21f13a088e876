"""A flow call as a value: what goes through the one seam between the client and the scope."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from .program import Program, Timeout, ToolHandler

logger: logging.Logger = logging.getLogger("noukai_sdk")

CallKind = Literal["execute", "step", "job", "recorded"]
"""How a flow is called, or that the call is one of a recorded function."""

FLOW_KINDS: tuple[CallKind, ...] = ("execute", "step", "job")


class FlowRef(NamedTuple):
    """The address of a flow. ``version`` is the number of a published version, None for the draft."""

    org: str
    project: str
    slug: str
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.org}/{self.project}/{self.slug}"


class SpanOptions(NamedTuple):
    """What the OpenTelemetry spans of a client's calls hold (docs/observability.md).

    Attributes:
        steps: Each step of a call has a span of its own.
        payloads: Inputs and outputs are attributes.
    """

    steps: bool = False
    payloads: bool = False


class Service(NamedTuple):
    """The service as one client is configured to call it.

    Attributes:
        headers: Sent with every request. They hold the API key, so they are never printed.
        timeout: Seconds, for calls that have no timeout of their own.
        max_retries: How often a request is sent again at most.
        log: Takes the dict of ``log_handler`` (docs/client.md, "Logging").
        log_payloads: Put the bodies into that dict.
        session_id: The client's own session, for calls that have none and run in no scope.
        custom_http: The user passed ``http_client``, for instance one with a mock transport.
        default_headers: The user's own, sent with every request that has none of the same name. The names
            are in lower case.
        has_key: False for a client that only replays cassette files. Its requests are refused.
        spans: None for a client whose calls make no spans.
    """

    base_url: str
    headers: Mapping[str, str]
    timeout: Timeout
    max_retries: int
    log: Callable[[dict[str, Any]], None] | None
    log_payloads: bool = False
    session_id: str | None = None
    custom_http: bool = False
    has_key: bool = True
    default_headers: Mapping[str, str] = {}
    spans: SpanOptions | None = SpanOptions()

    @property
    def key(self) -> tuple[str, str | None]:
        """The base URL and the Authorization header: what decides which sessions can be read."""
        return self.base_url, self.headers.get("Authorization")

    def report(
        self,
        event: dict[str, Any],
        payloads: Mapping[str, Any] | None = None,
        session_id: str | None = None,
    ) -> None:
        """Report ``event`` to the ``noukai_sdk`` logger and, with ``payloads``, to the ``log_handler``.

        The log record has the fields of the event as attributes, ``noukai_phase`` and so on.
        """
        if logger.isEnabledFor(logging.DEBUG):
            text = " ".join(f"{name}={value}" for name, value in event.items())
            fields = {f"noukai_{name}": value for name, value in event.items()}
            session_id = fields.pop("noukai_session_id", session_id)
            if session_id is not None:
                fields["noukai_session"] = session_id
            logger.debug("%s", text, extra=fields)
        if self.log is None:
            return
        try:
            self.log({**event, **(payloads or {})})
        except Exception:
            logger.warning("the log_handler raised; the call continues", exc_info=True)

    def __repr__(self) -> str:
        return f"Service({self.base_url!r})"


class FailureLog(Protocol):
    """Collects how calls ended for their caller, where the service may not know it.

    Attributes:
        ended: How many calls have ended.
        has_overlap: Calls have overlapped, so :meth:`note_end` is to be called.
    """

    ended: int
    has_overlap: bool

    def note_failure(
        self,
        call: FlowCall,
        error: BaseException,
        run: str | None,
        seen: int | None,
        at_reader: bool,
    ) -> None:
        """Note the error of a call, or its GeneratorExit if the caller gave it up."""
        ...

    def forget_failure(self, call: FlowCall) -> None:
        """Note that the call goes on."""
        ...

    def note_end(self, call: FlowCall, run: str | None) -> None:
        """Note that the caller has the call's response."""
        ...

    def note_events(self, watch: Watch, count: int) -> None:
        """Note that so many events of a stream have arrived together."""
        ...


class Watch(NamedTuple):
    """Which call of a captured session this is, and where its failure is noted.

    Attributes:
        position: The number of the call among those of its kind to its flow.
        made_at: When the method was called, in seconds since 1970.
        arrivals: Of a stream: the seconds since then at which events arrived, and how many together.
    """

    log: FailureLog
    position: int
    made_at: float
    arrivals: list[tuple[float, int]]


class Trail(list[Any]):
    """The events of a stream, but inputs and chunks of output: they tell the result of the run.

    Attributes:
        session_id: The session that the call was captured in or replayed from.
        request_id: The ``X-Request-ID`` of its last response.
    """

    session_id: str | None = None
    request_id: str | None = None


class FlowCall(NamedTuple):
    """One call of a flow, before the scope decides whether it goes live or is replayed.

    Attributes:
        kind: How the flow is called. Recordings of different kinds are counted apart.
        request: The body of the fresh call, in the wire's names, without null fields. Only ``step``
            calls carry ``inputOverrides`` and ``runRemaining``; the program adds cursor fields.
        session_id: The session passed to the method; ``live`` falls back to the scope's or the client's.
        max_retries: How often a request of it is sent again at most; None means the client's number.
        idempotency_key: Sent with the request that starts the run, so that the same key is the same run.
        tool_handler, max_tool_rounds: What handles tool pauses, and how often at most.
        manual_tools: The consumer of the stream can resume tool pauses (async clients).
        watch: Notes if the call fails; None in most scopes.
        trail: Takes the events of a stream, for its final result.
    """

    kind: CallKind
    flow: FlowRef
    service: Service
    request: Mapping[str, Any]
    session_id: str | None = None
    timeout: Timeout | None = None
    max_retries: int | None = None
    extra_headers: Mapping[str, str] = {}
    idempotency_key: str | None = None
    tool_handler: ToolHandler | None = None
    max_tool_rounds: int = 10
    manual_tools: bool = False
    watch: Watch | None = None
    trail: Trail | None = None

    def tagged(self, session_id: str | None) -> FlowCall:
        """Return this call in that session."""
        return self if session_id == self.session_id else self._replace(session_id=session_id)

    def failed(
        self,
        error: BaseException,
        *,
        run: str | None,
        seen: int | None = None,
        at_reader: bool = False,
    ) -> None:
        """Note the exception that ends this call's program, in a captured session.

        Args:
            error: GeneratorExit if the caller has stopped waiting.
            run: The id of the run, if it is known.
            seen: As in :class:`~noukai_sdk.models.sessions.Outcome`.
            at_reader: The reader of the stream left between two events, and waited for nothing.
        """
        if self.watch is not None:
            self.watch.log.note_failure(self, error, run, seen, at_reader)

    def live(self, scope_session: str | None = None, watch: Watch | None = None) -> Program[Any]:
        """Return the program that sends this call to the service.

        ``execute`` returns an ExecuteResult or a PausedResult; ``step`` yields events and returns None;
        ``job`` returns a JobBackend. The call's own session comes before the scope's and the client's.
        """
        session_id = self.session_id or scope_session or self.service.session_id
        call = (
            self.tagged(session_id)
            if watch is None
            else self._replace(session_id=session_id, watch=watch)
        )
        # Imported at first use: most programs call in one way only, and each way brings its models.
        if call.kind == "execute":
            from .executing import execute

            return execute(call)
        if call.kind == "step":
            from .stepping import step

            return step(call)
        from .jobs import submit

        return submit(call)

    def __repr__(self) -> str:
        # The extra headers may hold secrets.
        return f"FlowCall({self.kind!r}, '{self.flow}')"
