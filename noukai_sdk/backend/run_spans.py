"""The OpenTelemetry span of a run that this process drives, in the trace of the call that began it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..local.engine.spans import has_provider
from .run import Run

_LONGEST = 200
_NO_ERRORS = ("running", "pending", "paused", "completed", "cancelled")


def trace_of_request(headers: Mapping[str, str]) -> str | None:
    """Return the ``traceparent`` that runs of this request belong to.

    It is that of the current span if an instrumentation of the framework has made one, or else the
    caller's. Kept without a provider too: the worker of a job may have one.
    """
    sent = headers.get("traceparent")
    if has_provider():
        from ..telemetry import current_trace

        sent = current_trace() or sent
    return sent if sent is not None and len(sent) <= _LONGEST else None


def begin_run_span(run: Run) -> Callable[[], None]:
    """Begin the span of a run, and make it the current one. Call what is returned at the end."""
    if not has_provider():
        return lambda: None
    from ..telemetry import current_tracer, enter_span, leave_span, set_error

    tracer = current_tracer()
    assert tracer is not None  # has_provider() has checked
    flow = run.flow
    attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": "noukai",
        "gen_ai.workflow.name": f"{flow.org}/{flow.project}/{flow.slug}",
        "noukai.org": flow.org,
        "noukai.project": flow.project,
        "noukai.flow": flow.slug,
        "noukai.version": "draft" if run.version is None else str(run.version),
        "noukai.kind": run.trigger,
        "noukai.execution.id": run.id,
    }
    if run.session_id is not None:
        attributes["noukai.session.id"] = run.session_id
    name = f"run {flow.org}/{flow.project}/{flow.slug}"
    span, contexts = enter_span(tracer, name, attributes, run.traceparent)

    def end() -> None:
        span.set_attribute("noukai.outcome", run.status)
        if run.cost_micros:
            span.set_attribute("noukai.cost_usd", run.cost_micros / 1_000_000)
        if run.status not in _NO_ERRORS:
            error = run.error or {}
            set_error(span, error.get("code") or "failed", error.get("message"))
        leave_span(span, contexts)

    return end
