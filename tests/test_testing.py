"""``shuffle_replay``: it finds an order bug, and finds none where there is none."""

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
    Noukai,
    ReplayError,
    ReplayLeftoverError,
    ReplayMissError,
    testing,
)
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session.scope import current_scope
from noukai_sdk.testing import ShuffleReport, shuffle_replay

TEXTS = ["a", "b", "c", "d"]


def refuse(request: httpx.Request) -> httpx.Response:
    raise AssertionError("nothing may go live")


def sync_client() -> Noukai:
    http = httpx.Client(transport=httpx.MockTransport(refuse))
    return Noukai(api_key="nk_x", org="acme", project="p", http_client=http)


def async_client() -> AsyncNoukai:
    http = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    return AsyncNoukai(api_key="nk_x", org="acme", project="p", http_client=http)


def recording(text: str, number: int = 0, **fields: Any) -> Recording:
    usual = {
        "kind": "execute",
        "request": {"message": text},
        "started_at": number,
        # As calls that were made together: threads come for their answers in any order.
        "completed_at": number + 10,
        "result": {"status": "completed", "result": text.upper()},
    }
    return Recording(slug="flow", **{**usual, **fields})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_cassette(tmp_path / "c.jsonl", "s", [recording(text, n) for n, text in enumerate(TEXTS)])
    return tmp_path / "c.jsonl"


async def upper(text: str) -> Any:
    return (await async_client().flow("flow").execute(message=text)).result


async def in_order_of_texts() -> list[Any]:
    return await asyncio.gather(*(upper(text) for text in TEXTS))


async def in_order_of_arrival() -> list[Any]:
    answers: list[Any] = []

    async def one(text: str) -> None:
        answers.append(await upper(text))

    await asyncio.gather(*(one(text) for text in TEXTS))
    return answers


def test_an_app_without_the_bug(path: Path) -> None:
    report = shuffle_replay(in_order_of_texts, path, runs=30)
    assert report
    assert report.expected == ["A", "B", "C", "D"]
    assert (report.runs, report.difference, report.alike) == (30, None, ())
    assert report.orders > 10
    assert repr(report) == f"<ShuffleReport: the same answer in {report.orders} orders, seed 0>"
    assert current_scope() is None


def test_an_app_with_the_bug(path: Path) -> None:
    report = shuffle_replay(in_order_of_arrival, path)
    assert not report
    assert report.difference is not None
    assert report.expected == ["A", "B", "C", "D"]
    assert report.difference.answer != report.expected
    completed = [what[6] for what in report.difference.order]
    assert [text.upper() for text in completed] == report.difference.answer
    assert (
        repr(report)
        == "\n".join(
            [
                f"<ShuffleReport: another answer in run {report.difference.run}, seed 0",
                "  in the order of the calls: ['A', 'B', 'C', 'D']",
                f"  in the order below:        {report.difference.answer!r}",
                *(f"    {n}. flow({text!r})" for n, text in enumerate(completed, start=1)),
            ]
        )
        + ">"
    )


def test_the_seed_decides(path: Path) -> None:
    assert shuffle_replay(in_order_of_arrival, path) == shuffle_replay(in_order_of_arrival, path)
    found = [shuffle_replay(in_order_of_arrival, path, seed=n).difference for n in range(8)]
    assert len({each.order for each in found if each is not None}) > 1


async def chains() -> list[Any]:
    async def chain(texts: str) -> list[Any]:
        return [await upper(text) for text in texts]

    return await asyncio.gather(chain("ab"), chain("cd"))


def test_calls_that_follow_each_other_keep_their_own_answers(path: Path) -> None:
    report = shuffle_replay(chains, path, runs=60)
    assert report
    assert report.orders > 3


def test_from_inside_an_event_loop(path: Path) -> None:
    async def main() -> ShuffleReport:
        return shuffle_replay(in_order_of_arrival, path)

    assert asyncio.run(main()) == shuffle_replay(in_order_of_arrival, path)


def ask(text: str) -> Any:
    return sync_client().flow("flow").execute(message=text).result


def in_threads() -> list[Any]:
    with ContextThreadPoolExecutor(len(TEXTS)) as pool:
        return list(pool.map(ask, TEXTS))


def test_threads_of_a_sync_app(path: Path) -> None:
    assert shuffle_replay(in_threads, path, runs=10)


