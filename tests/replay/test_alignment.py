"""Alignment names the edits of a program, and which recording is served stays a matter of position."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from noukai_sdk import Noukai, ReplayError
from noukai_sdk.replay.alignment import Input, align
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.diff import differences
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session.replay_scope import ReplayScope
from noukai_sdk.session.scope import active

ANIMALS = ("cat", "dog", "bird", "fish", "horse", "mouse", "tiger", "snake", "sheep", "goat")
EDITS = ("keep", "keep", "remove", "change", "insert", "swap", "version")

Finding = tuple[str, tuple[int, ...], tuple[int, ...]]


def prompt(number: int) -> str:
    """A prompt of one template; each has some words of its own."""
    animal = ANIMALS[number % len(ANIMALS)]
    return f"Grade this text of a pupil in class {number}: The {animal}{number} sat on a mat."


def recordings(count: int) -> list[Recording]:
    return [
        Recording(
            slug="f",
            kind="execute",
            request={"message": prompt(number)},
            result={"status": "completed", "result": number},
        )
        for number in range(count)
    ]


def edited(edits: list[str]) -> tuple[int, list[dict[str, Any]], set[Finding]]:
    """Apply edits to recorded calls that all have an untouched call between them.

    Returns:
        The number of recorded calls, the calls that the edited program makes, and the findings.
    """
    count = 0
    made: list[dict[str, Any]] = []
    findings: set[Finding] = set()
    for edit in edits:
        here = len(made)
        one, other = ({"message": prompt(count + n)} for n in range(2))
        if edit == "insert":
            made.append({"message": f"Translate {here} to French, please."})
            findings.add(("added", (), (here,)))
        elif edit == "remove":
            findings.add(("removed", (count,), ()))
            count += 1
        elif edit == "swap":
            made += [other, one]
            findings.add(("swapped", (count, count + 1), (here, here + 1)))
            count += 2
        elif edit != "keep":
            change = {"version": 7} if edit == "version" else {"message": f"{prompt(count)} Why?"}
            made.append({**one, **change})
            findings.add(("changed", (count,), (here,)))
            count += 1
        made.append({"message": prompt(count)})
        count += 1
    return count, made, findings


def replay(count: int, made: list[dict[str, Any]]) -> tuple[ReplayScope, list[Any]]:
    """Replay calls; return the scope and the results."""
    client = Noukai(api_key="nk_test", base_url="http://127.0.0.1:9")
    scope = ReplayScope(Cassette("s", recordings(count)))
    results = []
    with active(scope):
        for call in made:
            try:
                results.append(client.flow("a/b/f").execute(**call).result)
            except ReplayError as error:  # noqa: PERF203
                results.append(type(error).__name__)
    with suppress(ReplayError):
        scope.verify()
    client.close()
    return scope, results


@settings(max_examples=60)
@given(st.lists(st.sampled_from(EDITS), max_size=10))
def test_findings_are_the_edits_of_the_program(edits: list[str]) -> None:
    count, made, expected = edited(edits)
    scope, results = replay(count, made)
    report = scope.report
    misses = ["ReplayMissError"] * (len(made) - count)
    assert results == [*range(min(count, len(made))), *misses]
    assert {(each.what, each.recorded, each.made) for each in report.findings} == expected
    assert len(report.findings) == len(expected)
    for each in report.findings:
        assert (each.call_site is None) == (each.what == "removed")
    if not expected:
        assert report.clean


inputs = st.lists(st.sampled_from("abcdeé"), max_size=9)


@given(inputs, inputs)
def test_alignment_has_every_input_once_and_in_order(a: list[str], b: list[str]) -> None:
    pairs = align([Input(key, key) for key in a], [Input(key, key) for key in b])
    assert [index for index, _ in pairs if index is not None] == [*range(len(a))]
    assert [index for _, index in pairs if index is not None] == [*range(len(b))]
    if a == b:
        assert pairs == [(n, n) for n in range(len(a))]


def test_alignment_of_a_thousand_edited_prompts_finds_the_missing_one() -> None:
    recorded = [Input(prompt(n), prompt(n)) for n in range(1000)]
    texts = [prompt(n).replace("text", "essay") for n in range(1000) if n != 437]
    pairs = align(recorded, [Input(text, text) for text in texts])
    assert pairs[436:439] == [(436, 436), (437, None), (438, 437)]
    assert len(pairs) == 1000

    # Nothing in common: each stands for the one in its place.
    numbers = [str(n) for n in range(5000, 5300)]
    pairs = align(recorded[:300], [Input(number, number) for number in numbers])
    assert pairs == [(n, n) for n in range(300)]
    moved = [*recorded[500:], *recorded[:500]]
    assert sum(None not in pair for pair in align(recorded, moved)) >= 500


def test_difference_of_cassettes_names_the_call_that_one_side_lacks() -> None:
    a = recordings(5)
    b = [a[0], a[2], replace(a[3], request={"message": f"{prompt(3)} Why?"}), a[4]]
    assert [(each.position, each.what) for each in differences(a, b)] == [
        (1, "call"),
        (3, "input.message"),
    ]
    assert [(each.position, each.what) for each in differences(b, a)] == [
        (1, "call"),
        (2, "input.message"),
    ]
    swapped = differences(a, [a[1], a[0], *a[2:]])
    assert [(each.position, each.what, each.a, each.b) for each in swapped] == [(0, "order", 1, 2)]
    times = [{"started_at": float(n), "completed_at": n + 9.0} for n in range(5)]
    overlapping = [replace(each, **time) for each, time in zip(a, times, strict=True)]
    assert differences(overlapping, [a[1], a[0], *a[2:]]) == []
