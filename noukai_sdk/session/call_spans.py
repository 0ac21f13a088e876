"""The OpenTelemetry span of a flow call, made by listening to the program of the call.

Import this module only if the program has loaded OpenTelemetry (``noukai_sdk.telemetry``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from decimal import Decimal
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context, attach, get_current, get_value, set_value
from opentelemetry.trace import Link, SpanKind

from ..masking.values import Masker
from ..models.events import (
    FlowCompleted,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepOutput,
    StepStarted,
    ToolCallsRequired,
)
from ..models.results import ExecuteResult
from ..protocol.program import (
    CallTools,
    Effect,
    OpenStream,
    PausedRun,
    Program,
    ResultsSent,
    SendRequest,
)
from ..telemetry import (
    EXECUTION,
    PROVIDER,
    REPLAY,
    SESSION,
    current_tracer,
    enter_session,
    inside_span,
    leave_session,
    mark_span,
    message_attributes,
    record_error,
    restore,
    set_error,
    step_attributes,
    trace_headers,
    usage_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import Span, Tracer

    from ..models.results import ToolResult
    from ..models.usage import RunStep
    from ..protocol.call import FlowCall
    from .scope import Scope

_OPERATION = "gen_ai.operation.name"
OUTCOME = "noukai.outcome"
# Set in the context of a handler that makes the spans of its tools itself.
_IN_CALL = "noukai-in-call"


def traced(call: FlowCall, scope: Scope | None, program: Program[Any]) -> Program[Any]:
    """Return ``program`` with a span around it, or as it is if the program has set no provider."""
    tracer = current_tracer()
    return program if tracer is None else _CallSpan(tracer, call, scope).run(program)


def enter_scope(scope: Scope | None) -> tuple[Any, Any] | None:
    """Tell OpenTelemetry which session runs; return the contexts to restore at its end, if any."""
    if scope is None or scope.session_id is None:
        return leave_session()
    if scope._service is not None and scope._service.spans is None:
        return None
    return enter_session(scope.session_id, is_replay=scope.mode == "replay")


class _CallSpan:
    """The span of one call. It begins when the program does, under the span that the method was called in.

    It is current while an effect is performed, such as a request or a tool, so that spans of HTTP
    libraries and tools are its children. It is never current while the reader of a stream has an event.
    """

    def __init__(
        self,
        tracer: Tracer,
        call: FlowCall,
        scope: Scope | None,
        links: Sequence[Link] = (),
    ) -> None:
        assert call.service.spans is not None  # the seam has checked
        self._tracer = tracer
        self._call = call
        self._scope = scope
        self._links = links
        self._options = call.service.spans
        self._parent = get_current()
        self._is_replay = scope is not None and scope.mode == "replay"
        self._steps: dict[str, Span] = {}
        self._used = {"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0}
        self._cost: Decimal | None = None
        self._rounds = 0
        self._waits = False
        self._has_ended = False
        session_id = None if scope is None else scope.session_id
        if session_id is not None and call.session_id in (None, session_id):
            # Now too: Flask's instrumentation opens the span of a request after the scope has begun, and
            # ends it before the body of a stream is read.
            of_request = trace.get_current_span(self._parent)
            mark_span(of_request, session_id, is_replay=self._is_replay)

    def run(self, program: Program[Any]) -> Program[Any]:
        """Run the program of the call, and end the span whenever it ends."""
        flow = self._call.flow
        self._begun = time.time_ns()
        self._span = span = self._tracer.start_span(
            f"invoke_workflow {flow}",
            context=self._parent,
            kind=SpanKind.CLIENT,
            attributes=self._attributes(),
            links=self._links,
        )
        self._inside = trace.set_span_in_context(span, self._parent)
        thrown: Exception | None = None
        try:
            item = next(program)
            while True:
                if not isinstance(item, Effect):
                    self._see(item)
                    yield item
                    item = next(program)
                    continue
                item, around, tools = self._prepare(item)
                thrown = None
                outside = get_current()
                attach(around)
                try:
                    outcome = yield item
                except GeneratorExit:
                    # The caller is cancelled or waits no longer. For OpenTelemetry this is not an error.
                    self._end("cancelled")
                    raise
                except Exception as error:  # noqa: BLE001 - thrown in for the program, not for us
                    thrown = error
                finally:
                    restore(around, outside)
                    if tools is not None:
                        if thrown is not None:
                            record_error(tools, thrown)
                        tools.end()
                item = program.send(outcome) if thrown is None else program.throw(thrown)
        except StopIteration as end:
            return self._finish(end.value)
        except GeneratorExit:
            self._end("left")  # by the reader of the stream
            raise
        except BaseException as error:
            self._note_run(getattr(error, "execution_id", None))
            self._fail(error)
            raise
        finally:
            thrown = None  # its traceback has this frame
            program.close()
            for step in self._steps.values():
                step.end()
            span.end()

    def _prepare(self, effect: Effect) -> tuple[Effect, Context, Span | None]:
        """Return the effect to perform, the context to do it in, and the span of its tools, if any."""
        if isinstance(effect, (SendRequest, OpenStream)):
            return self._with_trace_headers(effect), self._inside, None
        if isinstance(effect, CallTools):
            runner = getattr(effect.handler, "__self__", None)
            if getattr(runner, "makes_tool_spans", False):
                return effect, set_value(_IN_CALL, True, self._inside), None
            span = _start_tool_span(self._tracer, effect.tool_calls, self._inside)
            return effect, trace.set_span_in_context(span, self._inside), span
        if isinstance(effect, ResultsSent):
            self._rounds += 1
            self._waits = False
        return effect, self._inside, None

    def _attributes(self) -> dict[str, Any]:
        call = self._call
        flow, service = call.flow, call.service
        host, port = _address(service.base_url)
        attributes: dict[str, Any] = {
            _OPERATION: "invoke_workflow",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.workflow.name": str(flow),
            "noukai.org": flow.org,
            "noukai.project": flow.project,
            "noukai.flow": flow.slug,
            "noukai.version": "draft" if flow.version is None else str(flow.version),
            "noukai.kind": call.kind,
            REPLAY: self._is_replay,
            "server.address": host,
        }
        if port is not None:
            attributes["server.port"] = port
        scope_session = None if self._scope is None else self._scope.session_id
        session_id = call.session_id or scope_session or service.session_id
        if session_id is not None:
            attributes[SESSION] = session_id
        if self._options.payloads:
            request = call.request
            turns = request.get("messages") or [request.get("message", "")]
            attributes["gen_ai.input.messages"] = message_attributes("user", *turns)
            if "parameters" in request:
                masked = Masker().value(request["parameters"])
                attributes["noukai.parameters"] = json.dumps(masked, default=str)
        return attributes

    def _with_trace_headers(self, effect: SendRequest | OpenStream) -> Effect:
        request = effect.request
        if request.method == "POST":
            if self._is_replay:  # a call of a fork
                self._is_replay = False
                self._span.set_attribute(REPLAY, False)
            if "X-Session-Id" in request.headers:
                self._span.set_attribute(SESSION, request.headers["X-Session-Id"])
        if any(name.lower() == "traceparent" for name in request.headers):
            return effect  # the user's own, by extra_headers
        headers = {**request.headers, **trace_headers(self._inside)}
        return type(effect)(request._replace(headers=headers))

    def _see(self, event: Any) -> None:
        """Learn from an event of a stream."""
        if isinstance(event, StepOutput):
            return
        if isinstance(event, RunStarted):
            self._note_run(event.execution_id or event.run_id)
        elif isinstance(event, StepStarted):
            self._begin_step(event)
        elif isinstance(event, StepCompleted):
            used = usage_attributes(event.tokens)
            for name, count in used.items():
                self._used[name] += count
            self._add_cost(event.cost_usd)
            step = self._steps.pop(event.step_id, None)
            if step is not None:
                if not self._is_replay:
                    step.set_attributes(used)
                if event.cost_usd is not None:
                    step.set_attribute("noukai.cost_usd", float(event.cost_usd))
                step.end()
        elif isinstance(event, StepFailed):
            code = (event.error.code if event.error else None) or "step_error"
            message = event.error.message if event.error else None
            step = self._steps.pop(event.step_id, None)
            if step is not None:
                set_error(step, code, message)
                step.end()
            set_error(self._span, code, f"step {event.step_id} failed: {message or code}")
            self._end("failed")
        elif isinstance(event, ToolCallsRequired):
            self._note_run(event.execution_id)
            self._waits = True
        elif isinstance(event, FlowCompleted):
            self._note_run(event.execution_id)
            self._set_output(event.result)
            self._end("completed")

    def _begin_step(self, event: StepStarted) -> None:
        if not self._options.steps:
            return
        before = self._steps.pop(event.step_id, None)
        if before is not None:  # the step is tried again
            set_error(before, "retried")
            before.end()
        attributes = step_attributes(event.step_id, event.name, event.step_index)
        self._steps[event.step_id] = self._tracer.start_span(
            f"step {event.step_id}",
            context=self._inside,
            attributes={**attributes, REPLAY: self._is_replay},
        )

    def _finish(self, value: Any) -> Any:
        """Note the result of the program, and return it."""
        if isinstance(value, PausedRun):
            self._note_run(value.pause.execution_id)
            self._end("paused")
            return PausedRun(value.pause, partial(self._resumed, value.resume))
        if isinstance(value, ExecuteResult):
            self._note_run(value.execution_id)
            self._note_usage(value)
            if self._options.steps and not self._is_replay:
                self._add_steps(value.steps or [])
            self._set_output(value.result)
            if value.status == "failed":
                set_error(self._span, "failed", "the run failed")
            self._end(value.status)
        elif value is None:
            self._end("paused" if self._waits else "incomplete")
        else:  # a job
            self._note_run(value.execution_id)
            self._end("submitted")
        return value

    def _resumed(
        self, resume: Callable[..., Program[Any]], results: Sequence[ToolResult]
    ) -> Program[Any]:
        links = [Link(self._span.get_span_context())]
        span = _CallSpan(self._tracer, self._call, self._scope, links)
        return span.run(resume(results))

    def _note_usage(self, result: ExecuteResult) -> None:
        """Note what the run has used, if the service says so."""
        for name, count in usage_attributes(result.tokens).items():
            self._used[name] += count
        self._add_cost(result.cost_usd)

    def _add_steps(self, steps: Sequence[RunStep]) -> None:
        """Make spans of finished steps, of which only the duration is known.

        They follow each other. If that takes longer than the call did, some ran at once: then all begin
        when the call began.
        """
        took = [round((step.duration_ms or 0) * 1_000_000) for step in steps]
        follow = sum(took) <= time.time_ns() - self._begun
        start = self._begun
        for index, (step, duration) in enumerate(zip(steps, took, strict=True)):
            span = self._tracer.start_span(
                f"step {step.step_id}",
                context=self._inside,
                attributes=step_attributes(step.step_id, step.name, index),
                start_time=start,
            )
            span.set_attributes(usage_attributes(step.tokens))
            if step.cost_usd is not None:
                span.set_attribute("noukai.cost_usd", float(step.cost_usd))
            span.end(start + duration)
            start += duration if follow else 0

    def _add_cost(self, cost: Any) -> None:
        if cost is not None:
            self._cost = (self._cost or Decimal(0)) + Decimal(str(cost))

    def _note_run(self, execution_id: str | None) -> None:
        if execution_id:
            self._span.set_attribute(EXECUTION, execution_id)

    def _set_output(self, result: Any) -> None:
        if self._options.payloads:
            value = message_attributes("assistant", result, finish_reason="stop")
            self._span.set_attribute("gen_ai.output.messages", value)

    def _fail(self, error: BaseException) -> None:
        if not self._has_ended:
            record_error(self._span, error)
        self._end("failed")

    def _end(self, outcome: str) -> None:
        """Set what is known at the end. The first outcome counts."""
        if self._has_ended:
            return
        self._has_ended = True
        self._span.set_attribute(OUTCOME, outcome)
        if self._rounds:
            self._span.set_attribute("noukai.tool.rounds", self._rounds)
        # A replay has used nothing: dashboards that add up tokens and costs must not count it.
        if not self._is_replay:
            self._span.set_attributes({name: n for name, n in self._used.items() if n})
            if self._cost is not None:
                self._span.set_attribute("noukai.cost_usd", float(self._cost))


def tool_span(tool_calls: Sequence[Any]) -> AbstractContextManager[Span | None]:
    """Return the span of a tool, for a handler with ``makes_tool_spans`` that a traced call runs."""
    tracer = current_tracer()
    if tracer is None or not get_value(_IN_CALL):
        return nullcontext()
    return _ended_after(_start_tool_span(tracer, tool_calls, get_current()))


@contextmanager
def _ended_after(span: Span) -> Iterator[Span]:
    with inside_span(span):
        yield span


def _start_tool_span(tracer: Tracer, tool_calls: Sequence[Any], context: Context) -> Span:
    """Start the span of one call of a handler, which may answer several tool calls."""
    names = [str((each.get("function") or {}).get("name")) for each in tool_calls]
    name = "execute_tool"
    attributes: dict[str, Any] = {_OPERATION: name, "noukai.tool.names": names}
    if len(names) == 1:
        name = f"execute_tool {names[0]}"
        attributes["gen_ai.tool.name"] = names[0]
        attributes["gen_ai.tool.call.id"] = str(tool_calls[0].get("id"))
    return tracer.start_span(name, context=context, attributes=attributes)


@lru_cache(maxsize=64)
def _address(base_url: str) -> tuple[str, int | None]:
    parts = urlsplit(base_url)
    return parts.hostname or "", parts.port
