"""``session_id=`` on a call inside a replay scope: that one call from another session."""

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
from tests.support.replays import AsyncSide, SessionService, SyncSide, execution, step

pytestmark = pytest.mark.anyio


async def test_call_from_other_session_uses_its_own_place_up(
    service: SessionService, side: SyncSide
) -> None:
    service.record(*(execution(n) for n in range(4)), execution(4, triggerType="step"))
    service.record(
        execution(0, "theirs"),
        execution(1, "more"),
        execution(2, triggerType="step", steps=[step("x", 1)]),
        session_id="s-2",
    )
    async with side.scope() as scope:
        assert await side.ask("m0") == ["answer to m0"]
        for _ in range(2):  # each call is one fetch, and gets the first recording
            theirs = await side.execute("theirs", session_id="s-2")
            assert (theirs.result, theirs.session_id) == ("answer to theirs", "s-2")
        assert await side.ask("m3", session_id="s-1") == ["answer to m3"]  # the scope's own
        assert await side.outputs("m2", session_id="s-2") == [1]
    assert service.fetches == ["s-1", "s-2", "s-2", "s-2"]
    assert scope.report.summary() == "hits=5; misses=0; drift=0; leftovers=0"


async def test_call_from_other_session_claims_its_place_when_it_is_made(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0, "a"), execution(1, "b"))
    service.record(execution(0, "theirs"), session_id="s-2")
    async with async_side.scope():
        theirs = async_side.flow().execute(message="theirs", session_id="s-2")
        with pytest.warns(ReplayConcurrencyWarning):
            assert await async_side.ask("b") == ["answer to b"]
        assert (await theirs).result == "answer to theirs"

    service.record(execution(0))
    async with async_side.scope():
        with pytest.warns(RuntimeWarning, match="never awaited"):
            async_side.flow().execute(message="x", session_id="s-2")
        assert await async_side.ask("m0") == ["answer to m0"]
    assert service.fetches == ["s-1", "s-2", "s-1"]


async def test_drift_and_call_site_go_to_the_report_of_the_scope(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    service.record(execution(0, "theirs"), session_id="s-2")

    def application() -> Any:
        return async_side.flow().execute(message="mine", session_id="s-2")

    async with async_side.scope() as scope:
        await application()
        await application()
    (hit, _), (drift, _) = scope.report.hits, scope.report.drift
    assert hit.call_site is not None
    assert hit.call_site.function == "application"
    assert "message" in drift.detail
    with pytest.raises(ReplayMissError, match="inputs are strict"):
        async with async_side.scope(strict_inputs=True):
            await application()


async def test_miss_and_leftovers_of_the_other_session(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0), execution(1))
    service.record(execution(0), execution(1, slug="other"), session_id="s-2")
    with pytest.raises(ReplayLeftoverError) as caught:  # only the scope's own recordings count
        async with side.scope():
            await side.execute(session_id="s-2")
    assert caught.value.leftovers == (("grade-3", 1),)

    service.record(execution(0), execution(1))
    service.record(execution(0, slug="other"), session_id="s-2")
    async with side.scope() as scope:
        with pytest.raises(ReplayMissError, match="did not call"):
            await side.execute(session_id="s-2")
        await side.execute("m1")
    assert scope.report.summary() == "hits=1; misses=1; drift=0; leftovers=0"


EMPTY = {"sessionId": "s-2", "executions": [execution(0, traceCaptureMode="off")]}
REFUSED: list[tuple[int | None, Any, type[NoukaiError]]] = [
    (400, {"detail": "bad"}, ReplayInvalidSessionError),
    (403, {"detail": "not yours"}, ReplayForbiddenError),
    (404, {"detail": "unknown"}, ReplaySessionNotFoundError),
    (410, {"detail": "gone"}, ReplaySessionExpiredError),
    (200, [], ReplayInvalidSessionError),
    (200, EMPTY, ReplayNoSnapshotsError),
    (None, None, APIConnectionError),
]


@pytest.mark.parametrize(("status", "body", "kind"), REFUSED)
async def test_other_session_that_is_not_available_is_raised_and_reported(
    service: SessionService, side: SyncSide, status: int | None, body: Any, kind: type[NoukaiError]
) -> None:
    def respond() -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(status, json=body)

    service.record(execution(0))
    service.sessions["s-2"] = respond
    async with side.scope() as scope:
        with pytest.raises(kind):
            await side.execute(session_id="s-2")
    (miss,) = scope.report.misses
    assert "s-2" in miss.detail or status is None


async def test_other_session_is_not_fetched_after_the_end_of_the_scope(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record()
    service.record(execution(0), session_id="s-2")
    async with async_side.scope():
        late = async_side.flow().execute(message="m0", session_id="s-2")
    with pytest.raises(ReplayMissError, match="ended already"):
        await late
    assert service.fetches == ["s-1"]
