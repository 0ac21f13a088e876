"""What only a recorder keeps, or only a damaged file holds: played from recordings made by hand."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from noukai_sdk import (
    APIConnectionError,
    InsufficientCreditsError,
    RateLimitError,
    ReplayError,
    ReplayInvalidSessionError,
    ReplayMissError,
)
from noukai_sdk.models.sessions import RecordedError
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session.replay_scope import ReplayScope
from noukai_sdk.session.scope import active
from tests.replay.service import Side

pytestmark = pytest.mark.anyio


def recording(kind: Any = "execute", **fields: Any) -> Recording:
    return Recording(slug="grade-3", kind=kind, request={"message": "m0"}, **fields)


@contextmanager
def replaying(*recordings: Recording) -> Iterator[ReplayScope]:
    scope = ReplayScope(Cassette(None, recordings))
    try:
        with active(scope):
            yield scope
        scope.verify()
    finally:
        scope.end()


@pytest.mark.parametrize("kind", ["execute", "step"])
async def test_an_error_comes_back_with_its_class_and_attributes(side: Side, kind: str) -> None:
    error = RecordedError(
        type="RateLimitError", message="slow down", status_code=429, details={"retry_after": 2.5}
    )
    call = side.execute if kind == "execute" else side.events
    with replaying(recording(kind, error=error)), pytest.raises(RateLimitError) as caught:
        await call()
    assert str(caught.value) == "slow down"
    assert (caught.value.retry_after, caught.value.status_code) == (2.5, 429)


async def test_an_error_of_the_connection_comes_back_too(side: Side) -> None:
    error = RecordedError(type="APIConnectionError", details={"request_sent": False})
    with replaying(recording(error=error)), pytest.raises(APIConnectionError) as caught:
        await side.execute()
    assert not caught.value.request_sent


async def test_an_error_with_attributes_that_its_class_lacks_is_malformed(side: Side) -> None:
    error = RecordedError(type="RateLimitError", details={"colour": "red"})
    malformed = pytest.raises(ReplayInvalidSessionError, match="malformed: RateLimitError")
    with malformed, replaying(recording(error=error)) as scope, suppress(ReplayError):
        await side.execute()
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


async def test_a_class_that_is_none_of_ours_is_not_looked_for(side: Side) -> None:
    error = RecordedError(type="Sequence", code="CREDITS_EXHAUSTED", message="empty")
    with replaying(recording(error=error)), pytest.raises(InsufficientCreditsError) as caught:
        await side.execute()
    assert str(caught.value) == "CREDITS_EXHAUSTED: empty"


async def test_a_stream_that_the_service_just_closed_ends_as_it_did(side: Side) -> None:
    events = [{"eventType": "run_started"}, {"eventType": "step_started", "stepId": "a"}]
    with replaying(recording("step", events=events, closed=True)) as scope:
        assert [event.type for event in await side.events()] == ["run_started", "step_started"]
    assert scope.report.clean


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"result": {}}, "JobSubmission"),
        ({"result": {"executionId": 7}}, "JobSubmission"),
        ({"result": {"executionId": "e"}, "statuses": [{}]}, "a poll of the job"),
    ],
)
async def test_a_malformed_job_is_refused(side: Side, fields: dict[str, Any], said: str) -> None:
    malformed = pytest.raises(ReplayInvalidSessionError, match=f"malformed: {said}")
    with malformed, replaying(recording("job", **fields)):
        await side.submit()


async def test_a_malformed_result_is_refused(side: Side) -> None:
    malformed = pytest.raises(ReplayInvalidSessionError, match="malformed: ExecuteResult: status")
    with malformed, replaying(recording(result={"status": "unheard of"})):
        await side.execute()


async def test_a_request_without_a_message_matches_one_without(side: Side) -> None:
    turns = [{"role": "user", "content": "hello"}]
    recorded = Recording(
        slug="grade-3",
        kind="execute",
        request={"messages": turns},
        result={"status": "completed", "result": 1},
    )
    with replaying(recorded) as scope:
        result = await side.execute(None, messages=turns)  # type: ignore[arg-type]  # messages take the message's place
    assert result.result == 1
    assert scope.report.clean


async def test_a_miss_in_a_cassette_of_no_session(side: Side) -> None:
    with pytest.raises(ReplayMissError) as caught, replaying() as scope:
        assert scope.session_id is None
        await side.execute()
    assert caught.value.recorded == 0


def test_recordings_say_what_they_are() -> None:
    assert str(recording(execution_id="e-1")) == "grade-3 [execute] e-1"
    assert str(Recording(slug=None, kind=None)) == "(deleted flow) [any kind] "
