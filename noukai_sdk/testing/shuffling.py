"""Test that an application's result does not depend on the order in which its flow calls complete.

A live service completes concurrent calls in any order, and cuts its streams anywhere. A test that
replays one recording always sees one order; :func:`shuffle_replay` tries many.
"""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from ..arguments import is_async_callable
from ..protocol.call import FlowCall
from ..protocol.program import CHECKPOINT, Effect, Program, Sleep
from ..replay.boundary_recordings import BoundaryRecording
from ..replay.cassette import Cassette
from ..replay.cassette_file import CassetteFile, read_cassette
from ..replay.pacing import InstantPace, Pace, PaceOf
from ..replay.player import ReplayConcurrencyWarning, ReplayOptions
from ..replay.recording import Recording
from ..replay.redaction import Redactor
from ..session.replay_scope import ReplayScope
from ..session.scope import active

__all__ = ["ShuffleDifference", "ShuffleReport", "shuffle_replay"]

T = TypeVar("T")

# How long a part of a response takes at most: in turns of the event loop, or in seconds in a thread.
_MOST_TURNS = 40
_MOST_SECONDS = 0.008
# The probability that two successive events are in different network chunks.
_CUT = 0.5


@dataclass(frozen=True)
class ShuffleDifference:
    """The first order that led to another result.

    Attributes:
        run: The number of the run, counted from 1.
        order: The calls in the order in which they completed, streams chunk by chunk.
        answer: The result of the application, None if it raised.
        error: The exception that it raised, None if it returned.
    """

    run: int
    order: tuple[str, ...]
    answer: Any
    error: Exception | None


@dataclass(frozen=True, repr=False)
class ShuffleReport:
    """The report of :func:`shuffle_replay`. True if the result was always the same.

    Attributes:
        runs: How many shuffled runs there were.
        orders: How many different orders they had.
        seed: The seed; pass it again to repeat the runs.
        expected: The result when every call completes at once, in the order of the calls.
        difference: The first run with another result, None if there was none.
        alike: Flows that have several recordings of the same input. Which call gets which of them is
            a matter of chance, in a live service too.
    """

    runs: int
    orders: int
    seed: int
    expected: Any
    difference: ShuffleDifference | None
    alike: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.difference is None

    def __repr__(self) -> str:
        difference = self.difference
        if difference is None:
            return f"<ShuffleReport: the same answer in {self.orders} orders, seed {self.seed}>"
        error, answer = difference.error, difference.answer
        lines = [
            f"<ShuffleReport: another answer in run {difference.run}, seed {self.seed}",
            f"  in the order of the calls: {self.expected!r}",
            f"  in the order below:        {f'raised {error!r}' if error else repr(answer)}",
            *(f"  {number:3}. {event}" for number, event in enumerate(difference.order, start=1)),
        ]
        if self.alike:
            lines.append(f"  Calls of {', '.join(self.alike)} have the same input: their answers")
            lines.append("  may be swapped without a fault of the application.")
        return "\n".join(lines) + ">"


