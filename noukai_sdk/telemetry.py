"""OpenTelemetry: the tracer, and what the spans of the client, the engine and the backend share.

Import this module only if the program has set a provider: where it is off, nothing is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ._version import __version__
from .masking.values import Masker

if TYPE_CHECKING:
    from .models.events import TokenBreakdown

PROVIDER = "noukai"
SESSION = "noukai.session.id"
REPLAY = "noukai.replay"
EXECUTION = "noukai.execution.id"

# W3C, whatever the program propagates elsewhere; and no baggage, which is the program's own business.
_propagator = TraceContextTextMapPropagator()
_tracer: tuple[Any, Tracer] | None = None


def current_tracer() -> Tracer | None:
    """Return the tracer of the provider that the program has set, None if it has set none."""
    global _tracer  # noqa: PLW0603 - a provider makes a new tracer each time it is asked
    provider = trace.get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider):
        return None
    if _tracer is None or _tracer[0] is not provider:
        _tracer = provider, provider.get_tracer("noukai_sdk", __version__)
    return _tracer[1]


def restore(inside: Context, outside: Context) -> None:
    """Make ``outside`` the current context again, if ``inside`` is current.

    Not by token, as for the scope: a generator may be closed in another context than it was started in.
    """
    if get_current() is inside:
        attach(outside)


class SteppedContext:
    """OpenTelemetry's context as a generator sees it: what a step leaves open is current in the next."""

    __slots__ = ("_inside", "_outside")

    def __init__(self) -> None:
        self._inside: Context | None = None
        self._outside: Context | None = None

    def enter(self) -> None:
        """Begin a step."""
        self._outside = get_current()
        if self._inside is not None:
            attach(self._inside)

    def leave(self) -> None:
        """End a step."""
        assert self._outside is not None  # enter() was called
        left = get_current()
        # Else the next step follows its caller, whose span may be another one by then.
        self._inside = None if left is self._outside else left
        attach(self._outside)


@contextmanager
def inside_span(span: Span, no_errors: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Run a block in which ``span`` is current, and end the span.

    An exception is the span's error, but for those of ``no_errors``.
    """
    outside = get_current()
    inside = trace.set_span_in_context(span)
    attach(inside)
    try:
        yield
    except Exception as error:
        if not isinstance(error, no_errors):
            record_error(span, error)
        raise
    finally:
        restore(inside, outside)
        span.end()


def record_error(span: Span, error: BaseException) -> None:
    """Record the exception that ended the operation of ``span``."""
    span.record_exception(error)
    set_error(span, type(error).__name__, str(error))
    code = getattr(error, "code", None)
    if isinstance(code, str):
        span.set_attribute("noukai.error.code", code)


def set_error(span: Span, kind: str, message: str | None = None) -> None:
    """Mark the operation of ``span`` as failed.

    Args:
        span: The span.
        kind: The value of ``error.type``: the name of a class, or an error code.
        message: What was wrong.
    """
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))


def usage_attributes(tokens: TokenBreakdown | None) -> dict[str, int]:
    """Return the attributes of what a model has used."""
    attributes: dict[str, int] = {}
    if tokens is not None and tokens.prompt is not None:
        attributes["gen_ai.usage.input_tokens"] = tokens.prompt
    if tokens is not None and tokens.completion is not None:
        attributes["gen_ai.usage.output_tokens"] = tokens.completion
    return attributes


def step_attributes(step_id: str, name: str | None, index: int | None) -> dict[str, Any]:
    """Return the attributes of the span of a step."""
    attributes: dict[str, Any] = {"noukai.step.id": step_id}
    if name is not None:
        attributes["noukai.step.name"] = name
    if index is not None:
        attributes["noukai.step.index"] = index
    return attributes


def message_attributes(role: str, *contents: Any, finish_reason: str | None = None) -> str:
    """Return messages of one role as OpenTelemetry writes them, without secrets.

    A content that is a mapping with ``role`` is a turn of a chat.
    """
    messages: list[dict[str, Any]] = []
    for content in contents:
        turn = content if isinstance(content, Mapping) and "role" in content else {}
        value = Masker().value(turn.get("content", content))
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        part = {"type": "text", "content": text}
        messages.append({"role": turn.get("role", role), "parts": [part]})
        if finish_reason is not None:
            messages[-1]["finish_reason"] = finish_reason
    return json.dumps(messages)


def trace_headers(inside: Context) -> dict[str, str]:
    """Return the headers ``traceparent`` and ``tracestate`` for requests that are made in a context."""
    headers: dict[str, str] = {}
    _propagator.inject(headers, context=inside)
    return headers


def current_trace() -> str | None:
    """Return the ``traceparent`` of the current span, None without one."""
    return trace_headers(get_current()).get("traceparent")


def enter_span(
    tracer: Tracer, name: str, attributes: dict[str, str], traceparent: str | None
) -> tuple[Span, tuple[Context, Context]]:
    """Start a span in the trace of ``traceparent``, or else under the current span, and make it current.

    Returns:
        The span, and the contexts for :func:`leave_span`.
    """
    outside = parent = get_current()
    if traceparent is not None:
        parent = _propagator.extract({"traceparent": traceparent}, context=outside)
    span = tracer.start_span(name, context=parent, attributes=attributes)
    inside = trace.set_span_in_context(span, parent)
    attach(inside)
    return span, (inside, outside)


def leave_span(span: Span, contexts: tuple[Context, Context]) -> None:
    """End a span of :func:`enter_span`."""
    restore(*contexts)
    span.end()


def enter_session(session_id: str, *, is_replay: bool) -> tuple[Context, Context] | None:
    """Mark the current span with a session, and put the session into the baggage.

    Returns:
        The new context and the one before, for :func:`restore`; None without a provider.
    """
    if current_tracer() is None:
        return None
    mark_span(trace.get_current_span(), session_id, is_replay=is_replay)
    outside = get_current()
    inside = baggage.set_baggage(SESSION, session_id, outside)
    attach(inside)
    return inside, outside


def leave_session() -> tuple[Context, Context] | None:
    """Take the session out of the baggage, for code that belongs to none; as :func:`enter_session`."""
    outside = get_current()
    if baggage.get_baggage(SESSION, outside) is None:
        return None
    inside = baggage.remove_baggage(SESSION, outside)
    attach(inside)
    return inside, outside


def mark_span(span: Span, session_id: str, *, is_replay: bool) -> None:
    """Mark a span of the program with the session that it belongs to."""
    if span.is_recording():
        span.set_attribute(SESSION, session_id)
        if is_replay:
            span.set_attribute(REPLAY, True)


__all__ = [
    "EXECUTION",
    "PROVIDER",
    "REPLAY",
    "SESSION",
    "Context",
    "Span",
    "SpanKind",
    "SteppedContext",
    "current_trace",
    "current_tracer",
    "enter_session",
    "enter_span",
    "inside_span",
    "leave_session",
    "leave_span",
    "mark_span",
    "message_attributes",
    "record_error",
    "restore",
    "set_error",
    "step_attributes",
    "trace_headers",
    "usage_attributes",
]
