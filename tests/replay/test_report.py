"""What a replay tells: misses with reasons, leftovers, drift, and where in the code."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

import _thread
import json
from contextvars import copy_context
from typing import Any

import pytest

from noukai_sdk import ReplayLeftoverError, ReplayMissError, trace_scope_sync
from noukai_sdk.models.reports import CallSite, ReplayReport
from noukai_sdk.replay import callsite
from noukai_sdk.replay.cassette import Cassette, Claim
from tests.replay.service import AsyncSide, Service, Side, SyncSide, execution
from tests.support.servers import wait_until

pytestmark = pytest.mark.anyio


async def test_a_call_too_many_says_so(service: Service, side: Side) -> None:
    service.record(execution(0), execution(1, slug="other"))
    with pytest.raises(ReplayMissError) as caught:
        async with side.scope() as scope:
            await side.execute()
            await side.execute("one more")
    error = caught.value
    assert (error.slug, error.kind, error.position) == ("grade-3", "execute", 1)
    assert (error.recorded, error.remaining) == (1, 1)
    assert "more often than when it was recorded" in str(error.reason)
    assert [str(candidate) for candidate in error.candidates] == [
        "grade-3 [execute] #1, played, differs in message",
        "other [execute] with 1 of 1 unplayed",
    ]
    assert error.report is scope.report
    assert isinstance(error.call_site, CallSite)
    assert error.call_site.file.endswith("service.py")
    assert error.call_site.function == "execute"
    for part in ("execute call 2 of flow 'grade-3'", "holds 1", "1 of 2 are unplayed", "Nearest"):
        assert part in str(error)


async def test_a_flow_that_was_never_called_says_so(service: Service, side: Side) -> None:
    service.record(execution(0, slug="grade-4"))
    with pytest.raises(ReplayMissError, match="did not call when it was recorded") as caught:
        async with side.scope():
            await side.execute()
    assert [str(one) for one in caught.value.candidates] == [
        "grade-4 [execute] with 1 of 1 unplayed"
    ]
    assert (caught.value.recorded, caught.value.remaining) == (0, 1)


async def test_a_flow_that_was_called_another_way_says_so(service: Service, side: Side) -> None:
    service.record(execution(0, triggerType="step"), execution(1, triggerType="job"))
    with pytest.raises(ReplayMissError) as caught:
        async with side.scope():
            await side.execute()
    assert caught.value.reason == (
        "The flow was recorded through execute_async(), steps() or events(), "
        "and is called another way now."
    )


async def test_a_deleted_flow_says_so(service: Service, side: Side) -> None:
    service.record(execution(0, slug=None), execution(1, slug="other"))
    with pytest.raises(ReplayMissError, match="was deleted since") as caught:
        async with side.scope():
            await side.execute()
    assert [str(one) for one in caught.value.candidates] == ["other [execute] with 1 of 1 unplayed"]


async def test_a_miss_cannot_be_hidden(service: Service, side: Side) -> None:
    service.record(execution(0))
    with pytest.raises(ReplayMissError) as caught:
        async with side.scope() as scope:
            await side.execute()
            for message in ("second", "third"):
                with pytest.raises(ReplayMissError):
                    await side.execute(message)
    assert caught.value.position == 1
    assert [entry.position for entry in scope.report.misses] == [1, 2]
    assert scope.report.misses[0].detail == caught.value.reason
    assert not scope.report.clean


async def test_a_miss_beats_the_leftovers(service: Service, side: Side) -> None:
    service.record(execution(0, slug="other"))
    with pytest.raises(ReplayMissError):
        async with side.scope() as scope:
            with pytest.raises(ReplayMissError):
                await side.execute()
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=1"


async def test_what_is_left_is_raised_at_the_end(service: Service, side: Side) -> None:
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
    assert [entry.detail for entry in scope.report.leftovers] == [
        "grade-3 [execute] exec-2",
        "other [step] exec-1",
        "(deleted flow) [execute] exec-3",
    ]
    assert all(entry.call_site is None for entry in scope.report.leftovers)


async def test_recording_of_call_that_scope_end_overtakes_is_left_over_not_played(
    service: Service, side: Side, monkeypatch: pytest.MonkeyPatch
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


async def test_many_leftovers_are_named_up_to_ten(service: Service, side: Side) -> None:
    service.record(*(execution(n) for n in range(13)))
    with pytest.raises(ReplayLeftoverError, match="grade-3 #10 and 3 more") as caught:
        async with side.scope():
            pass
    assert len(caught.value.leftovers) == 13


async def test_leftovers_do_not_cover_the_bodys_own_error(service: Service, side: Side) -> None:
    service.record(execution(0))
    with pytest.raises(ZeroDivisionError):
        async with side.scope() as scope:
            raise ZeroDivisionError
    assert len(scope.report.leftovers) == 1


async def test_a_hidden_miss_does_not_cover_the_bodys_own_error(
    service: Service, side: Side
) -> None:
    service.record()
    with pytest.raises(ZeroDivisionError):
        async with side.scope() as scope:
            with pytest.raises(ReplayMissError):
                await side.execute()
            raise ZeroDivisionError
    assert len(scope.report.misses) == 1


async def test_drift_names_the_fields(service: Service, side: Side) -> None:
    request = {"message": "m0", "parameters": {"a": 1}, "toolChoice": "auto"}
    call = {"slug": "grade-3", "version": 2, "request": request}
    service.record(
        execution(0, call=call, result=0),
        execution(1, call=call, result=1),
        execution(2, call=call, result=2),
    )
    async with side.scope() as scope:
        await side.execute("other", parameters={"a": 2}, version=2)
        await side.execute("m0", parameters={"a": 1}, tool_choice="auto")
        await side.execute("m0", parameters={"a": 1}, tool_choice="auto", version=2)
    assert [(entry.position, entry.detail) for entry in scope.report.drift] == [
        (0, "the input differs from the recorded one in: message, parameters, toolChoice"),
        (1, "the input differs from the recorded one in: version"),
    ]


async def test_the_same_input_written_another_way_is_no_drift(service: Service, side: Side) -> None:
    request = {"message": "m0", "parameters": {"b": [1], "a": {"d": None, "c": 1}}, "stepIndex": 0}
    call = {"slug": "grade-3", "request": request}
    service.record(execution(0, call=call, result=0))
    async with side.scope() as scope:
        await side.execute("m0", parameters={"a": {"c": 1, "d": None}, "b": (1,)})
    assert scope.report.clean


async def test_a_truth_value_is_no_number(service: Service, side: Side) -> None:
    call = {"slug": "grade-3", "request": {"message": "m0", "parameters": {"strict": True}}}
    service.record(execution(0, call=call, result=0))
    async with side.scope() as scope:
        await side.execute("m0", parameters={"strict": 1})
    assert [entry.detail for entry in scope.report.drift] == [
        "the input differs from the recorded one in: parameters"
    ]


async def test_strict_inputs_make_a_miss_of_drift(service: Service, side: Side) -> None:
    service.record(execution(0), execution(1))
    with pytest.raises(ReplayMissError, match="inputs are strict"):
        async with side.scope(strict_inputs=True) as scope:
            with pytest.raises(ReplayMissError, match="differs from the recorded one in: message"):
                await side.execute("other")
            await side.execute("m1")
    assert scope.report.summary() == "hits=1; misses=1; drift=1; leftovers=0"


async def test_the_report_as_json(service: Service, side: Side) -> None:
    service.record(execution(0), execution(1))
    with pytest.raises(ReplayLeftoverError):
        async with side.scope() as scope:
            await side.execute("other")
    report = scope.report.as_dict()
    assert json.loads(json.dumps(report)) == report
    (hit,) = report["hits"]
    assert hit.pop("callSite").startswith(f"{__file__.replace('test_report', 'service')}:")
    assert hit == {"slug": "grade-3", "kind": "execute", "position": 0, "detail": ""}
    assert [left["callSite"] for left in report["leftovers"]] == [None]
    assert scope.report.summary() == "hits=1; misses=0; drift=1; leftovers=1"


def test_an_empty_report_is_clean() -> None:
    assert ReplayReport().clean


async def test_the_call_site_is_the_applications(service: Service, async_side: AsyncSide) -> None:
    service.record(execution(0))

    async def application() -> Any:
        return await async_side.flow().execute(message="m0")

    async with async_side.scope() as scope:
        await application()
    (hit,) = scope.report.hits
    assert hit.call_site is not None
    line = application.__code__.co_firstlineno + 1
    assert str(hit.call_site) == f"{__file__}:{line} in application"


def test_where_all_code_is_ours_there_is_no_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callsite, "_PACKAGE", "")
    assert callsite.call_site() is None


def test_a_call_from_no_python_code_has_no_site(service: Service, sync_side: SyncSide) -> None:
    """As in a thread that runs nothing but C code and ours."""
    service.record(execution(0))
    with trace_scope_sync(replay_session_id="s-1", client=sync_side.client) as scope:
        call = (copy_context().run, (sync_side.flow().execute,), {"message": "m0"})
        _thread.start_new_thread(*call)
        wait_until(lambda: scope.report.hits)
    assert scope.report.hits[0].call_site is None
