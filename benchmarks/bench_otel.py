"""Measure what OpenTelemetry adds to a call: nothing loaded, loaded without a provider, and with one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx

from benchmarks.bench_client import CALL, MOCK
from benchmarks.measure import PROCESSOR, Row, best_of_each
from noukai_sdk import Noukai
from noukai_sdk.options import ToolOptions, make_call
from noukai_sdk.session.scope import admit

CALLS = 500
ROUNDS = 200


def run() -> Iterator[Row]:
    """Yield microseconds a call, from a process of its own: OpenTelemetry cannot be unloaded."""
    command = [sys.executable, "-m", "benchmarks.bench_otel"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    yield from (Row(*json.loads(line)) for line in done.stdout.splitlines())


def measured() -> Iterator[Row]:
    client = Noukai(api_key="nk_bench", env="dev", http_client=httpx.Client(transport=MOCK))
    flow = client.flow("acme/spelling/grade-3")
    call = make_call("execute", "execute", flow._ref, client._transport, ToolOptions, CALL)
    off = call._replace(service=call.service._replace(spans=None))

    def admitted(call: object) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                admit(call)  # type: ignore[arg-type]  # one of the two above

        return run

    before = _micro({"off": admitted(off), "on": admitted(call)}, CALLS)
    import opentelemetry.trace

    after = _micro({"off": admitted(off), "on": admitted(call)}, CALLS)
    yield Row("a call, OpenTelemetry not loaded", before["on"] - before["off"], 0.5, "µs more")
    yield Row("a call, loaded without a provider", after["on"] - after["off"], 2, "µs more")

    def execute(flow: object) -> Callable[[], None]:
        def run() -> None:
            for _ in range(20):
                flow.execute(message="The cat sat.")  # type: ignore[attr-defined]  # a Flow

        return run

    from opentelemetry.sdk.trace import TracerProvider

    opentelemetry.trace.set_tracer_provider(TracerProvider())
    http_client = httpx.Client(transport=MOCK)
    plain = Noukai(api_key="nk_bench", env="dev", http_client=http_client, otel=False)
    with_span = _micro({"off": execute(plain.flow("a/b/c")), "on": execute(flow)}, 20)
    yield Row("a call with its span", with_span["on"] - with_span["off"], None, "µs more")
    yield Row("a call with its span / without", with_span["on"] / with_span["off"], None, "times")


def _micro(functions: dict[str, Callable[[], None]], calls: int) -> dict[str, float]:
    best = best_of_each(functions, ROUNDS, PROCESSOR)  # type: ignore[arg-type]  # they return None
    return {name: seconds / calls * 1e6 for name, seconds in best.items()}


if __name__ == "__main__":
    for row in measured():
        print(json.dumps(row))
