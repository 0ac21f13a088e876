"""OpenTelemetry spans of runs, steps and models. Without a tracer provider, nothing is made or loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from ..llm.chat import ChatRequest

if TYPE_CHECKING:
    from typing_extensions import Self

    from ...models.events import TokenBreakdown
    from .step_context import StepContext

# Where the conventions have another name for a provider than we.
_PROVIDERS = {"gemini": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"}


class EngineSpan:
    """A span of the engine, current in a block. Without a provider a context manager that does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def used(self, tokens: TokenBreakdown | None, cost_usd: str | None = None) -> None:
        """Note what models have used."""
        if self._span is None:
            return
        from ...telemetry import usage_attributes

        self._span.set_attributes(usage_attributes(tokens))
        if cost_usd is not None:
            self._span.set_attribute("noukai.cost_usd", float(cost_usd))

    def failed(self, code: str, message: str) -> None:
        """Note that the operation has failed, without an exception."""
        if self._span is not None:
            from ...telemetry import set_error

            set_error(self._span, code, message)


_OFF = EngineSpan()


def has_provider() -> bool:
    """Return whether the program has set a tracer provider of OpenTelemetry."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if not hasattr(api, "get_tracer_provider"):  # another thread may be importing it
        return False
    return not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)


def run_span(execution_id: str) -> AbstractContextManager[EngineSpan]:
    """Return the span of a run of the executor. A workflow has no address, as flows have."""
    if not has_provider():
        return _OFF
    attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": "noukai",
        "noukai.execution.id": execution_id,
    }
    return _started("invoke_workflow", attributes)


def step_span(context: StepContext) -> AbstractContextManager[EngineSpan]:
    """Return the span of one attempt at a step."""
    return _step_span(context) if has_provider() else _OFF


@contextmanager
def _step_span(context: StepContext) -> Iterator[EngineSpan]:
    from ...telemetry import step_attributes

    node = context.node
    attributes = step_attributes(node.id, node.name, context.step_index)
    attributes["noukai.step.kind"] = type(node.work).__name__.lower()
    with _started(f"step {node.id}", attributes) as span:
        yield span
        span.used(context.usage.tokens, context.usage.cost_usd)


def chat_span(model: str, request: ChatRequest) -> AbstractContextManager[EngineSpan]:
    """Return the span of one request to a model."""
    if not has_provider():
        return _OFF
    provider, _, name = model.partition(":")
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
        "gen_ai.request.model": name or provider,
    }
    for setting in ("temperature", "max_tokens", "top_p", "seed"):
        if getattr(request, setting) is not None:
            attributes[f"gen_ai.request.{setting}"] = getattr(request, setting)
    return _started(f"chat {name or provider}", attributes, is_client=True)


@contextmanager
def _started(
    name: str, attributes: dict[str, Any], *, is_client: bool = False
) -> Iterator[EngineSpan]:
    """Start a span that is current in a block. A pause for tools is not an error."""
    from ...telemetry import SpanKind, current_tracer, inside_span
    from .step_context import Paused

    tracer = current_tracer()
    if tracer is None:  # since the callers have looked
        yield EngineSpan()
        return
    kind = SpanKind.CLIENT if is_client else SpanKind.INTERNAL
    span = tracer.start_span(name, kind=kind, attributes=attributes)
    with inside_span(span, no_errors=(Paused,)):
        yield EngineSpan(span)
