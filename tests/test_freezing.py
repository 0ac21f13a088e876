"""Test ``freeze=True``: what is held, what goes on, and what comes back at the end."""

# Times without a zone are what apps read, and what is tested.
# ruff: noqa: DTZ001, DTZ005, DTZ011

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from random import random as random_number
from typing import Any
from uuid import uuid1, uuid4

import anyio
import httpx
import pytest
import time_machine

from noukai_sdk import AsyncNoukai
from noukai_sdk.models.boundaries import Boundary
from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.replay.cassette_file import CassetteFile, write_cassette
from noukai_sdk.replay.recording import Recording, seconds_of
from noukai_sdk.testing import FreezeError, freezing, send_captured_request
from noukai_sdk.testing.freezing import frozen
from noukai_sdk.testing.seen_values import times_of_production, to_nanoseconds, uuids_of_production
from tests.support.servers import serve_app

START = "2026-05-31T23:59:58.123457+05:30"


def captured(started_at: str | None = START, session_id: str = "s-1") -> CassetteFile:
    request = CapturedRequest(method="GET", origin="http://a", path="/a")
    exchange = Exchange(
        request=request, response=CapturedResponse(status=200), started_at=started_at
    )
    return CassetteFile(session_id, exchange=exchange)


def values() -> list[Any]:
    """What an app reads, by names that were imported before anything was held."""
    moments = [datetime.now(), datetime.now(timezone.utc), date.today(), time.time_ns()]
    numbers = [random_number(), random.randint(1, 10**9), random.sample(range(100), 5)]
    return [*moments, time.strftime("%H:%M %z"), uuid1(), uuid4(), uuid.uuid4(), *numbers]


@pytest.fixture(autouse=True)
def everything_comes_back() -> Iterator[None]:
    before = (random.getstate(), uuid.os, uuid._node, os.environ.get("TZ"), time.tzname)  # type: ignore[attr-defined]  # modules that uuid has imported
    yield
    assert before == (random.getstate(), uuid.os, uuid._node, os.environ.get("TZ"), time.tzname)  # type: ignore[attr-defined]  # modules that uuid has imported
    assert not time_machine.escape_hatch.is_travelling()
    assert freezing._clocks == []
    assert uuid4() != uuid4()


def test_frozen_values_are_equal_in_each_replay_of_a_session() -> None:
    with frozen(captured()):
        first = values()
        later = [uuid4(), random_number()]
    with suppress(KeyError), frozen(captured()):
        assert values() == first
        assert [uuid4(), random_number()] == later
        raise KeyError("the app failed")
    assert first[0] == datetime(2026, 5, 31, 23, 59, 58, 123457)
    assert first[1] == datetime(2026, 5, 31, 18, 29, 58, 123457, timezone.utc)
    assert first[2:5] == [date(2026, 5, 31), 1780252198123457000, "23:59 +0530"]
    assert first[5] != first[6] != first[7]
    assert first[6].version == 4
    with frozen(captured(session_id="s-2")):
        other = values()
    assert other[:5] == first[:5]
    assert not set(map(str, other[5:])) & set(map(str, first[5:]))


@pytest.mark.parametrize(
    ("started_at", "local"),
    [
        ("2026-05-31T12:00:00+00:00", "12:00 +0000"),
        ("2026-05-31T12:00:00Z", "12:00 +0000"),
        ("2026-05-31T12:00:00-03:30", "12:00 -0330"),
        ("2026-05-31T12:00:00+13:00", "12:00 +1300"),
    ],
)
def test_frozen_time_zone_is_that_of_the_capture(
    started_at: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        with frozen(captured(started_at)):
            assert time.strftime("%H:%M %z") == local
            assert datetime.now().astimezone().strftime("%H:%M %z") == local
        assert os.environ["TZ"] == "America/New_York"
    time.tzset()


def test_waits_and_servers_go_on_while_the_clock_stands() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(time.time()).encode()})

    async def wait() -> httpx.Response:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        rang = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, rang.set)
        await rang.wait()
        assert not await asyncio.to_thread(threading.Event().wait, 0.01)
        with serve_app(app, lifespan="off") as url:
            async with httpx.AsyncClient() as client:
                return await client.get(url)

    with frozen(captured()):
        before = time.monotonic()
        response = asyncio.run(wait())
        assert time.monotonic() > before
    assert float(response.text) == pytest.approx(seconds_of(START), abs=1e-5)
    # uvicorn writes it by the clock that it finds.
    assert response.headers["date"] == "Sun, 31 May 2026 18:29:58 GMT"


def test_loop_that_waits_for_the_clock_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "_LONGEST_STAND", 0.05)
    with frozen(captured()):
        deadline = time.time() + 0.01
        while time.time() < deadline:
            time.sleep(0.001)
        assert time.time() == pytest.approx(deadline, abs=60)


