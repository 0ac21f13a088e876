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
from tests.support.replays import AsyncSide, SessionService, SyncSide

pytestmark = pytest.mark.anyio

OTHER = "acme/spelling/grade-4"
MODES = ["none", "once", "new_episodes", "all", "rewrite"]


def held(path: Path) -> list[str]:
    """The messages that the file holds, in its order."""
    requests = [recording.request for recording in read_cassette(path).recordings]
    return [request["message"] for request in requests if request is not None]


@pytest.mark.parametrize("mode", ["none", "once"])
async def test_none_and_once_serve_an_existing_file_and_never_change_it(
    echoed: SyncSide, echo: SessionService, path: Path, mode: str
) -> None:
    before = path.read_bytes()
    async with echoed.scope(cassette=path, record_mode=mode) as scope:
        assert await echoed.ask("a", "b", "c") == ["a 1", "b 2", "c 3"]
    assert scope.mode == "replay"
    for texts, kind in (("abcd", ReplayMissError), ("ab", ReplayLeftoverError)):
        with pytest.raises(kind):
            async with echoed.scope(cassette=path, record_mode=mode):
                await echoed.ask(*texts)
    assert (echo.calls, path.read_bytes()) == ([], before)


async def test_missing_file_is_recorded_by_every_mode_but_none(
    echoed: SyncSide, echo: SessionService, tmp_path: Path
) -> None:
    with pytest.raises(CassetteError, match="no such cassette: record it first"):
        async with echoed.scope(cassette=tmp_path / "missing.jsonl"):
            pass
    assert list(tmp_path.iterdir()) == []
    for number, mode in enumerate(MODES[1:], 1):
        path = tmp_path / mode / "c.jsonl"
        async with echoed.scope(cassette=path, record_mode=mode) as scope:
            assert await echoed.ask("a") == [f"a {number}"]
            assert not path.exists()
        assert scope.mode == "capture"
        assert echo.calls[-1] == ("a", scope.session_id)
        async with echoed.scope(cassette=path):
            assert await echoed.ask("a") == [f"a {number}"]


