"""The record modes: which calls are served, which go live, and what the file holds afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import (
    CassetteError,
    ReplayDisabledError,
    ReplayLeftoverError,
    ReplayMissError,
    trace_scope_sync,
)
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.cassette_writer import merged
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session.recording_scope import RecordingScope
from tests.replay.echo import Echo, EchoAsync, EchoSide, EchoSync

pytestmark = pytest.mark.anyio

OTHER = "acme/spelling/grade-4"
MODES = ["none", "once", "new_episodes", "all", "rewrite"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=[EchoSync, EchoAsync])
def side(request: Any, echo: Echo) -> EchoSide:
    made: EchoSide = request.param(echo)
    return made


@pytest.fixture
async def path(side: EchoSide, echo: Echo, tmp_path: Path) -> Path:
    """A cassette of the calls ``a`` and ``b``, answered ``a 1`` and ``b 2``."""
    async with side.scope(record=tmp_path / "c.jsonl"):
        assert await side.ask("a", "b") == ["a 1", "b 2"]
    echo.calls.clear()
    return tmp_path / "c.jsonl"


def held(path: Path) -> list[str]:
    """The messages that the file holds, in its order."""
    requests = [recording.request for recording in read_cassette(path).recordings]
    return [request["message"] for request in requests if request is not None]


async def test_none_serves_and_never_records(side: EchoSide, echo: Echo, path: Path) -> None:
    before = path.read_bytes()
    async with side.scope(cassette=path) as scope:
        assert await side.ask("a", "b") == ["a 1", "b 2"]
    assert (scope.mode, echo.calls, path.read_bytes()) == ("replay", [], before)


@pytest.mark.parametrize("mode", ["none", "once"])
async def test_a_call_that_is_not_recorded_is_an_error(
    side: EchoSide, echo: Echo, path: Path, mode: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(ReplayMissError):
        async with side.scope(cassette=path, record_mode=mode):
            await side.ask("a", "b", "c")
    assert (echo.calls, path.read_bytes()) == ([], before)


@pytest.mark.parametrize("mode", ["none", "once"])
async def test_a_recording_that_is_not_played_is_an_error(
    side: EchoSide, echo: Echo, path: Path, mode: str
) -> None:
    with pytest.raises(ReplayLeftoverError):
        async with side.scope(cassette=path, record_mode=mode):
            await side.ask("a")
    assert held(path) == ["a", "b"]


async def test_none_needs_a_file(side: EchoSide, tmp_path: Path) -> None:
    with pytest.raises(CassetteError, match="no such cassette: record it first"):
        async with side.scope(cassette=tmp_path / "missing.jsonl"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", MODES[1:])
async def test_every_other_mode_records_where_there_is_no_file(
    side: EchoSide, echo: Echo, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "new" / "c.jsonl"
    async with side.scope(cassette=path, record_mode=mode) as scope:
        assert await side.ask("a") == ["a 1"]
        assert not path.exists()
    assert scope.mode == "capture"
    assert echo.calls == [("a", scope.session_id)]
    async with side.scope(cassette=path):
        assert await side.ask("a") == ["a 1"]


async def test_once_serves_what_it_recorded(side: EchoSide, echo: Echo, path: Path) -> None:
    before = path.read_bytes()
    async with side.scope(cassette=path, record_mode="once"):
        assert await side.ask("a", "b") == ["a 1", "b 2"]
    assert (echo.calls, path.read_bytes()) == ([], before)


async def test_new_episodes_records_what_is_new_where_it_belongs(
    side: EchoSide, echo: Echo, path: Path
) -> None:
    async with side.scope(cassette=path, record_mode="new_episodes") as scope:
        assert await side.ask("new", "a", "x", "b", "y") == ["new 1", "a 1", "x 2", "b 2", "y 3"]
        await side.ask("else", slug=OTHER)
    assert echo.calls == [(text, scope.session_id) for text in ("new", "x", "y", "else")]
    assert held(path) == ["new", "a", "x", "b", "y", "else"]
    async with side.scope(cassette=path, strict_inputs=True) as scope:
        assert await side.ask("new", "a", "x", "b", "y") == ["new 1", "a 1", "x 2", "b 2", "y 3"]
        await side.ask("else", slug=OTHER)
    assert scope.report.clean


async def test_new_episodes_keeps_what_it_did_not_play(
    side: EchoSide, echo: Echo, path: Path
) -> None:
    async with side.scope(cassette=path, record_mode="new_episodes"):
        assert await side.ask("c", "b") == ["c 1", "b 2"]
    assert held(path) == ["c", "b", "a"]


async def test_new_episodes_takes_each_recording_once(
    side: EchoSide, echo: Echo, path: Path
) -> None:
    async with side.scope(cassette=path, record_mode="new_episodes"):
        assert await side.ask("a", "a") == ["a 1", "a 1"]  # the second is the first live call
        assert await side.ask("b", version=3) == ["b 2"]  # another version is another input
    assert echo.messages == ["a", "b"]
    assert held(path) == ["a", "a", "b", "b"]


async def test_new_episodes_with_nothing_new_leaves_the_file(
    side: EchoSide, echo: Echo, path: Path
) -> None:
    before = path.stat()
    async with side.scope(cassette=path, record_mode="new_episodes"):
        await side.ask("b")
    assert (echo.calls, path.stat().st_mtime_ns) == ([], before.st_mtime_ns)


async def test_new_episodes_in_calls_that_run_together(echo: Echo, tmp_path: Path) -> None:
    side, path = EchoAsync(echo), tmp_path / "c.jsonl"
    for texts in (["a", "b", "c"], ["d", "c", "b", "a"], ["a", "b", "c", "d"]):
        async with side.scope(cassette=path, record_mode="new_episodes"):
            answers = await asyncio.gather(*(side.ask(text) for text in texts))
        assert [answer[0].partition(" ")[0] for answer in answers] == texts
    assert echo.messages == ["a", "b", "c", "d"]


async def test_new_episodes_where_the_old_ones_say_no_input(
    side: EchoSide, echo: Echo, tmp_path: Path
) -> None:
    old = Recording(slug="grade-3", kind="execute", result={"status": "completed", "result": 1})
    write_cassette(tmp_path / "c.jsonl", "s", [old])
    async with side.scope(cassette=tmp_path / "c.jsonl", record_mode="new_episodes"):
        assert await side.ask("a", "b") == [1, "b 1"]


async def test_new_episodes_of_a_body_that_fails(side: EchoSide, echo: Echo, path: Path) -> None:
    async def body() -> None:
        async with side.scope(cassette=path, record_mode="new_episodes"):
            await side.ask("c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert held(path) == ["c", "a", "b"]


async def test_all_serves_nothing_and_replaces_call_by_call(
    side: EchoSide, echo: Echo, path: Path
) -> None:
    async with side.scope(cassette=path, record_mode="new_episodes"):
        await side.ask("else", slug=OTHER)
    echo.calls.clear()
    async with side.scope(cassette=path, record_mode="all") as scope:
        assert await side.ask("c") == ["c 1"]
    assert scope.mode == "capture"
    assert held(path) == ["c", "else", "b"]
    async with side.scope(cassette=path):
        assert await side.ask("c", "b") == ["c 1", "b 2"]
        await side.ask("else", slug=OTHER)


async def test_all_with_more_calls_than_before(side: EchoSide, echo: Echo, path: Path) -> None:
    async with side.scope(cassette=path, record_mode="all"):
        await side.ask("c", "d", "e")
    assert held(path) == ["c", "d", "e"]


async def test_all_without_calls_leaves_the_file(side: EchoSide, path: Path) -> None:
    before = path.read_bytes()
    async with side.scope(cassette=path, record_mode="all"):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [{"record_mode": "rewrite"}, {}])
async def test_rewrite_starts_anew(
    side: EchoSide, echo: Echo, path: Path, options: dict[str, Any]
) -> None:
    named = "cassette" if options else "record"
    async with side.scope(**{named: path}, **options):
        assert await side.ask("c") == ["c 1"]
    assert held(path) == ["c"]


@pytest.mark.parametrize("text", ["", "no cassette\n"])
async def test_rewrite_does_not_read_what_it_replaces(
    side: EchoSide, path: Path, text: str
) -> None:
    path.write_text(text)
    for mode in MODES[:4]:
        with pytest.raises(CassetteError):
            async with side.scope(cassette=path, record_mode=mode):
                pass
    async with side.scope(cassette=path, record_mode="rewrite"):
        await side.ask("a")
    assert held(path) == ["a"]


async def test_one_run_keeps_its_own_times(echo: Echo, tmp_path: Path) -> None:
    side = EchoAsync(echo)
    async with side.scope(record=tmp_path / "c.jsonl"):
        late, early = side.flow().execute(message="late"), side.flow().execute(message="early")
        await early
        await late
    first, second = read_cassette(tmp_path / "c.jsonl").recordings
    assert (first.request, second.request) == ({"message": "late"}, {"message": "early"})
    assert first.started_at is not None
    assert second.started_at is not None
    assert second.started_at < first.started_at


async def test_a_tape_that_is_discarded_writes_nothing(side: EchoSide, tmp_path: Path) -> None:
    async with side.scope(record=tmp_path / "c.jsonl") as scope:
        await side.ask("a")
        assert isinstance(scope, RecordingScope)
        scope.discard()
    assert list(tmp_path.iterdir()) == []


async def test_the_file_is_written_once(side: EchoSide, path: Path) -> None:
    async with side.scope(record=path) as scope:
        await side.ask("a")
    path.unlink()
    scope.end()
    assert not path.exists()


@pytest.mark.parametrize("mode", ["none", "once", "new_episodes"])
async def test_a_closed_gate_plays_no_file(
    side: EchoSide, echo: Echo, path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    with pytest.raises(ReplayDisabledError, match="NOUKAI_REPLAY_ENABLED=true to play a cassette"):
        async with side.scope(cassette=path, record_mode=mode):
            await side.ask("a")
    assert echo.calls == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"record_mode": "sometimes"}, "bad record_mode 'sometimes'"),
        ({"record": "x"}, "cassette and record exclude each other"),
        ({"redact_paths": ["a["]}, "bad JSON path"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    scope = trace_scope_sync(cassette=tmp_path / "c.jsonl", **options)
    with pytest.raises(ValueError, match=said):
        scope.__enter__()


def at(began: float | None, slug: str = "s", took: float = 1.0) -> Recording:
    ended = None if began is None else began + took
    return Recording(slug=slug, kind="execute", started_at=began, completed_at=ended)


def times(recordings: list[Recording]) -> list[float | None]:
    return [recording.started_at for recording in recordings]


def test_what_is_merged_has_one_clock() -> None:
    kept = [at(0), at(0.5), at(5)]  # the first two overlapped
    new = [at(100), at(100.5)]
    run = [kept[0], kept[1], new[0], new[1], kept[2]]
    assert times(merged(kept, run)) == [0, 0.5, 100, 100.5, 101.5]
    assert times(merged(kept, [new[0], kept[1]])) == [100, 101, 102, 107]
    assert times(merged(kept, new, replaces=True)) == [100, 100.5, 101.5]


def test_what_knows_no_time_keeps_none() -> None:
    unended = at(3).model_copy(update={"completed_at": None})
    assert times(merged([at(None), unended, at(4)], [at(9)])) == [9, None, 10, 11]
