"""The report of a replay: misses, leftovers and drift, and what the scope raises at its end."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

import _thread
import json
from contextvars import copy_context
from typing import Any

import pytest

from noukai_sdk import ReplayLeftoverError, ReplayMissError, trace_scope_sync
from noukai_sdk.models.reports import ReplayReport
from noukai_sdk.replay import callsite
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.lanes import Claim
from tests.support.replays import AsyncSide, SessionService, SyncSide, execution
from tests.support.servers import wait_until

pytestmark = pytest.mark.anyio


async def test_miss_that_the_app_catches_is_reported_and_not_raised_again(
    service: SessionService, side: SyncSide, caplog: pytest.LogCaptureFixture
) -> None:
    service.record(execution(0))
    async with side.scope() as scope:
        await side.execute()
        for message in ("second", "third"):
            with pytest.raises(ReplayMissError) as caught:
                await side.execute(message)
    assert caught.value.position == 2
    assert [entry.position for entry in scope.report.misses] == [1, 2]
    assert scope.report.misses[1].detail == caught.value.reason
    assert not scope.report.clean
    assert scope.report.summary() == "hits=1; misses=2; drift=0; leftovers=0"
    assert "errors that the application caught: hits=1; misses=2" in caplog.text

    service.record(execution(0, slug="other"))
    with pytest.raises(ReplayLeftoverError):
        async with side.scope():
            with pytest.raises(ReplayMissError):
                await side.execute()


async def test_leftovers_are_raised_at_the_end_with_their_names(
    service: SessionService, side: SyncSide
) -> None:
    service.record(
        execution(0),
        execution(1, slug="other", triggerType="step"),
        execution(2),
        execution(3, slug=None),
    )
    with pytest.raises(ReplayLeftoverError) as caught:
        async with side.scope() as scope:
            await side.execute()
    error = caught.value
    assert error.leftovers == (("grade-3", 1), ("other", 0), (None, 0))
    assert "3 recordings unplayed: grade-3 #2, other #1, (deleted flow) #1." in str(error)
    assert "fewer calls" in str(error)
    assert error.report is scope.report
    assert [(entry.detail, entry.call_site) for entry in scope.report.leftovers] == [
        ("grade-3 [execute] exec-2", None),
        ("other [step] exec-1", None),
        ("(deleted flow) [execute] exec-3", None),
    ]

    service.record(*(execution(n) for n in range(13)))
    with pytest.raises(ReplayLeftoverError, match="grade-3 #10 and 3 more") as caught:
        async with side.scope():
            pass
    assert len(caught.value.leftovers) == 13


async def test_recording_of_a_call_that_the_end_overtakes_is_left_over_not_played(
    service: SessionService, side: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Cassette.begin

    def end_replay(cassette: Cassette, claim: Claim) -> None:
        begin(cassette, claim)
        scope.end()

    service.record(execution(0))
    with pytest.raises(ReplayMissError, match="scope has ended already"):
        async with side.scope() as scope:
            monkeypatch.setattr(Cassette, "begin", end_replay)
            await side.execute()
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=1"


async def test_error_of_the_body_is_raised_over_misses_and_leftovers(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0, slug="other"))
    with pytest.raises(ZeroDivisionError):
        async with side.scope() as scope:
            with pytest.raises(ReplayMissError):
                await side.execute()
            raise ZeroDivisionError
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=1"


async def test_drift_names_the_fields_that_differ(service: SessionService, side: SyncSide) -> None:
    request = {"message": "m0", "parameters": {"a": 1}, "toolChoice": "auto"}
    call = {"slug": "grade-3", "version": 2, "request": request}
    flag = {"slug": "grade-3", "request": {"message": "m0", "parameters": {"strict": True}}}
    nested = {"b": [1], "a": {"d": None, "c": 1}}
    same = {"slug": "grade-3", "request": {"message": "m0", "parameters": nested, "stepIndex": 0}}
    calls = (call, call, call, flag, same)
    service.record(*(execution(n, call=each, result=n) for n, each in enumerate(calls)))
    async with side.scope() as scope:
        await side.execute("other", parameters={"a": 2}, version=2)
        await side.execute("m0", parameters={"a": 1}, tool_choice="auto")
        await side.execute("m0", parameters={"a": 1}, tool_choice="auto", version=2)
        await side.execute("m0", parameters={"strict": 1})
        await side.execute("m0", parameters={"a": {"c": 1, "d": None}, "b": (1,)})
    assert [(entry.position, entry.detail) for entry in scope.report.drift] == [
        (0, "the input differs from the recorded one in: message, parameters.a, toolChoice"),
        (1, "the input differs from the recorded one in: version"),
        (3, "the input differs from the recorded one in: parameters.strict"),
    ]


async def test_strict_inputs_turn_drift_into_a_miss(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0), execution(1))
    async with side.scope(strict_inputs=True) as scope:
        with pytest.raises(
            ReplayMissError, match="differs from the recorded one in: message"
        ) as miss:
            await side.execute("other")
        await side.execute("m1")
    assert "inputs are strict" in str(miss.value)
    assert scope.report.summary() == "hits=1; misses=1; drift=1; leftovers=0"


async def test_report_is_plain_json(service: SessionService, side: SyncSide) -> None:
    assert ReplayReport().clean
    service.record(execution(0), execution(1))
    with pytest.raises(ReplayLeftoverError):
        async with side.scope() as scope:
            await side.execute("other")
    report = scope.report.as_dict()
    assert json.loads(json.dumps(report)) == report
    (hit,) = report["hits"]
    assert ".py:" in hit.pop("callSite")
    assert hit == {"slug": "grade-3", "kind": "execute", "position": 0, "detail": ""}
    assert [left["callSite"] for left in report["leftovers"]] == [None]
    assert scope.report.summary() == "hits=1; misses=0; drift=1; leftovers=1"


async def test_call_site_is_the_line_of_the_application(
    service: SessionService, async_side: AsyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.record(execution(0))

    async def application() -> Any:
        return await async_side.flow().execute(message="m0")

    async with async_side.scope() as scope:
        await application()
    (hit,) = scope.report.hits
    line = application.__code__.co_firstlineno + 1
    assert str(hit.call_site) == f"{__file__}:{line} in application"
    monkeypatch.setattr(callsite, "_PACKAGE", "")  # all code is ours
    assert callsite.call_site() is None


def test_call_site_of_a_thread_without_python_code_is_none(
    service: SessionService, sync_side: SyncSide
) -> None:
    service.record(execution(0))
    with trace_scope_sync(replay_session_id="s-1", client=sync_side.client) as scope:
        call = (copy_context().run, (sync_side.flow().execute,), {"message": "m0"})
        _thread.start_new_thread(*call)
        wait_until(lambda: scope.report.hits)
    assert scope.report.hits[0].call_site is None
