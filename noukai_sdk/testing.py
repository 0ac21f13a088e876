"""Is an application's answer the same, in whatever order its flow calls complete?

A live service answers concurrent calls in any order, and cuts its streams anywhere. A test that
replays one recording always sees one order: :func:`shuffle_replay` shows the application many.
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
from typing import Any

from .arguments import is_async_callable
from .protocol.call import FlowCall
from .protocol.program import Effect, Program, Sleep
from .replay.cassette_file import CassetteFile, read_cassette
from .replay.pacing import InstantPace, Pace, PaceOf
from .replay.player import ReplayConcurrencyWarning, ReplayOptions
from .replay.recording import Recording
from .replay.redaction import Redactor
from .session.replay_scope import ReplayScope
from .session.scope import active

__all__ = ["ShuffleDifference", "ShuffleReport", "shuffle_replay"]

# How long a part of an answer takes at most: in turns of the event loop, or in a thread in seconds.
_MOST_TURNS = 40
_MOST_SECONDS = 0.008
# How often two events in a row are two network chunks.
_CUT = 0.5


@dataclass(frozen=True)
class ShuffleDifference:
    """The first order in which the answer was another one.

    Attributes:
        run: Which run it was, counted from 1.
        order: What came when: the calls as they completed, streams chunk by chunk.
        answer: What the application answered, None where it raised.
        error: What it raised, None where it answered.
    """

    run: int
    order: tuple[str, ...]
    answer: Any
    error: Exception | None


@dataclass(frozen=True, repr=False)
class ShuffleReport:
    """What :func:`shuffle_replay` found. True where the answer was always the same.

    Attributes:
        runs: How many shuffled runs there were.
        orders: In how many different orders.
        seed: Give it again, and the runs are the same.
        expected: The answer where every call is answered at once, in the order of the calls.
        difference: The first run with another answer, None where there was none.
        alike: Flows with recordings of the same input: which call gets which is chance, in a live
            service too.
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
        found = self.difference
        if found is None:
            return f"<ShuffleReport: the same answer in {self.orders} orders, seed {self.seed}>"
        got = f"raised {found.error!r}" if found.error is not None else repr(found.answer)
        lines = [
            f"<ShuffleReport: another answer in run {found.run}, seed {self.seed}",
            f"  in the order of the calls: {self.expected!r}",
            f"  in the order below:        {got}",
            *(f"  {number:3}. {what}" for number, what in enumerate(found.order, start=1)),
        ]
        if self.alike:
            lines.append(f"  Calls of {', '.join(self.alike)} have the same input: their answers")
            lines.append("  may change places without a fault of the application's.")
        return "\n".join(lines) + ">"


def shuffle_replay(
    app_call: Callable[[], Any],
    cassette: str | os.PathLike[str],
    *,
    runs: int = 50,
    seed: int = 0,
) -> ShuffleReport:
    """Replay a cassette in many orders, and compare the application's answers.

    No request leaves the process, and the gate (``NOUKAI_REPLAY_ENABLED``) is not asked. An async
    application is run in an event loop of its own for each run; there the orders depend on ``seed``
    alone. Calls that a sync application makes from threads of its own are shuffled by waits of some
    milliseconds, so there another run can differ; its calls that come one after the other have one
    order, and only their streams are cut anew.

    Args:
        app_call: Called without arguments for each run; plain or async. What it gives is compared by
            ``==``: give a value, such as a response's JSON, and not the response.
        cassette: The file to replay.
        runs: How many orders to try.
        seed: Chooses the orders.

    Returns:
        The report, to be asserted: it is true where the answer was always the same.

    Raises:
        ValueError: The application gives two answers in one and the same order; or ``runs`` is not a
            number from 1.
        TypeError: ``app_call`` is no function, but what one gave, for example.
        ReplayError: The cassette cannot be read, or does not fit the application.
        Exception: What the application raises where every call is answered at once.

    Example:
        >>> def test_grades_come_in_the_order_of_the_texts():             # doctest: +SKIP
        ...     assert shuffle_replay(lambda: grade_all(texts), "cassettes/grades.jsonl")
    """
    if not callable(app_call):
        raise TypeError(f"app_call must be a function without arguments, not {app_call!r}")
    if runs < 1:
        raise ValueError(f"runs must be a number from 1, not {runs}")
    file = read_cassette(cassette)
    expected = _run(app_call, file, InstantPace).answer()
    if _run(app_call, file, InstantPace).answer() != expected:
        raise ValueError(
            "the application gives two answers in one and the same order: take out what changes by "
            "itself (times, random ids), and give a value that can be compared by =="
        )
    orders: set[tuple[str, ...]] = set()
    difference = None
    for number in range(1, runs + 1):
        outcome = _run(app_call, file, _shuffled(file, f"{seed}/{number}"))
        orders.add(outcome.order)
        if outcome.error is not None or outcome.value != expected:
            difference = ShuffleDifference(number, outcome.order, outcome.value, outcome.error)
            break
    return ShuffleReport(number, len(orders), seed, expected, difference, _alike(file))


