"""Measure what carrying the scope adds to ``ThreadPoolExecutor.submit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from benchmarks.measure import Row, alternating
from noukai_sdk import carry_threads, trace_scope_sync

TASKS = 200
ROUNDS = 301


def run() -> Iterator[Row]:
    """Yield the ratios of a patched ``submit`` to a bare one, with and without a scope."""
    with ThreadPoolExecutor(1) as pool:
        bare = ThreadPoolExecutor.submit
        carry_threads()

        def submit(method: Callable[..., object]) -> None:
            wait([method(pool, int) for _ in range(TASKS)])  # type: ignore[misc]  # the method is unbound

        def submit_in_scope() -> None:
            with trace_scope_sync():
                submit(ThreadPoolExecutor.submit)

        medians = alternating(
            {
                "bare": lambda: submit(bare),
                "patched": lambda: submit(ThreadPoolExecutor.submit),
                "in a scope": submit_in_scope,
            },
            ROUNDS,
        )
        carry_threads(False)
    for name in ("patched", "in a scope"):
        yield Row(f"submit {name} / bare submit", medians[name] / medians["bare"], 1.3, "times")


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:45} {row.value:8.2f} {row.unit:6} {row.limit or ''}")
