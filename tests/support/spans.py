"""The spans that a test makes: OpenTelemetry's SDK, with an exporter in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Spans:
    """The spans that have ended, in the order of their ends."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.start = self.provider.get_tracer("test").start_as_current_span

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans whose name begins like this."""
        return [span for span in self.ended if span.name.startswith(name)]

    def root_of(self, span: ReadableSpan) -> ReadableSpan | None:
        """Return the span at the top of the trace, None if one on the way there has not ended."""
        by_id = {each.context.span_id: each for each in self.ended}
        above: ReadableSpan | None = span
        while above is not None and above.parent is not None:
            above = by_id.get(above.parent.span_id)
        return above

    @property
    def calls(self) -> list[ReadableSpan]:
        return self.named("invoke_workflow")

    @property
    def call(self) -> ReadableSpan:
        (span,) = self.calls
        return span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: Any) -> int:
    return int(span.get_span_context().span_id)


@contextmanager
def provider_set(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Set a provider for a while. OpenTelemetry lets a program set one only once."""
    spans = Spans()
    with monkeypatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
        yield spans