async def test_new_episodes_records_new_calls_at_their_place(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    texts = ("new", "a", "x", "b", "c", "y")
    results = ["new 1", "a 1", "x 2", "b 2", "c 3", "y 3"]
    async with echoed.scope(cassette=path, record_mode="new_episodes") as scope:
        assert await echoed.ask(*texts) == results
        await echoed.ask("else", slug=OTHER)
    assert echo.calls == [(text, scope.session_id) for text in ("new", "x", "y", "else")]
    assert held(path) == [*texts, "else"]
    async with echoed.scope(cassette=path, strict_inputs=True) as scope:
        assert await echoed.ask(*texts) == results
        await echoed.ask("else", slug=OTHER)
    assert scope.report.clean


async def test_new_episodes_plays_each_recording_once_and_keeps_the_unplayed(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    async with echoed.scope(cassette=path, record_mode="new_episodes"):
        assert await echoed.ask("a", "a") == ["a 1", "a 1"]  # the second is the first live call
        assert await echoed.ask("b", version=3) == ["b 2"]  # another version is another input
    assert echo.messages == ["a", "b"]
    assert held(path) == ["a", "a", "b", "b", "c"]


async def test_new_episodes_without_news_leaves_the_file_and_keeps_news_of_a_failed_body(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    before = path.stat()
    async with echoed.scope(cassette=path, record_mode="new_episodes"):
        await echoed.ask("b")
    assert (echo.calls, path.stat().st_mtime_ns) == ([], before.st_mtime_ns)

    async def body() -> None:
        async with echoed.scope(cassette=path, record_mode="new_episodes"):
            await echoed.ask("d")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
    assert held(path) == ["d", "a", "b", "c"]


async def test_new_episodes_with_concurrent_calls(echo: SessionService, tmp_path: Path) -> None:
    side, path = AsyncSide(echo), tmp_path / "c.jsonl"
    for texts in (["a", "b", "c"], ["d", "c", "b", "a"], ["a", "b", "c", "d"]):
        async with side.scope(cassette=path, record_mode="new_episodes"):
            results = await asyncio.gather(*(side.ask(text) for text in texts))
        assert [each[0].partition(" ")[0] for each in results] == texts
    assert echo.messages == ["a", "b", "c", "d"]


async def test_new_episodes_serves_recordings_without_input_by_position(
    echoed: SyncSide, echo: SessionService, tmp_path: Path
) -> None:
    old = Recording(slug="grade-3", kind="execute", result={"status": "completed", "result": 1})
    write_cassette(tmp_path / "c.jsonl", "s", [old])
    async with echoed.scope(cassette=tmp_path / "c.jsonl", record_mode="new_episodes"):
        assert await echoed.ask("a", "b") == [1, "b 1"]


async def test_all_replaces_recordings_call_by_call(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    before = path.read_bytes()
    async with echoed.scope(cassette=path, record_mode="all"):
        pass
    assert path.read_bytes() == before
    async with echoed.scope(cassette=path, record_mode="new_episodes"):
        await echoed.ask("else", slug=OTHER)
    echo.calls.clear()
    async with echoed.scope(cassette=path, record_mode="all") as scope:
        assert await echoed.ask("d", "e") == ["d 1", "e 2"]
    assert scope.mode == "capture"
    assert held(path) == ["d", "e", "else", "c"]
    async with echoed.scope(cassette=path):
        assert await echoed.ask("d", "e", "c") == ["d 1", "e 2", "c 3"]
        await echoed.ask("else", slug=OTHER)
    async with echoed.scope(cassette=path, record_mode="all"):
        await echoed.ask("f", "g", "h", "i")
    assert held(path) == ["f", "g", "h", "i", "else"]


@pytest.mark.parametrize("text", ["", "not a cassette\n", None])
async def test_rewrite_starts_anew_without_reading_the_file(
    echoed: SyncSide, path: Path, text: str | None
) -> None:
    if text is not None:
        path.write_text(text)
        for mode in MODES[:4]:
            with pytest.raises(CassetteError):
                async with echoed.scope(cassette=path, record_mode=mode):
                    pass
    async with echoed.scope(cassette=path, record_mode="rewrite"):
        await echoed.ask("d")
    assert held(path) == ["d"]
    async with echoed.scope(record=path):
        await echoed.ask("e")
    assert held(path) == ["e"]


async def test_recording_keeps_the_order_of_calls_and_their_times(
    echo: SessionService, tmp_path: Path
) -> None:
    side = AsyncSide(echo)
    async with side.scope(record=tmp_path / "c.jsonl"):
        late, early = side.flow().execute(message="late"), side.flow().execute(message="early")
        await early
        await late
    first, second = read_cassette(tmp_path / "c.jsonl").recordings
    assert (first.request, second.request) == ({"message": "late"}, {"message": "early"})
    assert first.started_at is not None
    assert second.started_at is not None
    assert second.started_at < first.started_at


async def test_file_is_written_once_and_not_if_discarded(echoed: SyncSide, path: Path) -> None:
    async with echoed.scope(record=path) as scope:
        await echoed.ask("a")
    path.unlink()
    scope.end()
    assert not path.exists()
    async with echoed.scope(record=path) as scope:
        await echoed.ask("a")
        scope.discard()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("mode", ["none", "once", "new_episodes"])
async def test_file_is_not_played_while_replay_is_off(
    echoed: SyncSide,
    echo: SessionService,
    path: Path,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    with pytest.raises(ReplayDisabledError, match="NOUKAI_REPLAY_ENABLED=true to play a cassette"):
        async with echoed.scope(cassette=path, record_mode=mode):
            await echoed.ask("a")
    assert echo.calls == []


def test_bad_json_path_is_an_error_at_once(tmp_path: Path) -> None:
    scope = trace_scope_sync(cassette=tmp_path / "c.jsonl", redact_paths=["a["])
    with pytest.raises(ValueError, match="bad JSON path"):
        scope.__enter__()


def at(began: float | None, took: float = 1.0, **fields: Any) -> Recording:
    ended = None if began is None else began + took
    times = {"started_at": began, "completed_at": ended, **fields}
    return Recording(slug="s", kind="execute", **times)


def times(recordings: list[Recording]) -> list[float | None]:
    return [recording.started_at for recording in recordings]


def test_merged_recordings_are_on_one_clock() -> None:
    kept = [at(0), at(0.5), at(5)]  # the first two overlapped
    new = [at(100), at(100.5)]
    run = [kept[0], kept[1], new[0], new[1], kept[2]]
    assert times(merged(kept, run)) == [0, 0.5, 100, 100.5, 101.5]
    assert times(merged(kept, [new[0], kept[1]])) == [100, 101, 102, 107]
    assert times(merged(kept, new, replaces=True)) == [100, 100.5, 101.5]
    assert times(merged([at(None), at(3, completed_at=None), at(4)], [at(9)])) == [9, None, 10, 11]