def shuffle_replay(
    app_call: Callable[[], Any],
    cassette: str | os.PathLike[str],
    *,
    runs: int = 50,
    seed: int = 0,
) -> ShuffleReport:
    """Replay a cassette in many orders, and compare the application's results.

    No request leaves the process, and ``NOUKAI_REPLAY_ENABLED`` is not needed. An async application
    runs in a new event loop for each run; its orders depend on ``seed`` alone. The calls that a sync
    application makes from its own threads are shuffled by waits of some milliseconds, so another run
    may have other orders. The sequential calls of a sync application have one order; only their
    streams are cut at other places.

    Args:
        app_call: Called without arguments for each run; plain or async. Its results are compared by
            ``==``: return a value, such as a response's JSON, and not the response.
        cassette: The file to replay.
        runs: How many orders to try.
        seed: Chooses the orders.

    Returns:
        The report. Assert it: it is true if the result was always the same.

    Raises:
        ValueError: The application returns two results in the same order; or ``runs`` is less than 1.
        TypeError: ``app_call`` is not a function (but the result of one, for example).
        ReplayError: The cassette cannot be read, or does not fit the application.
        Exception: The application raises it when every call completes at once.

    Example:
        >>> def test_grades_come_in_the_order_of_the_texts():             # doctest: +SKIP
        ...     assert shuffle_replay(lambda: grade_all(texts), "cassettes/grades.jsonl")
    """
    if not callable(app_call):
        raise TypeError(f"app_call must be a function without arguments, not {app_call!r}")
    if runs < 1:
        raise ValueError(f"runs must be >= 1, not {runs}")
    file = read_cassette(cassette)
    expected = _run(app_call, file, InstantPace).result()
    if _run(app_call, file, InstantPace).result() != expected:
        raise ValueError(
            "the application returns two results in the same order: leave out values that always change "
            "(times, random ids), and return a value that can be compared by =="
        )
    orders: set[tuple[str, ...]] = set()
    difference = None
    # The pace belongs to the recording, not to the order in which calls claim it.
    numbers = {id(recording): number for number, recording in enumerate(file.recordings)}
    for run in range(1, runs + 1):

        def pace(recording: Recording, run: int = run) -> Pace:
            place: object = numbers.get(id(recording))
            if isinstance(recording, BoundaryRecording):
                place = f"{recording.slug} {recording.boundary.position}"
            return _ShuffledPace(recording, f"{seed}/{run}/{place}")

        outcome = _run(app_call, file, pace)
        orders.add(outcome.order)
        if outcome.error is not None or outcome.value != expected:
            difference = ShuffleDifference(run, outcome.order, outcome.value, outcome.error)
            break
    inputs: set[tuple[Any, ...]] = set()
    alike: dict[str, None] = {}
    for recording in file.recordings:
        key = (recording.slug, recording.kind, recording.fingerprint)
        if key in inputs:
            alike[str(recording.slug)] = None
        inputs.add(key)
    return ShuffleReport(run, len(orders), seed, expected, difference, tuple(alike))


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one run."""

    order: tuple[str, ...]
    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


def _run(app_call: Callable[[], Any], file: CassetteFile, pace: PaceOf) -> _Outcome:
    redactor = Redactor(file.redacted, pii=file.redacted_pii)
    options = ReplayOptions(lost="refuse", redactor=redactor, pace=pace)
    scope = _WatchedScope(file.cassette(), options)

    async def call_async() -> Any:
        with active(scope):
            return await app_call()

    try:
        with warnings.catch_warnings():
            # Concurrent calls are expected here.
            warnings.simplefilter("ignore", ReplayConcurrencyWarning)
            if is_async_callable(app_call):
                value = run_in_loop(call_async())
            else:
                with active(scope):
                    value = app_call()
        scope.verify()
    except Exception as error:  # noqa: BLE001  # an exception is a result of the application too
        return _Outcome(tuple(scope.order), error=error)
    finally:
        scope.end()
    return _Outcome(tuple(scope.order), value)


def run_in_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop, in a thread if one runs here."""
    if not _in_event_loop():
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1, thread_name_prefix="noukai-shuffle") as thread:
        return thread.submit(copy_context().run, asyncio.run, coroutine).result()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _WatchedScope(ReplayScope):
    """A replay that notes the order in which its calls complete."""

    def __init__(self, cassette: Cassette, options: ReplayOptions) -> None:
        super().__init__(cassette, options)
        self.order: list[str] = []

    def admit(self, call: FlowCall) -> Program[Any]:
        """Return the replay's program, watched."""
        return self._watched(call, super().admit(call))

    def _watched(self, call: FlowCall, program: Program[Any]) -> Program[Any]:
        name = f"{call.flow.slug}({str(call.request.get('message', ''))[:40]!r})"
        events = noted = 0
        item = next(program)
        try:
            while True:
                if not isinstance(item, Effect):
                    events += 1
                elif events > noted:
                    self.order.append(f"{name} events {noted + 1} to {events}")
                    noted = events
                try:
                    outcome = yield item
                except Exception as error:  # noqa: BLE001  # thrown in for the program, not for us
                    item = program.throw(error)
                else:
                    item = program.send(outcome)
        except StopIteration as end:
            self.order.append(name)
            return end.value
        finally:
            program.close()


class _ShuffledPace(Pace):
    """Waits of random length, and network chunks that end anywhere."""

    def __init__(self, recording: Recording, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311  # an order to try, not a secret
        self._is_stream = recording.kind == "step"
        self._has_begun = False

    def part(self) -> Program[None]:
        """Wait if a chunk begins here."""
        if self._is_stream and self._has_begun and self._random.random() > _CUT:
            return
        self._has_begun = True
        length = self._random.random()
        if not _in_event_loop():
            yield Sleep(length * _MOST_SECONDS)
            return
        for _ in range(int(length * _MOST_TURNS)):
            yield CHECKPOINT
