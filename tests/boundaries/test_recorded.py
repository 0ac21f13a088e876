"""Recorded functions in cassette files: what a capture keeps, a replay serves, and nothing runs again."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import noukai_sdk
from noukai_sdk import (
    ContextThreadPoolExecutor,
    LostScopeWarning,
    RecordedValueError,
    ReplayLeftoverError,
    ReplayMissError,
    recorded,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.replay.cassette_file import read_cassette

RUNS: list[str] = []
"""The functions whose bodies ran."""


@dataclass
class Row:
    id: int
    level: str


@recorded
def load(level: str, connection: object = None) -> Row:
    RUNS.append("load")
    if level == "none":
        raise LookupError(f"no rubric of level {level}")
    return Row(1, level)


@recorded
async def fetch(number: int, delay: float = 0.0) -> dict[str, int]:
    RUNS.append("fetch")
    await asyncio.sleep(delay)
    return {"number": number}


@recorded
def rows(count: int) -> Iterator[Row]:
    RUNS.append("rows")
    for number in range(count):
        yield Row(number, "b1")
    if count == 3:
        raise LookupError("the third row is broken")


@recorded
async def events(count: int) -> AsyncIterator[Row]:
    RUNS.append("events")
    for number in range(count):
        await asyncio.sleep(0)
        yield Row(number, "b1")
    if count == 3:
        raise LookupError("the third row is broken")


class Shelf:
    @recorded
    def book(self, isbn: str) -> tuple[str, int]:
        RUNS.append("book")
        return isbn, 7

    @recorded
    @classmethod
    def open(cls, name: str) -> str:
        RUNS.append("open")
        return f"{cls.__name__} {name}"

    @staticmethod
    @recorded
    def count(*names: str, **limits: int) -> int:
        RUNS.append("count")
        return len(names) + len(limits)


@pytest.fixture(autouse=True)
def _replays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    RUNS.clear()


def replayed(path: Path, program: Callable[[], Any], times: int = 1) -> Any:
    """Record a program, replay it, and return what it returned; bodies run only once."""

    def run(**options: Any) -> tuple[Any, Any]:
        if inspect.iscoroutinefunction(program):

            async def inside() -> tuple[Any, Any]:
                async with trace_scope(**options) as scope:
                    return await program(), scope

            return asyncio.run(inside())
        with trace_scope_sync(**options) as scope:
            return program(), scope

    result, _ = run(record=path)
    assert RUNS
    for _ in range(times):
        RUNS.clear()
        again, scope = run(cassette=path)
        assert again == result
        assert RUNS == []
        assert scope.report.clean, scope.report.lines()
    return result


def boundaries(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "boundary" in line]


def test_recorded_functions_of_every_kind_replay_without_running(tmp_path: Path) -> None:
    async def program() -> list[Any]:
        shelf = Shelf()
        seen: list[Any] = [load("b1", object()), load("b2"), await fetch(1)]
        seen += [list(rows(2)), [row async for row in events(2)]]
        seen += [shelf.book("0441013597"), Shelf.open("top"), Shelf.count("a", "b", most=3)]
        with pytest.raises(LookupError) as no_rubric:
            load("none")
        with pytest.raises(LookupError) as broken:
            seen += list(rows(3))
        with pytest.raises(LookupError) as broken_later:
            seen += [row async for row in events(3)]
        seen += [str(each.value) for each in (no_rubric, broken, broken_later)]
        seen.append(recorded.value("rate", lambda: RUNS.append("rate") or 1.25))
        seen.append(recorded.value("row", Row, 7, "b7"))
        seen += [noukai_sdk.now(), noukai_sdk.uuid4(), noukai_sdk.random()]
        return seen

    path = tmp_path / "all.json"
    seen = replayed(path, program, times=2)
    assert seen[0] == Row(1, "b1")
    assert "the third row is broken" in seen
    kept = boundaries(path)
    assert [each["boundary"] for each in kept[:3]] == ["test_recorded.load"] * 2 + [
        "test_recorded.fetch"
    ]
    # A connection is no data: its type counts.
    assert kept[0]["arguments"] == {"level": "b1", "connection": {"$object": "object"}}
    assert kept[0]["site"].startswith("test_recorded.py:")
    (book,) = (each for each in kept if each["boundary"] == "test_recorded.Shelf.book")
    assert book["arguments"] == {"isbn": "0441013597"}


def test_partials_and_callable_objects_are_recorded(tmp_path: Path) -> None:
    class Doubler:
        def __call__(self, number: int) -> Row:
            RUNS.append("doubler")
            return Row(2 * number, "b1")

    first = recorded(partial(load.__wrapped__, "b1"))  # type: ignore[attr-defined]  # of the wrapper
    double = recorded(Doubler())
    path = tmp_path / "c.json"
    assert replayed(path, lambda: [first(), double(4)]) == [Row(1, "b1"), Row(8, "b1")]
    names = [each["boundary"] for each in boundaries(path)]
    assert names == ["test_recorded.load", "test_recorded.Doubler"]


def test_recorded_keeps_signature_and_kind() -> None:
    assert inspect.signature(load) == inspect.signature(load.__wrapped__)  # type: ignore[attr-defined]  # set by functools.wraps
    assert inspect.iscoroutinefunction(fetch)
    assert inspect.isgeneratorfunction(rows)
    assert inspect.isasyncgenfunction(events)
    assert load.__name__ == "load"
    assert load.__doc__ is None


async def as_completed() -> list[int]:
    waits = [asyncio.ensure_future(fetch(n, delay)) for n, delay in enumerate((0.06, 0.02, 0.04))]
    return [(await each)["number"] for each in asyncio.as_completed(waits)]


@pytest.mark.parametrize("pattern", ["gather", "as_completed", "hedge", "timeout", "pool"])
def test_concurrent_calls_replay_as_recorded(tmp_path: Path, pattern: str) -> None:
    async def gather() -> Any:
        order: list[int] = []

        async def one(number: int, delay: float) -> None:
            order.append((await fetch(number, delay))["number"])

        await asyncio.gather(one(0, 0.06), one(1, 0.02), one(2, 0.04))
        return order

    async def hedge() -> Any:
        tasks = [asyncio.ensure_future(fetch(n, delay)) for n, delay in ((1, 30.0), (2, 0.02))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:
            each.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return [each.result() for each in done]

    async def timeout() -> Any:
        try:
            await asyncio.wait_for(fetch(1, 30.0), 0.05)
        except asyncio.TimeoutError:
            return await fetch(2)
        return None

    def pool() -> Any:
        # Distinct arguments: the order in which the threads come does not matter.
        with ContextThreadPoolExecutor(4) as executor:
            return list(executor.map(load, [f"level {number}" for number in range(8)]))

    programs = {
        "gather": gather,
        "as_completed": as_completed,
        "hedge": hedge,
        "timeout": timeout,
        "pool": pool,
    }
    result = replayed(tmp_path / "c.json", programs[pattern], times=5)
    if pattern in ("gather", "as_completed"):
        assert result == [1, 2, 0]


def test_generator_left_early_replays_as_far_and_refuses_to_read_on(tmp_path: Path) -> None:
    path = tmp_path / "left.json"

    def first() -> Any:
        return next(rows(2))

    replayed(path, first)
    with (
        pytest.raises(ReplayMissError, match="left after 1 items"),
        trace_scope_sync(cassette=path),
    ):
        list(rows(2))
    assert RUNS == []


def test_generator_that_catches_what_is_thrown_into_it_replays(tmp_path: Path) -> None:
    @recorded
    def stubborn() -> Iterator[int]:
        RUNS.append("stubborn")
        for number in range(3):
            try:
                yield number
            except KeyError:  # noqa: PERF203
                continue

    def program() -> Any:
        steps = stubborn()
        assert isinstance(steps, type(x for x in ()))
        seen = [next(steps), steps.throw(KeyError("a"))]
        with pytest.raises(ValueError, match="b"):
            steps.throw(ValueError("b"))
        return seen

    assert replayed(tmp_path / "thrown.json", program) == [0, 1]


def test_miss_drift_and_leftover_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with trace_scope_sync(record=path):
        load("b1")
        load("b2")
    with (
        pytest.raises(ReplayLeftoverError, match=r"test_recorded\.load.* no longer decorated"),
        trace_scope_sync(cassette=path),
    ):
        load("b1")
    with trace_scope_sync(cassette=path) as scope:
        assert [load("b1").level, load("c1").level] == ["b1", "b2"]
    (entry,) = scope.report.drift
    assert (entry.slug, entry.kind, entry.position) == ("test_recorded.load", "recorded", 1)
    assert entry.changes[0].path == "arguments.level"
    assert entry.call_site is not None
    assert entry.call_site.file == __file__
    with (
        pytest.raises(ReplayMissError, match="calls this function more often") as miss,
        trace_scope_sync(cassette=path),
    ):
        [load(level) for level in ("b1", "b2", "c1")]
    assert (miss.value.kind, miss.value.recorded) == ("recorded", 2)
    with pytest.raises(ReplayMissError, match="had another name"), trace_scope_sync(cassette=path):
        list(rows(1))
    for renamed, args in (("fetch_level", ["b1"]), ("elsewhere.load", ["c1"])):
        with pytest.raises(ReplayMissError) as miss, trace_scope_sync(cassette=path):
            recorded(name=renamed)(load.__wrapped__)(*args)  # type: ignore[attr-defined]  # set by functools.wraps
        assert 'declare it with name="test_recorded.load"' in str(miss.value)
    strict = pytest.raises(ReplayMissError, match="inputs are strict")
    with strict, trace_scope_sync(cassette=path, strict_inputs=True):
        load("c1")
    assert RUNS == ["load", "load"]


def test_cassette_of_before_the_decorator_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    with trace_scope_sync(record=path):
        pass
    assert json.loads(path.read_text())["noukai_cassette"] == 1
    told = pytest.raises(ReplayMissError, match="recorded before a function was decorated")
    with told, trace_scope_sync(cassette=path):
        load("b1")
    assert RUNS == []


def test_outside_of_scopes_nothing_is_kept(tmp_path: Path) -> None:
    assert load("b1") == Row(1, "b1")
    with trace_scope_sync(capture=False):
        assert list(rows(2)) == [Row(0, "b1"), Row(1, "b1")]
    path = tmp_path / "c.json"
    with trace_scope_sync(record=path), noukai_sdk.detached():
        load("b1")
    assert boundaries(path) == []


def test_function_that_lost_the_scope_of_a_replay_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with trace_scope_sync(record=path):
        pass
    with trace_scope_sync(cassette=path) as scope:
        thread = Thread(target=lambda: warned.append(catch(load, "b1")))
        warned: list[Any] = []
        thread.start()
        thread.join()
    assert isinstance(warned[0], LostScopeWarning)
    (entry,) = scope.report.lost
    assert (entry.slug, entry.kind) == ("test_recorded.load", "recorded")


def catch(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except Warning as warning:
        return warning


def test_value_that_cannot_be_kept_is_an_error_at_capture(tmp_path: Path) -> None:
    @recorded(name="socket")
    def connect() -> Any:
        return {"sockets": [object()]}

    told = pytest.raises(RecordedValueError, match="socket")
    with told as error, trace_scope_sync(record=tmp_path / "c.json"):
        connect()
    assert error.value.place == "result['sockets'][0]"
    (kept,) = boundaries(tmp_path / "c.json")
    assert kept["unavailable"].startswith("its result['sockets'][0] is of the type object")


def test_key_chooses_what_counts(tmp_path: Path) -> None:
    @recorded(name="by names", key=["user"])
    def by_names(user: str, request_id: str = "0") -> str:
        return user

    @recorded(name="by function", key=lambda user, request_id: user.lower())
    def by_function(user: str, request_id: str) -> str:
        return user

    path = tmp_path / "c.json"
    with trace_scope_sync(record=path):
        by_names("ada", "1")
        by_function("Ada", "1")
    assert [each["arguments"] for each in boundaries(path)] == [{"user": "ada"}, "ada"]
    with trace_scope_sync(cassette=path) as scope:
        by_names("ada", "2")
        by_function("ADA", "2")
    assert scope.report.drift == []
    with pytest.raises(ValueError, match="has no argument 'customer'"):
        recorded(key=["customer"])(by_names)


def test_redact_removes_secrets_from_files_and_comparisons(tmp_path: Path) -> None:
    @recorded(name="default")
    def default(password: str) -> dict[str, str]:
        return {"api_key": "k-1234", "note": "Bearer abcdef0123456789abcdef"}

    @recorded(name="paths", redact=["result.email"])
    def paths() -> dict[str, str]:
        return {"email": "ada@example.org"}

    @recorded(name="hook", redact=lambda stored: {**stored, "result": "?"})
    def hook() -> str:
        return "private"

    @recorded(name="nothing", redact=False)
    def nothing(password: str) -> dict[str, str]:
        return {"password": password}

    path = tmp_path / "c.json"

    def program() -> list[Any]:
        return [default("hunter2"), paths(), hook(), nothing("hunter3")]

    with trace_scope_sync(record=path):
        program()
    text = path.read_text()
    assert "hunter3" in text
    for secret in ("hunter2", "k-1234", "abcdef0123456789", "ada@example.org", "private"):
        assert secret not in text
    with trace_scope_sync(cassette=path) as scope:
        assert program()[2:] == ["?", {"password": "hunter3"}]
    assert scope.report.clean


def test_live_function_runs_in_replays_and_reports_differences(tmp_path: Path) -> None:
    versions = iter(["1", "1", "2"])

    @recorded(name="version", live=True)
    def version() -> dict[str, str]:
        RUNS.append("version")
        return {"version": next(versions)}

    path = tmp_path / "c.json"
    with trace_scope_sync(record=path):
        version()
    with trace_scope_sync(cassette=path) as scope:
        version()
    assert scope.report.clean
    with trace_scope_sync(cassette=path) as scope:
        version()
    (entry,) = scope.report.drift
    assert "differs from its recording in: result" in entry.detail
    assert len(RUNS) == 3
    with trace_scope_sync(cassette=path) as scope:  # neither a leftover
        pass
    with trace_scope_sync(record=tmp_path / "empty.json"):
        pass


def test_new_episodes_serves_what_is_there_and_adds_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with trace_scope_sync(record=path):
        load("b1")
    with trace_scope_sync(cassette=path, record_mode="new_episodes"):
        load("b1")
        load("b2")
    assert RUNS == ["load", "load"]
    file = read_cassette(path)
    assert [(each.position, each.arguments["level"]) for each in file.boundaries] == [
        (0, "b1"),
        (1, "b2"),
    ]
    with trace_scope_sync(cassette=path):
        load("b1")
        load("b2")
    assert len(RUNS) == 2


def test_call_after_the_end_of_its_scope_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.json"

    async def program(**options: Any) -> Any:
        async with trace_scope(**options) as scope:
            load("b1")
            late = asyncio.create_task(fetch(1))
        return scope, await asyncio.gather(late, return_exceptions=True)

    asyncio.run(program(record=path))
    assert [each["boundary"] for each in boundaries(path)] == ["test_recorded.load"]
    _, (error,) = asyncio.run(program(cassette=path))
    assert isinstance(error, ReplayMissError)
    assert "detached()" in str(error)


def test_calls_that_are_given_up_are_no_errors(tmp_path: Path) -> None:
    @recorded(name="interrupted")
    def interrupted() -> None:
        raise KeyboardInterrupt

    path = tmp_path / "c.json"
    with pytest.raises(KeyboardInterrupt), trace_scope_sync(record=path):
        interrupted()
    (kept,) = boundaries(path)
    assert kept["abandoned"] is True
    assert "error" not in kept


@pytest.mark.parametrize("options", [{"key": 1}, {"redact": "result.email"}, {"key": "user"}])
def test_bad_options_are_errors_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        recorded(**options)(load)


def test_wrong_arguments_are_the_error_of_the_function(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    for options in ({"record": path}, {"cassette": path}):
        with pytest.raises(TypeError, match="missing 1 required"), trace_scope_sync(**options):
            load()  # type: ignore[call-arg]  # wrong on purpose
