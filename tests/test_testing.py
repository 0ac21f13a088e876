"""``shuffle_replay``: reports an order bug, and nothing for code without one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    CassetteError,
    ContextThreadPoolExecutor,
    FlowNotFoundError,
    Noukai,
    ReplayError,
    ReplayLeftoverError,
    ReplayMissError,
)
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.recording import Recording, recording_adapter
from noukai_sdk.session.scope import current_scope
from noukai_sdk.testing import ShuffleReport, shuffle_replay, shuffling

TEXTS = ["a", "b", "c", "d"]


def refuse(request: httpx.Request) -> httpx.Response:
    raise AssertionError("no call may go live")


def sync_client() -> Noukai:
    http = httpx.Client(transport=httpx.MockTransport(refuse))
    return Noukai(api_key="nk_x", org="acme", project="p", http_client=http)


def async_client() -> AsyncNoukai:
    http = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    return AsyncNoukai(api_key="nk_x", org="acme", project="p", http_client=http)


def recording(text: str, number: int = 0, **fields: Any) -> Recording:
    defaults = {
        "kind": "execute",
        "request": {"message": text},
        "started_at": number,
        # The calls overlap: threads ask for their recordings in any order.
        "completed_at": number + 10,
        "result": {"status": "completed", "result": text.upper()},
    }
    return recording_adapter().validate_python({"slug": "flow", **defaults, **fields})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_cassette(tmp_path / "c.jsonl", "s", [recording(text, n) for n, text in enumerate(TEXTS)])
    return tmp_path / "c.jsonl"


async def upper(text: str) -> Any:
    return (await async_client().flow("flow").execute(message=text)).result


async def in_order_of_texts() -> list[Any]:
    return await asyncio.gather(*(upper(text) for text in TEXTS))


async def in_order_of_arrival() -> list[Any]:
    results: list[Any] = []

    async def one(text: str) -> None:
        results.append(await upper(text))

    await asyncio.gather(*(one(text) for text in TEXTS))
    return results


def test_code_without_order_bug_passes(path: Path) -> None:
    report = shuffle_replay(in_order_of_texts, path, runs=30)
    assert report
    assert report.expected == ["A", "B", "C", "D"]
    assert (report.runs, report.difference, report.alike) == (30, None, ())
    assert report.orders > 10
    assert f"{report.orders} orders, seed 0" in repr(report)


def test_code_with_order_bug_is_reported_with_the_order(path: Path) -> None:
    report = shuffle_replay(in_order_of_arrival, path)
    assert not report
    assert report.expected == ["A", "B", "C", "D"]
    assert report.difference is not None
    assert report.difference.answer != report.expected
    completed = [entry[6] for entry in report.difference.order]
    assert [text.upper() for text in completed] == report.difference.answer
    first, expected, got, *order = repr(report).splitlines()
    assert f"run {report.difference.run}, seed 0" in first
    assert expected.endswith("['A', 'B', 'C', 'D']")
    assert got.endswith(repr(report.difference.answer))
    numbered = [f"    {n}. flow({text!r})" for n, text in enumerate(completed, start=1)]
    assert "\n".join(order) == "\n".join(numbered) + ">"


def test_same_seed_reports_the_same_inside_an_event_loop_too(path: Path) -> None:
    async def main() -> ShuffleReport:
        return shuffle_replay(in_order_of_arrival, path)

    reports = [shuffle_replay(in_order_of_arrival, path) for _ in range(2)]
    assert reports[0] == reports[1] == asyncio.run(main())
    others = [shuffle_replay(in_order_of_arrival, path, seed=n).difference for n in range(8)]
    assert len({each.order for each in others if each is not None}) > 1


async def chains() -> list[Any]:
    async def chain(texts: str) -> list[Any]:
        return [await upper(text) for text in texts]

    return await asyncio.gather(chain("ab"), chain("cd"))


def test_sequential_calls_keep_their_results(path: Path) -> None:
    report = shuffle_replay(chains, path, runs=60)
    assert report
    assert report.orders > 3


def ask(text: str) -> Any:
    return sync_client().flow("flow").execute(message=text).result


def test_threads_of_sync_app_are_shuffled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_threads() -> list[Any]:
        with ContextThreadPoolExecutor(len(TEXTS)) as pool:
            return list(pool.map(ask, TEXTS))

    def with_timeout() -> str:
        with ContextThreadPoolExecutor(len(TEXTS)) as pool:
            _, late = wait([pool.submit(ask, text) for text in TEXTS], timeout=0.5)
            return "late" if late else "in time"

    assert shuffle_replay(in_threads, path, runs=10)
    monkeypatch.setattr(shuffling, "_MOST_SECONDS", 1.5)
    report = shuffle_replay(with_timeout, path)
    assert (report.expected, bool(report)) == ("in time", False)


OUTPUTS = [
    {"eventType": "step_output", "stepId": "a", "outputData": str(number)} for number in range(6)
]
EVENTS = (*OUTPUTS, {"eventType": "flow_completed", "result": "r"})


async def read(text: str, seen: list[str]) -> None:
    async for event in async_client().flow("flow").events(message=text):
        seen += [text + event.output_data] if event.type == "step_output" else []


def test_streams_are_cut_into_other_chunks(tmp_path: Path) -> None:
    kept = [recording(text, kind="step", events=EVENTS, result=None) for text in "ab"]
    write_cassette(tmp_path / "c.jsonl", "s", kept)

    async def each_alone() -> list[list[str]]:
        seen: list[list[str]] = [[], []]
        await asyncio.gather(*(read(text, own) for text, own in zip("ab", seen, strict=True)))
        return seen

    async def mixed() -> list[str]:
        seen: list[str] = []
        await asyncio.gather(*(read(text, seen) for text in "ab"))
        return seen

    def sequential() -> list[str]:
        flow = sync_client().flow("flow")
        return [event.type for text in "ab" for event in flow.events(message=text)]

    assert shuffle_replay(each_alone, tmp_path / "c.jsonl", runs=20)
    report = shuffle_replay(mixed, tmp_path / "c.jsonl")
    assert report.difference is not None
    assert any("flow('a') events 1 to " in entry for entry in report.difference.order)
    report = shuffle_replay(sequential, tmp_path / "c.jsonl", runs=5)
    assert report
    assert report.orders == 5


def test_job_wait_does_not_sleep(tmp_path: Path) -> None:
    polls = tuple({"executionId": "j", "status": status} for status in ("running", "completed"))
    job = recording("a", kind="job", result={"executionId": "j"}, statuses=polls)
    write_cassette(tmp_path / "c.jsonl", "s", [job])

    def waiting() -> str:
        job = sync_client().flow("flow").execute_async(message="a")
        return job.wait(poll_interval=3600).status

    assert shuffle_replay(waiting, tmp_path / "c.jsonl", runs=2)


def test_app_error_is_a_difference_or_raised_in_the_recorded_order(path: Path) -> None:
    async def picky() -> Any:
        if (await in_order_of_arrival())[0] != "A":
            raise ZeroDivisionError("not a first")
        return 1

    async def broken() -> None:
        raise ZeroDivisionError

    report = shuffle_replay(picky, path)
    assert report.difference is not None
    assert report.difference.answer is None
    assert isinstance(report.difference.error, ZeroDivisionError)
    assert "raised ZeroDivisionError('not a first')" in repr(report)
    with pytest.raises(ZeroDivisionError):
        shuffle_replay(broken, path)


@pytest.mark.parametrize(
    ("texts", "kind"), [("abcde", ReplayMissError), ("ab", ReplayLeftoverError)]
)
def test_cassette_that_does_not_fit_raises(path: Path, texts: str, kind: type[ReplayError]) -> None:
    with pytest.raises(kind):
        shuffle_replay(lambda: [ask(text) for text in texts], path)


def test_errors_of_recordings_and_tools_reach_the_app(tmp_path: Path) -> None:
    paused = {
        "status": "tool_calls_required",
        "executionId": "e",
        "pausedAtStep": "a",
        "toolCalls": [{"id": "call_1"}],
    }
    tools = [{"type": "function"}]
    request = {"message": "b", "tools": tools}
    error = {"type": "FlowNotFoundError", "message": "gone", "status_code": 404}
    kept = [
        recording("a", result=None, error=error),
        recording("b", request=request, rounds=({"paused": paused},)),
    ]
    write_cassette(tmp_path / "c.jsonl", "s", kept)

    def broken(calls: Any) -> Any:
        raise ZeroDivisionError

    def caught() -> str:
        with pytest.raises(FlowNotFoundError, match="gone"):
            ask("a")
        with pytest.raises(ZeroDivisionError):
            sync_client().flow("flow").execute(message="b", tools=tools, tool_handler=broken)
        return "caught"

    assert shuffle_replay(caught, tmp_path / "c.jsonl", runs=3)


def test_bad_arguments_raise(path: Path) -> None:
    for runs in (0, -1):
        with pytest.raises(ValueError, match="runs must be"):
            shuffle_replay(in_order_of_texts, path, runs=runs)
    with pytest.raises(TypeError, match="must be a function without arguments, not 'answer'"):
        shuffle_replay("answer", path)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(CassetteError):
        shuffle_replay(in_order_of_texts, path / "missing")
    with pytest.raises(ValueError, match="two results in the same order"):
        shuffle_replay(lambda: object() if [ask(text) for text in TEXTS] else None, path)


def test_recordings_with_the_same_input_are_named(tmp_path: Path) -> None:
    kept = [
        recording("a", result={"status": "completed", "result": number}, number=number)
        for number in range(3)
    ]
    write_cassette(tmp_path / "c.jsonl", "s", kept)

    async def arrival() -> list[Any]:
        results = []

        async def one() -> None:
            results.append(await upper("a"))

        await asyncio.gather(one(), one(), one())
        return results

    report = shuffle_replay(arrival, tmp_path / "c.jsonl")
    assert report.alike == ("flow",)
    assert "Calls of flow have the same input" in repr(report)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    yield
    assert current_scope() is None