def test_second_replay_at_the_same_time_is_refused_and_a_nested_one_is_not() -> None:
    errors: list[BaseException] = []

    def replay() -> None:
        try:
            with frozen(captured(session_id="s-2")):
                pass
        except FreezeError as error:
            errors.append(error)

    with frozen(captured()):
        outer = values()
        thread = threading.Thread(target=replay)
        thread.start()
        thread.join()
        with frozen(captured("2030-01-01T00:00:00+00:00", "s-3")):
            assert datetime.now() == datetime(2030, 1, 1)
            values()
        # The outer one goes on where it was.
        assert datetime.now() == outer[0]
        after = [uuid4(), random_number()]
    assert [str(error)[:43] for error in errors] == ["another replay holds the clock of this proc"]
    with frozen(captured()):
        values()
        assert [uuid4(), random_number()] == after
    replay()
    assert len(errors) == 1


def test_freeze_that_is_not_possible_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(FreezeError, match="does not say when it was recorded"),
        frozen(captured(None)),
    ):
        pass
    monkeypatch.setitem(sys.modules, "time_machine", None)
    with pytest.raises(FreezeError, match="needs time-machine: pip install"), frozen(captured()):
        pass


def grade(began: float, ended: float, message: str) -> Recording:
    start = seconds_of(START) or 0.0
    return Recording(
        slug="grade-3",
        kind="execute",
        request={"message": message},
        result={"result": "r", "status": "completed", "executionId": "e"},
        started_at=start + began,
        completed_at=start + ended,
    )


def test_clock_without_a_captured_request_starts_at_the_first_call() -> None:
    boundary = Boundary(name="now", position=0, started_at="2026-05-31T18:29:58+00:00")
    calls = CassetteFile("s-1", [grade(5.0, 6.0, "b"), grade(1.0, 2.0, "a")])
    for file, seconds in ((calls, 59), (replace(calls, boundaries=[boundary]), 58)):
        with frozen(file):
            assert datetime.now(timezone.utc).second == seconds


def test_values_of_production_are_those_that_it_sent_and_was_not_given() -> None:
    ids = [uuid.UUID(int=number, version=4) for number in range(1, 7)]
    request = CapturedRequest(method="GET", origin="http://a", path=f"/orders/{ids[0]}")
    body = CapturedBody(
        text=f'{{"id": "{ids[4].hex}", "by": "{ids[0]}", "at": "2026-05-31 23:59:59.5"}}'
    )
    exchange = Exchange(
        request=request,
        response=CapturedResponse(status=200, body=body),
        started_at=START,
        completed_at="2026-06-01T00:00:30+05:30",
    )
    # Ids 2 and 6 are given by a recorded function and by a flow. The first time is too old.
    boundary = Boundary(name="load", position=0, result={"id": str(ids[1])})
    first = f"{str(ids[2]).upper()} {ids[1]} {ids[3]} 2026-05-31T23:59:58.123456 1780252199.0000001"
    second = f"{ids[5]} {ids[2]} 2026-05-31T18:30:00.250000 2026-05-31T18:30:00.750Z"
    calls = [grade(1.0, 2.0, first), grade(3.0, 4.0, second)]
    calls[0].result = {"result": str(ids[5])}
    file = CassetteFile("s-1", calls, exchange=exchange, boundaries=[boundary])
    assert uuids_of_production(file) == [ids[2], ids[3], ids[4]]
    found = [(each.time - 1780252198 * 10**9, each.until) for each in times_of_production(file)]
    ends = [to_nanoseconds(each.completed_at or 0.0) for each in calls]
    assert found == [(1_000_000_100, ends[0]), (2_250_000_000, ends[1]), (2_750_000_000, ends[1])]
    with frozen(file) as clock:
        assert [uuid4() for _ in range(3)] == [ids[2], ids[3], ids[4]]
        assert uuid4() not in ids
        assert time.time() == 1780252199.0000001
        assert time.ctime() == time.asctime() == "Sun May 31 23:59:59 2026"
        clock.move(calls[0].completed_at or 0.0)
        assert datetime.now().isoformat(sep=" ") == "2026-06-01 00:00:00.250000"
        clock.move(calls[1].completed_at or 0.0)
        assert time.time() == calls[1].completed_at


def test_clock_moves_to_the_end_of_each_served_call(
    tmp_path: Path,
) -> None:
    file = captured()
    assert file.exchange is not None
    file.exchange.completed_at = "2026-06-01T00:00:04.5+05:30"
    texts = ["May 31, 23:59:58", "June 01, 00:00:03"]
    # The second call is longer than the request: its clock is another one.
    calls = [grade(0.1, 5.2, texts[0]), grade(5.3, 60.0, texts[1])]
    write_cassette(tmp_path / "a.jsonl", "s-1", calls, exchange=file.exchange)
    ends: list[datetime] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        async with AsyncNoukai() as client:
            for _ in range(2):
                message = datetime.now().strftime("%B %d, %H:%M:%S")
                await client.flow("acme/spelling/grade-3").execute(message=message)
        ends.append(datetime.now())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    replayed = send_captured_request(app, tmp_path / "a.jsonl", freeze=True)
    assert replayed.report.clean, replayed.report
    assert ends == [datetime(2026, 6, 1, 0, 0, 4, 500000)]
    replayed = send_captured_request(app, tmp_path / "a.jsonl")
    assert len(replayed.report.drift) == 2
    assert ends[1] != ends[0]
