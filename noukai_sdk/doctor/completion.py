"""Let overlapping calls complete in other orders, and note the lines that see in which."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..protocol.program import CHECKPOINT, Program, Sleep
from ..replay.pacing import Pace, PaceOf
from ..replay.recording import Recording
from .sites import reading_site
from .source_reads import Sources

# The variant of the recorded order.
AS_RECORDED = -1

# How long each rank in the order takes: turns of the event loop, or seconds in a thread.
_TURNS = 12
_MOST_TURNS = 600
_SECONDS = 0.02
_MOST_SECONDS = 0.6
_GAP = 0.25


def note_completions(sources: Sources) -> None:
    """Note the lines that ask which call comes first, from now on."""

    def is_held(name: str) -> bool:
        """Note who asks; return whether this line gets the order of the calls."""
        site = reading_site()
        if site is None or not site.direct or site.owner != "user":
            return False
        read = sources.read("completion", name, site)
        return read is not None and read.varied and sources.plan.keys is not None

    def asking(module: Any, name: str, held: Callable[..., Any] | None) -> None:
        original = getattr(module, name)
        shown = "Queue.get" if name == "get" else name

        def ask(*args: Any, **kwargs: Any) -> Any:
            condition = kwargs.get("return_when", args[2] if len(args) > 2 else "ALL_COMPLETED")
            if name == "wait" and condition == "ALL_COMPLETED":
                return original(*args, **kwargs)
            if is_held(shown) and held is not None:
                return held(original, *args, **kwargs)
            return original(*args, **kwargs)

        ask.__name__ = ask.__qualname__ = name
        setattr(module, name, ask)

    asking(asyncio, "as_completed", _tasks_in_order)
    asking(concurrent.futures, "as_completed", _futures_in_order)
    asking(asyncio, "wait", _wait_for_all)
    asking(concurrent.futures, "wait", _wait_for_all)
    asking(asyncio.Queue, "get", None)
    asking(queue.Queue, "get", None)


class _tasks_in_order:  # noqa: N801  # in place of a function
    """Returns tasks in the order in which they are given."""

    def __init__(self, _: Any, fs: Iterable[Any], **__: Any) -> None:
        self._tasks = [asyncio.ensure_future(each) for each in fs]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tasks)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for task in self._tasks:
            await asyncio.wait([task])
            yield task


def _futures_in_order(_: Any, fs: Iterable[Any], *__: Any, **___: Any) -> Iterator[Any]:
    for future in list(fs):
        future.exception()  # waits
        yield future


def _wait_for_all(original: Any, fs: Iterable[Any], *_: Any, **__: Any) -> Any:
    return original(fs)


def reordered(recordings: Sequence[Recording], variant: int) -> list[Recording]:
    """Return the recordings as if their calls had taken other times.

    A call that began after the end of another still does. Overlapping calls complete in another order.
    """
    timed = [
        each for each in recordings if each.started_at is not None and each.completed_at is not None
    ]
    timed.sort(key=lambda each: each.started_at or 0.0)
    ranks = _ranks(timed, variant)
    lengths = {key: (rank + 1) * _GAP for key, rank in ranks.items()}
    ends: list[tuple[float, float]] = []  # recorded and new, of the calls before
    moved: dict[int, Recording] = {}
    for each in timed:
        assert each.started_at is not None  # of those that are timed
        assert each.completed_at is not None
        start = each.started_at
        before = [(then, now) for then, now in ends if then <= start]
        if before:
            then, now = max(before, key=lambda pair: pair[1])
            start = max(now, now + (each.started_at - then))
        length = lengths[id(each)]
        factor = length / each.seconds if each.seconds else 1.0
        chunks = tuple((at * factor, count) for at, count in each.chunks)
        moved[id(each)] = replace(
            each, started_at=start, completed_at=start + length, chunks=chunks
        )
        ends.append((each.completed_at, start + length))
    return [moved.get(id(each), each) for each in recordings]


def ranked_pace(recordings: Sequence[Recording], variant: int) -> PaceOf:
    """Return paces by which calls that begin together complete in another order."""
    ranks = _ranks(recordings, variant)
    return lambda recording: _RankedPace(ranks.get(id(recording), 0), recording)


def _ranks(recordings: Sequence[Recording], variant: int) -> dict[int, int]:
    """Return the place of each recording in another order, by its id()."""
    # The first variant turns each pair around.
    latest = sorted(recordings, key=lambda each: -(each.completed_at or 0.0))
    if variant > 0:
        random.Random(variant).shuffle(latest)  # noqa: S311  # an order to try, not a secret
    return {id(each): rank for rank, each in enumerate(latest)}


class _RankedPace(Pace):
    """Waits the longer, the higher the rank."""

    def __init__(self, rank: int, recording: Recording) -> None:
        self._rank = rank
        self._is_stream = recording.kind == "step"

    def part(self) -> Program[None]:
        """Wait."""
        rank = min(self._rank, 3) if self._is_stream else self._rank
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            yield Sleep(min(rank * _SECONDS, _MOST_SECONDS))
            return
        for _ in range(min(rank * _TURNS, _MOST_TURNS)):
            yield CHECKPOINT
