"""Cassette files: the time of a replayed call, of loading a file, and of recording a live call.

Replayed calls are timed in blocks, each with its best round, as in bench_replay.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

from benchmarks.bench_replay import LIVE, call_async, call_sync, micro, timed, timed_async
from benchmarks.lean_service import served
from benchmarks.measure import PROCESSOR, Row, alternating, best_of_each
from noukai_sdk import AsyncNoukai, Noukai, Scope, trace_scope, trace_scope_sync
from noukai_sdk.masking.values import Masker
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording

LOADED = 10_000
PLAYED = 100
CALLS = 50
FLOW = "acme/spelling/grade-3"


def run() -> list[Row]:
    """Measure replay, loading and recording."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            *playing(Path(folder)),
            *loading(Path(folder)),
            *recording(Path(folder)),
            *masking(),
        ]


def masking() -> list[Row]:
    """Compare masking a text with masking one of ten times its length."""
    text = ("The weather in Paris: 12 degrees, " * 20 + '{"role": "user", "pin": 1}\n') * 70
    masker = Masker(pii=True)
    took = alternating(
        {"once": lambda: masker.text(text), "ten": lambda: masker.text(text * 10)}, rounds=5
    )
    return [Row("masking a text / of a tenth of it", took["ten"] / took["once"], 20.0, "times")]


def playing(folder: Path) -> list[Row]:
    """Compare calls from a file with live ones over a mock transport, sync and async."""
    path = written(folder / "played.jsonl", PLAYED)
    with patch.dict(os.environ, NOUKAI_REPLAY_ENABLED="true"):
        sync = micro(lambda _: play(path), call_sync, [PLAYED])
        as_async = micro(lambda _: play_async(path), call_async, [PLAYED])
    return [
        Row(
            "a call from a file / live over a mock transport, sync",
            sync[PLAYED] / sync[LIVE],
            0.2,
            "times",
        ),
        Row("a call from a file / live, async", as_async[PLAYED] / as_async[LIVE], 0.2, "times"),
    ]


def play(path: Path) -> list[float]:
    """Return the seconds of each block, on the sync client."""
    flow = Noukai(api_key="nk_bench").flow(FLOW)
    with trace_scope_sync(cassette=path):
        return timed(flow, PLAYED)


def play_async(path: Path) -> list[float]:
    """Return the seconds of each block, on the async client."""

    async def run() -> list[float]:
        flow = AsyncNoukai(api_key="nk_bench").flow(FLOW)
        async with trace_scope(cassette=path):
            return await timed_async(flow, PLAYED)

    return asyncio.run(run())


def loading(folder: Path) -> list[Row]:
    """Compare loading a file of many recordings with ``json.loads`` of its lines."""
    path = written(folder / "loaded.jsonl", LOADED)
    lines = path.read_bytes().splitlines()
    took = alternating(
        {
            "json": lambda: [json.loads(line) for line in lines],
            "ours": lambda: read_cassette(path).cassette(),
        },
        rounds=15,
        clock=PROCESSOR,
    )
    return [
        Row(f"loading {LOADED} recordings", took["ours"] * 1e3, None, "ms"),
        Row("loading / json.loads of the lines", took["ours"] / took["json"], 1.5, "times"),
    ]


def recording(folder: Path) -> list[Row]:
    """Compare recorded live calls with plain ones, and measure writing the file."""
    path = folder / "recorded.jsonl"
    with service() as noukai:
        flow = noukai.flow(FLOW)

        def calls() -> None:
            for number in range(CALLS):
                flow.execute(message=f"The cat sat on mat {number}.")

        took = best_of_each(
            {
                "live": within(trace_scope_sync, calls),
                "recorded": within(lambda: unwritten(path), calls),
            },
            rounds=60,
        )
    many = [a_recording(number) for number in range(1_000)]
    writing = min(alternating({"": lambda: write_cassette(path, "s", many)}, rounds=5).values())
    return [
        Row("a live call to a local service", took["live"] / CALLS * 1e6, None, "µs"),
        Row("a recorded call / a live call", took["recorded"] / took["live"], 1.1, "times"),
        Row("writing the file, for each recording", writing / len(many) * 1e6, None, "µs"),
    ]


@contextmanager
def service() -> Iterator[Noukai]:
    """Run a service in another process, and yield a client of it."""
    with served() as url, Noukai(api_key="nk_bench", base_url=url) as noukai:
        yield noukai


@contextmanager
def unwritten(path: Path) -> Iterator[Scope]:
    """Record without writing the file, which is measured separately."""
    with trace_scope_sync(record=path) as scope:
        yield scope
        scope.discard()


def within(
    scope: Callable[[], AbstractContextManager[Scope]], calls: Callable[[], None]
) -> Callable[[], None]:
    """Return a function that makes ``calls`` in a scope."""

    def run() -> None:
        with scope():
            calls()

    return run


def written(path: Path, size: int) -> Path:
    """Write a cassette file of ``size`` recordings."""
    write_cassette(path, "s", [a_recording(number) for number in range(size)])
    return path


def a_recording(number: int) -> Recording:
    """Return one call as the recorder keeps it."""
    result = {
        "status": "completed",
        "result": "The cat sat on the mat. " * 5,
        "flowId": "46e933f6-dd58-541b-9353-cec290ba3f0a",
        "blockCount": 2,
        "executionId": f"fd199941-e321-4353-86bf-{number:012}",
        "sessionId": "f21e712c-a1a1-4ede-abcb-34dea2c2eae0",
    }
    return Recording(
        slug="grade-3",
        kind="execute",
        org="acme",
        project="spelling",
        execution_id=str(result["executionId"]),
        flow_id=str(result["flowId"]),
        request={"message": f"m{number}"},
        started_at=1_795_193_167 + number,
        completed_at=1_795_193_167.5 + number,
        result=result,
        chunks=((0.0, 0), (0.5, 1)),
    )


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:45} {row.value:8.2f} {row.unit:6} {row.limit or ''}")
