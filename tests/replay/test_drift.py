"""Drift shows what was recorded and what was sent; findings name the calls that explain a replay."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noukai_sdk import ReplayError, ReplayLeftoverError, ReplayMissError
from noukai_sdk.models.reports import ReplayReport
from noukai_sdk.replay.drift import diff
from tests.support.replays import (
    TOOLS,
    AsyncSide,
    SessionService,
    SyncSide,
    execution,
    together,
    weather,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::noukai_sdk.replay.player.ReplayConcurrencyWarning"),
]

KEY = "nk_live_0123456789abcdefABCDEF"
CAT, DOG, BIRD = "Grade: the cat sat.", "Grade: a dog ran fast.", "Grade: some birds sing."


def calls(*messages: str, **fields: Any) -> list[dict[str, Any]]:
    """Recorded calls, one after the other."""
    return [execution(n, message, **fields) for n, message in enumerate(messages)]


async def replay(side: SyncSide, *made: dict[str, Any]) -> tuple[ReplayReport, str]:
    """The report of a replay that makes these calls, and its first error."""
    error = ""
    try:
        async with side.scope() as scope:
            for each in made:
                kind = each.get("kind", "execute")
                options = {name: value for name, value in each.items() if name != "kind"}
                await (side.events if kind == "step" else side.execute)(**options)
    except ReplayError as raised:
        error = str(raised)
    return scope.report, error


async def test_drift_shows_both_values_in_report_and_log_with_secrets_masked(
    service: SessionService, side: SyncSide, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = {
        "message": "The cat sat.",
        "parameters": {"level": 1, "password": "hunter2", "a": 1},
    }
    service.record(execution(0, call={"slug": "grade-3", "version": 2, "request": recorded}))
    sent = {"level": 2, "password": "hunter3", "a": 1, "key": f"nk_test and {KEY}"}
    report, _ = await replay(side, {"message": "The \x1b[31mdog\u202e sat.", "parameters": sent})

    (drift,) = report.drift
    assert {change.path: (change.recorded, change.sent) for change in drift.changes} == {
        "message": ("The cat sat.", "The \x1b[31mdog\u202e sat."),
        "parameters.key": (None, "[redacted] and [redacted]"),
        "parameters.level": (1, 2),
        "parameters": (None, None),  # the password is masked on both sides
        "version": ("2", "draft"),
    }
    assert drift.changes[0].diff == "- The cat sat.\n+ The \\x1b[31mdog\\u202e sat."
    assert drift.call_site is not None
    content = report.as_dict()["drift"][0]["changes"][0]
    assert content == dict(drift.changes[0]._asdict())
    (record,) = (each for each in caplog.records if "differs from its recording" in each.message)
    assert record.levelname == "WARNING"
    for part in ("    - The cat sat.", str(drift.call_site), "message, parameters.key", "drift=1"):
        assert part in record.message
    everything = json.dumps(report.as_dict()) + record.message
    assert "hunter" not in everything
    assert KEY not in everything
    assert "\x1b" not in record.message


async def test_drift_of_tool_results_shows_both(service: SessionService, side: SyncSide) -> None:
    service.record(weather())
    handler = {"call_1": "sunny", "call_2": "cold", "call_3": "password=hunter2"}
    async with side.scope() as scope:
        await side.execute(
            "weather?",
            tools=TOOLS,
            tool_handler=lambda tool_calls: [
                {"tool_call_id": call["id"], "output": handler[call["id"]]} for call in tool_calls
            ],
        )
    (drift,) = scope.report.drift
    assert [(change.path, change.diff) for change in drift.changes] == [
        ("rounds[1].toolResults[0].content", "- hot\n+ cold"),
        ("rounds[1].toolResults[1].content", "- snow\n+ password=[redacted]"),
    ]


async def test_drift_of_many_calls_and_of_long_values_names_the_fields_only(
    service: SessionService, side: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.replay.misses.MOST_SHOWN", 3)
    monkeypatch.setattr("noukai_sdk.replay.misses._MOST_READ", 1000)
    service.record(*calls("a", "b" * 2000, "c", "d"))
    report, _ = await replay(side, *({"message": message} for message in "wxyz"))
    shown = [[change.diff for change in entry.changes] for entry in report.drift]
    assert shown == [["- a\n+ w"], ["  too long to show"], ["- c\n+ y"], []]
    assert {entry.detail for entry in report.drift} == {
        "the input differs from the recorded one in: message"
    }


async def test_input_that_the_program_changes_later_drifts_as_it_was_sent(
    service: SessionService, side: SyncSide
) -> None:
    request = {"messages": [{"role": "user", "content": "one"}]}
    later = {"messages": [*request["messages"], {"role": "user", "content": "two"}]}
    record = [{"slug": "grade-3", "request": each} for each in (request, later)]
    service.record(*(execution(n, call=each, result=n) for n, each in enumerate(record)))
    messages = [{"role": "user", "content": "won"}]
    async with side.scope() as scope:
        for text in ("two", "three"):
            await side.execute(None, messages=messages)
            messages.append({"role": "user", "content": text})
    assert [(entry.position, entry.changes[0].path) for entry in scope.report.drift] == [
        (0, "messages[0].content"),
        (1, "messages[0].content"),
    ]
    assert [finding.what for finding in scope.report.findings] == ["changed", "changed"]


@pytest.mark.parametrize(
    ("recorded", "made", "texts"),
    [
        ((CAT, DOG, BIRD), (DOG, CAT, BIRD), ["calls 1 and 2 look swapped (grade-3, "]),
        ((CAT, DOG, BIRD), (CAT, "Hi!", DOG, BIRD), ["call 2 was added (grade-3, replays.py:"]),
        ((CAT, DOG, BIRD), (CAT, BIRD), [f"the recorded call 2 ('{DOG}') was removed (grade-3)"]),
        ((CAT, DOG, BIRD), (DOG, BIRD, CAT), [f"the recorded call 1 ('{CAT}') is made as call 3 "]),
        ((CAT, DOG), (CAT, DOG.replace("fast", "far")), ["message of call 2 changed (grade-3, "]),
        (
            (CAT, DOG, BIRD),
            (CAT.replace("sat", "sits"), BIRD.replace("sing", "fly")),
            [
                "message of call 1 changed (grade-3, ",
                f"the recorded call 2 ('{DOG}') was removed (grade-3)",
                "message of call 2 changed (grade-3, ",
            ],
        ),
        # A program that tries again when it need not, and one that no longer tries again.
        ((CAT, DOG), (CAT, CAT, DOG), ["call 2 was added (grade-3, "]),
        ((CAT, CAT, CAT), (CAT, CAT), [f"the recorded call 3 ('{CAT}') was removed (grade-3)"]),
        ((CAT, DOG), (BIRD, "x"), ["message of call 1 changed", "message of call 2 changed"]),
        ((CAT,), (), [f"the recorded call 1 ('{CAT}') was removed (grade-3)"]),
    ],
)
async def test_findings_name_the_calls_that_explain_a_replay(
    service: SessionService,
    side: SyncSide,
    recorded: tuple[str, ...],
    made: tuple[str, ...],
    texts: list[str],
) -> None:
    service.record(*calls(*recorded, took=0.1))
    report, error = await replay(side, *({"message": message} for message in made))
    found = [finding.text for finding in report.findings]
    assert len(found) == len(texts), found
    for finding, text in zip(found, texts, strict=True):
        assert finding.startswith(text)
    assert ("swapped" in str(report)) == ("swapped" in str(texts))  # no wrong guess is left
    if len(made) != len(recorded):
        assert f"By their inputs: {report.explanation}." in error
    assert [each["text"] for each in report.as_dict()["findings"]] == found


async def test_findings_name_calls_that_go_to_another_flow_or_by_another_method(
    service: SessionService, side: SyncSide
) -> None:
    service.record(*calls(CAT, DOG))
    other = "acme/spelling/grade-4"
    for made, text in (
        (
            {"message": CAT, "kind": "step"},
            "call 1 is made by steps() or events(); it was recorded",
        ),
        (
            {"message": CAT, "slug": other},
            "call 1 goes to another flow; it was recorded as call 1 of",
        ),
    ):
        report, error = await replay(side, made)
        assert [finding.what for finding in report.findings] == ["redirected"]
        assert report.findings[0].text.startswith(text)
        assert text in error
    globex = {"org": "globex", "project": "spelling", "slug": "grade-3"}
    service.record(execution(call={**globex, "request": {"message": "m0"}}))
    report, _ = await replay(side, {"message": "m0"})
    assert report.findings[0].text.startswith(
        "call 1 goes to another flow; it was recorded as call 1 of globex/spelling/grade-3 "
        "(acme/spelling/grade-3, "
    )
    service.record(*calls(CAT), execution(1, DOG, slug="grade-4"))
    report, _ = await replay(side, {"message": DOG}, {"message": CAT, "slug": other})
    assert "call 1 of grade-3 and call 1 of grade-4 look swapped" in report.explanation


async def test_findings_of_odd_recordings_are_printable(
    service: SessionService, side: SyncSide
) -> None:
    requests: list[Any] = [
        {"message": 5, "messages": {"a": 1}},
        {"messages": {"\x1b[2J": 1}, "parameters": "\x07"},
        {"messages": [None, "\x1b[31m"]},
        {},
    ]
    call = {"slug": "grade-3\x1b[2J"}
    service.record(
        *(
            execution(n, call={**call, "request": each}, slug="grade-3\x1b[2J", result=n)
            for n, each in enumerate(requests)
        )
    )
    report, error = await replay(side)
    assert [finding.what for finding in report.findings] == ["removed"]
    assert report.findings[0].recorded == (0, 1, 2, 3)
    assert error.isprintable()


async def test_findings_of_a_program_that_failed_leave_out_what_it_did_not_reach(
    service: SessionService, side: SyncSide
) -> None:
    service.record(*calls(CAT, DOG, BIRD))
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with side.scope() as scope:
            await side.execute(DOG)
            raise ZeroDivisionError
    assert [str(finding) for finding in scope.report.findings] == [
        f"the recorded call 1 ('{CAT}') was removed (grade-3)"
    ]
    assert len(scope.report.leftovers) == 2


async def test_findings_of_overlapping_calls_know_no_order(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*together(4))

    async def gather(*messages: str) -> ReplayReport:
        async with async_side.scope() as scope:
            flow = async_side.flow()
            await asyncio.gather(*(flow.execute(message=message) for message in messages))
        return scope.report

    assert (await gather("m3", "m2", "m1", "m0")).clean
    report = await gather("m3", "m0", "m1 edited", "m2")
    assert [(each.what, each.recorded, each.made) for each in report.findings] == [
        ("changed", (1,), (2,))
    ]
    with pytest.raises(ReplayLeftoverError, match=r"call 2 \('m1'\) was removed"):
        await gather("m3", "m2", "m0")
    with pytest.raises(ReplayMissError, match="call 2 was added"):
        await gather("m3", "new", "m2", "m0", "m1")


texts = st.text(st.characters(codec="utf-8") | st.sampled_from("a \n\t\x1b\u202e"), max_size=400)
values = st.none() | texts | st.integers() | st.lists(texts, max_size=5)


@given(values, values)
@example("a", "a ")
@example("é", "e\u0301")
@example("same\n" * 300 + "x", "same\n" * 300 + "y")
@example("word " * 3000, "word " * 2000 + "end")
def test_diff_is_short_printable_and_shows_a_difference(recorded: Any, sent: Any) -> None:
    lines = diff(recorded, sent).split("\n")
    assert len(lines) <= 25
    assert all(line.isprintable() and len(line) < 700 for line in lines)
    changed = [line for line in lines if line[:2] in ("- ", "+ ")]
    assert bool(changed) == (recorded != sent)
    removed, added = ([line[2:] for line in changed if line[0] == sign] for sign in "-+")
    assert not changed or removed != added
