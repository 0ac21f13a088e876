"""A miss explains itself: the reason, the nearest recordings, and how the input differs from them."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import ReplayMissError
from noukai_sdk.models.reports import CallSite, Candidate
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.misses import differing_parts
from noukai_sdk.replay.recording import Recording
from tests.support.replays import SessionService, SyncSide, execution

pytestmark = pytest.mark.anyio

FLOW = "acme/p/flow"


async def test_miss_of_one_call_too_many_carries_the_facts(
    service: SessionService, side: SyncSide
) -> None:
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
    assert error.call_site.file.endswith("replays.py")
    assert error.call_site.function == "execute"
    for part in ("execute call 2 of flow 'grade-3'", "holds 1", "1 of 2 are unplayed", "Nearest"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("executions", "reason", "candidates"),
    [
        (
            [execution(0, slug="grade-4")],
            "did not call when it was recorded",
            ["grade-4 [execute] with 1 of 1 unplayed"],
        ),
        (
            [execution(0, triggerType="step"), execution(1, triggerType="job")],
            "recorded through execute_async(), steps() or events(), and is now called by another method",
            [
                "grade-3 [step] #1, unplayed, has this input",
                "grade-3 [job] #1, unplayed, differs in message",
            ],
        ),
        (
            [execution(0, slug=None), execution(1, slug="other")],
            "A flow of this session has since been deleted",
            ["other [execute] with 1 of 1 unplayed"],
        ),
    ],
)
async def test_miss_of_a_flow_without_recordings_says_why(
    service: SessionService, side: SyncSide, executions: Any, reason: str, candidates: list[str]
) -> None:
    service.record(*executions)
    with pytest.raises(ReplayMissError) as caught:
        async with side.scope():
            await side.execute()
    assert reason in str(caught.value)
    assert reason in str(caught.value.reason)
    assert [str(candidate) for candidate in caught.value.candidates] == candidates


def recording(request: dict[str, Any] | None, **fields: Any) -> Recording:
    result = {"status": "completed", "result": 1}
    return Recording(
        **{"slug": "flow", "kind": "execute", "request": request, "result": result, **fields}
    )


async def miss(
    tmp_path: Path, *kept: Recording, calls: Any = (), **options: Any
) -> ReplayMissError:
    """The miss of the last of these calls."""
    write_cassette(tmp_path / "c.jsonl", "s", kept)
    side = SyncSide(SessionService())
    with pytest.raises(ReplayMissError) as caught:
        async with side.scope(cassette=tmp_path / "c.jsonl", **options):
            for call in calls:
                await side.execute(slug=FLOW, **call)
    return caught.value


async def test_miss_by_strict_inputs_names_the_differing_parts_but_not_their_values(
    tmp_path: Path,
) -> None:
    error = await miss(
        tmp_path,
        recording({"message": "hello", "parameters": {"level": 3, "to": {"name": "Ann"}}}),
        calls=[{"message": "hello", "parameters": {"level": 4, "to": {"name": "Bob"}}}],
        strict_inputs=True,
    )
    parts = ("parameters.level", "parameters.to.name")
    assert error.candidates == (Candidate("flow", "execute", 1, 0, 0, parts),)
    assert f"Nearest: flow [execute] #1, played, differs in {', '.join(parts)}." in str(error)
    assert "Bob" not in str(error)
    assert pickle.loads(pickle.dumps(error)).candidates == error.candidates


async def test_nearest_recordings_come_first_and_are_three_at_most(tmp_path: Path) -> None:
    error = await miss(
        tmp_path,
        recording({"message": "something else", "parameters": {"a": 1}}),
        recording({"message": "quite another thing"}),
        recording({"message": "the cat sat on a mat"}),
        recording(None),
        recording({"message": "the cat sat"}, slug="flow-2"),
        calls=[{"message": "x"}] * 4 + [{"message": "the cat sat on the mat"}],
    )
    assert [(each.position, each.differs) for each in error.candidates] == [
        (2, ("message",)),
        (1, ("message",)),
        (0, ("message", "parameters")),
    ]


async def test_nearest_recordings_of_other_kinds_and_flows_follow(tmp_path: Path) -> None:
    error = await miss(
        tmp_path,
        recording({"message": "a"}, kind="step", version=3),
        recording({"message": "a"}, slug="floe"),
        recording({"message": "a"}, slug="something"),
        recording({"message": "a"}, slug=None),
        calls=[{"message": "a"}],
    )
    assert [str(each) for each in error.candidates] == [
        "flow [step] #1, unplayed, differs in version",
        "floe [execute] with 1 of 1 unplayed",
        "something [execute] with 1 of 1 unplayed",
    ]


async def test_nearest_recordings_with_unknown_or_redacted_input_claim_no_difference(
    tmp_path: Path,
) -> None:
    error = await miss(
        tmp_path,
        recording(None),
        recording({"message": "b"}, message_only=True),
        calls=[{"message": "a"}] * 3,
    )
    assert [str(each) for each in error.candidates] == [
        "flow [execute] #2, played, differs in message",
        "flow [execute] #1, played",
    ]
    error = await miss(
        tmp_path,
        recording({"message": "a", "parameters": {"password": "[redacted]"}}),
        calls=[{"message": "a", "parameters": {"password": "x"}}] * 2,
    )
    assert [str(each) for each in error.candidates] == ["flow [execute] #1, played, has this input"]


@pytest.mark.parametrize(
    ("recorded", "called", "parts"),
    [
        ({"message": "a"}, {"message": "a"}, []),
        ({"message": "a"}, {"message": "b"}, ["message"]),
        ({"message": "a"}, {"messages": []}, ["message", "messages"]),
        ({"parameters": {"a": 1}}, {"parameters": {"a": True}}, ["parameters.a"]),
        ({"parameters": {"a": 1}}, {"parameters": {"a": 1.0}}, ["parameters.a"]),
        ({"parameters": {"a": 1}}, {"parameters": {"b": 1}}, ["parameters.a", "parameters.b"]),
        ({"parameters": {}}, {"parameters": {"b": 1}}, ["parameters"]),
        (
            {"tools": [{"a": 1}, {"b": {"c": 2}}]},
            {"tools": [{"a": 1}, {"b": {"c": 3}}]},
            ["tools[1].b.c"],
        ),
        ({"tools": [1]}, {"tools": [1, 2]}, ["tools"]),
        ({"trace": True}, {"runRemaining": True}, []),
    ],
)
def test_differing_parts_are_paths_into_the_input(
    recorded: dict[str, Any], called: dict[str, Any], parts: list[str]
) -> None:
    assert differing_parts(recorded, called) == parts
