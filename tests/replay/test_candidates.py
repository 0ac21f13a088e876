"""A miss says which recordings are nearest, and which part of the input differs from them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import ReplayMissError
from noukai_sdk.models.reports import Candidate
from noukai_sdk.replay.cassette_file import write_cassette
from noukai_sdk.replay.misses import differing_parts
from noukai_sdk.replay.recording import Recording
from tests.replay.echo import Echo, EchoSync

pytestmark = pytest.mark.anyio

FLOW = "acme/p/flow"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def recording(request: dict[str, Any] | None, **fields: Any) -> Recording:
    result = {"status": "completed", "result": 1}
    return Recording(
        **{"slug": "flow", "kind": "execute", "request": request, "result": result, **fields}
    )


async def miss(
    tmp_path: Path, *kept: Recording, calls: Any = (), **options: Any
) -> ReplayMissError:
    """The miss that the last of these calls gets."""
    write_cassette(tmp_path / "c.jsonl", "s", kept)
    side = EchoSync(Echo())

    async def body() -> None:
        async with side.scope(cassette=tmp_path / "c.jsonl", **options):
            for call in calls:
                await side.execute(slug=FLOW, **call)

    with pytest.raises(ReplayMissError) as caught:
        await body()
    return caught.value


async def test_with_strict_inputs_the_part_is_named(tmp_path: Path) -> None:
    error = await miss(
        tmp_path,
        recording({"message": "hello", "parameters": {"level": 3, "to": {"name": "Ann"}}}),
        calls=[{"message": "hello", "parameters": {"level": 4, "to": {"name": "Bob"}}}],
        strict_inputs=True,
    )
    (candidate,) = error.candidates
    assert candidate == Candidate(
        "flow", "execute", 1, 0, 0, ("parameters.level", "parameters.to.name")
    )
    assert (
        "Nearest: flow [execute] #1, played, differs in parameters.level, parameters.to.name."
        in (str(error))
    )
    assert "Bob" not in str(error)
    assert pickle.loads(pickle.dumps(error)).candidates == error.candidates


async def test_a_call_too_many_may_be_one_that_was_made_before(tmp_path: Path) -> None:
    error = await miss(
        tmp_path, recording({"message": "a"}), calls=[{"message": "a"}, {"message": "a"}]
    )
    assert [str(one) for one in error.candidates] == ["flow [execute] #1, played, has this input"]


async def test_the_nearest_come_first_and_are_three_at_most(tmp_path: Path) -> None:
    error = await miss(
        tmp_path,
        recording({"message": "something else", "parameters": {"a": 1}}),
        recording({"message": "quite another thing"}),
        recording({"message": "the cat sat on a mat"}),
        recording(None),
        recording({"message": "the cat sat"}, slug="flow-2"),
        calls=[{"message": "x"}] * 4 + [{"message": "the cat sat on the mat"}],
    )
    assert [one.position for one in error.candidates] == [2, 1, 0]
    assert [one.differs for one in error.candidates] == [
        ("message",),
        ("message",),
        ("message", "parameters"),
    ]


async def test_other_kinds_of_call_and_other_flows_follow(tmp_path: Path) -> None:
    error = await miss(
        tmp_path,
        recording({"message": "a"}, kind="step", version=3),
        recording({"message": "a"}, slug="floe"),
        recording({"message": "a"}, slug="something"),
        recording({"message": "a"}, slug=None),
        calls=[{"message": "a"}],
    )
    assert [str(one) for one in error.candidates] == [
        "flow [step] #1, unplayed, differs in version",
        "floe [execute] with 1 of 1 unplayed",
        "something [execute] with 1 of 1 unplayed",
    ]


async def test_what_did_not_say_its_input(tmp_path: Path) -> None:
    error = await miss(
        tmp_path,
        recording(None),
        recording({"message": "b"}, message_only=True),
        calls=[{"message": "a"}] * 3,
    )
    assert [str(one) for one in error.candidates] == [
        "flow [execute] #2, played, differs in message",
        "flow [execute] #1, played",
    ]


async def test_what_was_redacted_is_no_difference(tmp_path: Path) -> None:
    request = {"message": "a", "parameters": {"password": "[redacted]"}}
    error = await miss(
        tmp_path,
        recording(request),
        calls=[{"message": "a", "parameters": {"password": "x"}}] * 2,
    )
    assert error.candidates[0].differs == ()


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
def test_the_parts_that_differ(
    recorded: dict[str, Any], called: dict[str, Any], parts: list[str]
) -> None:
    assert differing_parts(recorded, called) == parts