@dataclass(frozen=True)
class _Outcome:
    """What one run came to."""

    order: tuple[str, ...]
    value: Any = None
    error: Exception | None = None

    def answer(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


def _run(app_call: Callable[[], Any], file: CassetteFile, pace: PaceOf) -> _Outcome:
    scope = _WatchedScope(
        file.cassette(), ReplayOptions(strict=True, redactor=Redactor(file.redacted), pace=pace)
    )
    try:
        with warnings.catch_warnings():
            # That calls run together is the point here.
            warnings.simplefilter("ignore", ReplayConcurrencyWarning)
            value = _answer(app_call, scope)
        scope.verify()
    except Exception as error:  # noqa: BLE001  # whatever the application raises is its answer
        return _Outcome(tuple(scope.order), error=error)
    finally:
        scope.end()
    return _Outcome(tuple(scope.order), value)


def _answer(app_call: Callable[[], Any], scope: ReplayScope) -> Any:
    if is_async_callable(app_call):
        return _run_loop(_answer_async(app_call, scope))
    with active(scope):
        return app_call()


async def _answer_async(app_call: Callable[[], Any], scope: ReplayScope) -> Any:
    with active(scope):
        return await app_call()


def _run_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
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
    """A replay that notes in which order its answers came."""

    def __init__(self, cassette: Any, options: ReplayOptions) -> None:
        super().__init__(cassette, options)
        self.order: list[str] = []

    def admit(self, call: FlowCall) -> Program[Any]:
        """The replay's program, watched."""
        return self._watched(call, super().admit(call))

    def _watched(self, call: FlowCall, program: Program[Any]) -> Program[Any]:
        name = f"{call.flow.slug}({str(call.request.get('message', ''))[:40]!r})"
        events = told = 0
        item = next(program)
        try:
            while True:
                if not isinstance(item, Effect):
                    events += 1
                elif events > told:
                    self.order.append(f"{name} events {told + 1} to {events}")
                    told = events
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


def _shuffled(file: CassetteFile, seed: str) -> PaceOf:
    # Chance belongs to the recording, not to the order in which the calls come for theirs.
    numbers = {id(recording): number for number, recording in enumerate(file.recordings)}
    return lambda recording: _ShuffledPace(recording, f"{seed}/{numbers[id(recording)]}")


class _ShuffledPace(Pace):
    """Waits of random length, and network chunks that end anywhere."""

    def __init__(self, recording: Recording, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311  # an order to try, and no secret
        self._is_stream = recording.kind == "step"
        self._has_begun = False

    def part(self) -> Program[None]:
        """Wait, where a chunk begins."""
        if self._is_stream and self._has_begun and self._random.random() > _CUT:
            return
        self._has_begun = True
        length = self._random.random()
        if not _in_event_loop():
            yield Sleep(length * _MOST_SECONDS)
            return
        for _ in range(int(length * _MOST_TURNS)):
            yield Sleep(0)


def _alike(file: CassetteFile) -> tuple[str, ...]:
    seen: set[tuple[Any, ...]] = set()
    alike: dict[str, None] = {}
    for recording in file.recordings:
        key = (recording.slug, recording.kind, recording.fingerprint)
        if key in seen:
            alike[str(recording.slug)] = None
        seen.add(key)
    return tuple(alike)