def test_threads_of_a_sync_app_with_the_bug(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_MOST_SECONDS", 1.0)

    def gives_up_too_soon() -> str:
        with ContextThreadPoolExecutor(len(TEXTS)) as pool:
            pending = [pool.submit(ask, text) for text in TEXTS]
            _, late = wait(pending, timeout=0.25)
            return "late" if late else "in time"

    report = shuffle_replay(gives_up_too_soon, path)
    assert (report.expected, bool(report)) == ("in time", False)


OUTPUTS = [
    {"eventType": "step_output", "stepId": "a", "outputData": str(number)} for number in range(6)
]
EVENTS = (*OUTPUTS, {"eventType": "flow_completed", "result": "r"})


@pytest.fixture
def streams(tmp_path: Path) -> Path:
    kept = [recording(text, kind="step", events=EVENTS, result=None) for text in "ab"]
    write_cassette(tmp_path / "c.jsonl", "s", kept)
    return tmp_path / "c.jsonl"


async def read(text: str, seen: list[str]) -> None:
    async for event in async_client().flow("flow").events(message=text):
        seen += [text + event.output_data] if event.type == "step_output" else []


def test_streams_are_cut_anywhere(streams: Path) -> None:
    async def each_alone() -> list[list[str]]:
        seen: list[list[str]] = [[], []]
        await asyncio.gather(*(read(text, own) for text, own in zip("ab", seen, strict=True)))
        return seen

    async def mixed() -> list[str]:
        seen: list[str] = []
        await asyncio.gather(*(read(text, seen) for text in "ab"))
        return seen

    assert shuffle_replay(each_alone, streams, runs=20)
    report = shuffle_replay(mixed, streams)
    assert report.difference is not None
    assert any("flow('a') events 1 to " in what for what in report.difference.order)


def test_a_sync_stream_is_cut_anew(streams: Path) -> None:
    def one_after_the_other() -> list[str]:
        flow = sync_client().flow("flow")
        return [event.type for text in "ab" for event in flow.events(message=text)]

    report = shuffle_replay(one_after_the_other, streams, runs=5)
    assert report
    assert report.orders == 5


def test_jobs_do_not_wait(tmp_path: Path) -> None:
    looks = tuple({"executionId": "j", "status": status} for status in ("running", "completed"))
    job = recording("a", kind="job", result={"executionId": "j"}, statuses=looks)
    write_cassette(tmp_path / "c.jsonl", "s", [job])

    def waiting() -> str:
        job = sync_client().flow("flow").execute_async(message="a")
        return job.wait(poll_interval=3600).status

    assert shuffle_replay(waiting, tmp_path / "c.jsonl", runs=2)


def test_an_error_in_another_order_is_another_answer(path: Path) -> None:
    async def picky() -> Any:
        answers = await in_order_of_arrival()
        if answers[0] != "A":
            raise ZeroDivisionError("not a first")
        return 1

    report = shuffle_replay(picky, path)
    assert report.difference is not None
    assert report.difference.answer is None
    assert isinstance(report.difference.error, ZeroDivisionError)
    assert "raised ZeroDivisionError('not a first')" in repr(report)


def test_an_error_in_the_recorded_order_is_raised(path: Path) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shuffle_replay(broken, path)
    assert current_scope() is None


@pytest.mark.parametrize(
    ("texts", "kind"), [("abcde", ReplayMissError), ("ab", ReplayLeftoverError)]
)
def test_a_cassette_that_does_not_fit_is_an_error(
    path: Path, texts: str, kind: type[ReplayError]
) -> None:
    with pytest.raises(kind):
        shuffle_replay(lambda: [ask(text) for text in texts], path)


def test_recorded_errors_are_answers(tmp_path: Path) -> None:
    error = {"type": "FlowNotFoundError", "message": "gone", "status_code": 404}
    write_cassette(tmp_path / "c.jsonl", "s", [recording("a", result=None, error=error)])

    def caught() -> str:
        with pytest.raises(Exception, match="gone"):
            ask("a")
        return "caught"

    assert shuffle_replay(caught, tmp_path / "c.jsonl", runs=3)


def test_a_tool_that_raises(tmp_path: Path) -> None:
    paused = {
        "status": "tool_calls_required",
        "executionId": "e",
        "pausedAtStep": "a",
        "toolCalls": [{"id": "call_1"}],
    }
    request = {"message": "a", "tools": [{"type": "function"}]}
    kept = recording("a", request=request, rounds=({"paused": paused},))
    write_cassette(tmp_path / "c.jsonl", "s", [kept])

    def broken(calls: Any) -> Any:
        raise ZeroDivisionError

    def caught() -> str:
        with pytest.raises(ZeroDivisionError):
            sync_client().flow("flow").execute(
                message="a", tools=[{"type": "function"}], tool_handler=broken
            )
        return "caught"

    assert shuffle_replay(caught, tmp_path / "c.jsonl", runs=2)


def test_an_answer_that_cannot_be_compared(path: Path) -> None:
    with pytest.raises(ValueError, match="two answers in one and the same order"):
        shuffle_replay(lambda: object() if [ask(text) for text in TEXTS] else None, path)


@pytest.mark.parametrize("runs", [0, -1])
def test_bad_arguments(path: Path, runs: int) -> None:
    with pytest.raises(ValueError, match="runs must be"):
        shuffle_replay(in_order_of_texts, path, runs=runs)
    with pytest.raises(TypeError, match="must be a function without arguments, not 'answer'"):
        shuffle_replay("answer", path)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(CassetteError):
        shuffle_replay(in_order_of_texts, path / "missing")


def test_the_same_input_twice_is_said(tmp_path: Path) -> None:
    kept = [
        recording("a", result={"status": "completed", "result": number}, number=number)
        for number in range(3)
    ]
    write_cassette(tmp_path / "c.jsonl", "s", kept)

    async def arrival() -> list[Any]:
        answers = []

        async def one() -> None:
            answers.append(await upper("a"))

        await asyncio.gather(one(), one(), one())
        return answers

    report = shuffle_replay(arrival, tmp_path / "c.jsonl")
    assert "Calls of flow have the same input" in repr(report)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    yield
    assert current_scope() is None
