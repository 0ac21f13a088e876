"""``session_id=`` on a call inside a replay scope: that one call from another session."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

from typing import Any

import httpx
import pytest

from noukai_sdk import (
    APIConnectionError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayLeftoverError,
    ReplayMissError,
    ReplayNoSnapshotsError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
)
from noukai_sdk.errors import NoukaiError
from noukai_sdk.replay.player import ReplayConcurrencyWarning
from tests.replay.service import AsyncSide, Service, Side, execution, step

pytestmark = pytest.mark.anyio


async def test_the_call_comes_from_there_and_the_own_place_is_used_up(
    service: Service, side: Side
) -> None:
    service.record(execution(0), execution(1), execution(2))
    service.record(execution(0, "theirs"), execution(1, "more"), session_id="s-2")
    async with side.scope() as scope:
        assert (await side.execute("m0")).result == "answer to m0"
        theirs = await side.execute("theirs", session_id="s-2")
        assert (theirs.result, theirs.session_id) == ("answer to theirs", "s-2")
        assert (await side.execute("m2")).result == "answer to m2"
    assert service.fetches == ["s-1", "s-2"]
    assert scope.report.summary() == "hits=3; misses=0; drift=0; leftovers=0"


async def test_each_call_is_one_fetch_and_gets_the_first_recording(
    service: Service, side: Side
) -> None:
    service.record()
    service.record(execution(0, "theirs"), execution(1, "more"), session_id="s-2")
    async with side.scope():
        for _ in range(2):
            theirs = await side.execute("theirs", session_id="s-2")
            assert theirs.result == "answer to theirs"
    assert service.fetches == ["s-1", "s-2", "s-2"]


async def test_the_scopes_own_session_is_no_other(service: Service, side: Side) -> None:
    service.record(execution(0))
    async with side.scope():
        assert (await side.execute(session_id="s-1")).result == "answer to m0"
    assert service.fetches == ["s-1"]


async def test_streams_too(service: Service, side: Side) -> None:
    service.record(execution(0, triggerType="step"))
    service.record(execution(0, triggerType="step", steps=[step("x", 1)]), session_id="s-2")
    async with side.scope():
        assert [each.output for each in await side.steps("m0", session_id="s-2")] == [1]


async def test_the_place_is_claimed_when_the_method_is_called(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0, "a"), execution(1, "b"))
    service.record(execution(0, "theirs"), session_id="s-2")
    async with async_side.scope():
        theirs = async_side.flow().execute(message="theirs", session_id="s-2")
        with pytest.warns(ReplayConcurrencyWarning):
            assert (await async_side.execute("b")).result == "answer to b"
        assert (await theirs).result == "answer to theirs"


async def test_a_call_that_never_begins_leaves_the_own_place(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0))
    async with async_side.scope():
        with pytest.warns(RuntimeWarning, match="never awaited"):
            async_side.flow().execute(message="x", session_id="s-2")
        assert (await async_side.execute()).result == "answer to m0"
    assert service.fetches == ["s-1"]


async def test_drift_and_call_site_land_in_the_scopes_report(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0))
    service.record(execution(0, "theirs"), session_id="s-2")

    def made() -> Any:
        return async_side.flow().execute(message="mine", session_id="s-2")

    async with async_side.scope() as scope:
        await made()
    (hit,) = scope.report.hits
    (drift,) = scope.report.drift
    assert hit.call_site is not None
    assert hit.call_site.function == "made"
    assert "message" in drift.detail


async def test_a_miss_there_is_sticky_here(service: Service, side: Side) -> None:
    service.record(execution(0))
    service.record(execution(0, slug="other"), session_id="s-2")
    with pytest.raises(ReplayMissError, match="did not call"):
        async with side.scope() as scope:
            with pytest.raises(ReplayMissError):
                await side.execute(session_id="s-2")
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


EMPTY = {"sessionId": "s-2", "executions": [execution(0, traceCaptureMode="off")]}
REFUSED: list[tuple[int, Any, type[NoukaiError]]] = [
    (400, {"detail": "bad"}, ReplayInvalidSessionError),
    (403, {"detail": "not yours"}, ReplayForbiddenError),
    (404, {"detail": "unknown"}, ReplaySessionNotFoundError),
    (410, {"detail": "gone"}, ReplaySessionExpiredError),
    (200, [], ReplayInvalidSessionError),
    (200, EMPTY, ReplayNoSnapshotsError),
]


@pytest.mark.parametrize(("status", "body", "kind"), REFUSED)
async def test_a_session_that_cannot_be_had_is_sticky(
    service: Service, side: Side, status: int, body: Any, kind: type[NoukaiError]
) -> None:
    service.record(execution(0))
    service.sessions["s-2"] = lambda: httpx.Response(status, json=body)
    with pytest.raises(kind):
        async with side.scope() as scope:
            with pytest.raises(kind):
                await side.execute(session_id="s-2")
    (missed,) = scope.report.misses
    assert "s-2" in missed.detail


async def test_a_fetch_that_fails_is_sticky(service: Service, side: Side) -> None:
    def refused() -> httpx.Response:
        raise httpx.ConnectError("refused")

    service.record(execution(0))
    service.sessions["s-2"] = refused
    with pytest.raises(APIConnectionError):
        async with side.scope():
            with pytest.raises(APIConnectionError):
                await side.execute(session_id="s-2")


async def test_strict_inputs_hold_there_too(service: Service, side: Side) -> None:
    service.record(execution(0))
    service.record(execution(0, "theirs"), session_id="s-2")
    with pytest.raises(ReplayMissError, match="inputs are strict"):
        async with side.scope(strict_inputs=True):
            await side.execute("mine", session_id="s-2")


async def test_nothing_is_fetched_once_the_scope_has_ended(
    service: Service, async_side: AsyncSide
) -> None:
    service.record()
    service.record(execution(0), session_id="s-2")
    async with async_side.scope():
        late = async_side.flow().execute(message="m0", session_id="s-2")
    with pytest.raises(ReplayMissError, match="ended already"):
        await late
    assert service.fetches == ["s-1"]


async def test_what_is_left_there_is_nobodys_concern(service: Service, side: Side) -> None:
    service.record(execution(0), execution(1))
    service.record(execution(0), execution(1), session_id="s-2")
    with pytest.raises(ReplayLeftoverError) as caught:
        async with side.scope():
            await side.execute(session_id="s-2")
    assert caught.value.leftovers == (("grade-3", 1),)
