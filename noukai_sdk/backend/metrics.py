"""Metrics for Prometheus. No label has values that a client can choose."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .model_usage import Stats
from .request_observer import FinishedRequest

if TYPE_CHECKING:
    from .connections import Connections

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts requests, and renders all metrics of the process.

    Attributes:
        connections: The server's connections; None if this app does not know its server.
    """

    def __init__(self, stats: Stats) -> None:
        self.connections: Connections | None = None
        self._stats = stats
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(_BUCKETS) + 1))
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def observe(self, request: FinishedRequest) -> None:
        """Count a request."""
        method = request.method if request.method in _METHODS else "OTHER"
        self._requests[method, request.route, str(request.status)] += 1
        self._buckets[request.route][bisect_left(_BUCKETS, request.seconds)] += 1
        self._seconds[request.route] += request.seconds

    def render(self, in_progress: Mapping[str, int], *, is_up: bool, outages: int) -> bytes:
        """Return the metrics as text.

        Args:
            in_progress: The number of runs in the database by status.
            is_up: Whether the database can be used.
            outages: How often it could not be written, for a time.
        """
        # Only who scrapes needs the library.
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.registry import Collector

        families = list(self._families(in_progress, is_up=is_up, outages=outages))

        class AllFamilies(Collector):
            def collect(self) -> list[Any]:
                return families

        registry = CollectorRegistry(auto_describe=False)
        registry.register(AllFamilies())
        return generate_latest(registry)

    def _families(
        self, in_progress: Mapping[str, int], *, is_up: bool, outages: int
    ) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "noukai_http_requests", "Requests.", labels=("method", "route", "status")
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        seconds = HistogramMetricFamily(
            "noukai_http_request_seconds", "From header to end of response.", labels=("route",)
        )
        bounds = [*map(str, _BUCKETS), "+Inf"]
        for route, counts in self._buckets.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            seconds.add_metric((route,), buckets, self._seconds[route])
        yield seconds
        stats = self._stats
        yield _counter("runs_started", "Runs begun here.", {(): stats.executions})
        yield _counter("runs_ended", "Runs ended here.", stats.runs, "status")
        yield _counter("steps", "Steps ended here.", stats.steps, "status")
        yield _counter("model_calls", "Turns asked of models.", {(): stats.model_calls})
        yield _counter(
            "tokens", "Tokens of models, as far as they report them.", stats.tokens, "kind"
        )
        yield _counter("database_outages", "Times it could not be written.", {(): outages})
        yield _gauge("database_up", "1 if the database can be used.", {(): int(is_up)})
        yield _gauge("runs_in_progress", "Runs of all processes.", in_progress, "status")
        if self.connections is not None:
            guard = self.connections
            yield _gauge("http_open_connections", "Open connections.", {(): guard.open})
            yield _counter(
                "http_connections_dropped", "Idle ones closed for others.", {(): guard.dropped}
            )
            yield _counter("http_connections_refused", "Refused ones.", {(): guard.refused})


def _counter(name: str, help_: str, values: Mapping[Any, float], *labels: str) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"noukai_{name}", help_, labels=labels), values)


def _gauge(name: str, help_: str, values: Mapping[Any, float], *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"noukai_{name}", help_, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Any:
    for label, value in values.items():
        family.add_metric((label,) if isinstance(label, str) else label, value)
    return family
