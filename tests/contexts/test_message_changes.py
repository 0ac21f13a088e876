"""The changes of messages say what was edited, and applied to the old messages they give the new ones."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.contexts.message_changes import MessageChange, message_changes
from noukai_sdk.contexts.model_messages import Message, message_of

SYSTEM = {"role": "system", "content": "You are brief."}
LONG = {"role": "user", "content": "Please read this report. " + "It rained all day. " * 20}


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def changes(old: list[Any], new: list[Any]) -> list[MessageChange]:
    return message_changes([message_of(each) for each in old], [message_of(each) for each in new])


def kinds(old: list[Any], new: list[Any]) -> list[tuple[str, int | None, int | None]]:
    return [(each.kind, each.old_number, each.new_number) for each in changes(old, new)]


def test_conversation_that_grows_and_truncates_names_each_message() -> None:
    first, second = turn("user", "Hello"), turn("assistant", "Hi! How can I help?")
    third = turn("user", "Thanks")
    grown = [SYSTEM, first, second, LONG]
    assert kinds([SYSTEM, first], grown) == [
        ("same", 1, 1), ("same", 2, 2), ("added", None, 3), ("added", None, 4),
    ]  # fmt: skip
    short = turn("user", LONG["content"][:60] + "… [cut]")
    assert kinds(grown, [SYSTEM, second, short, third]) == [
        ("same", 1, 1), ("removed", 2, None), ("same", 3, 2), ("truncated", 4, 3), ("added", None, 4),
    ]  # fmt: skip
    assert changes(grown, [short])[0].kept == (0, 60)
    for cut in (LONG["content"][30:], "..." + LONG["content"][30:90], LONG["content"][7:70]):
        (only,) = changes([LONG], [turn("user", cut)])
        assert only.kind == "truncated"
        assert LONG["content"][slice(*only.kept)] == only.rest == cut.removeprefix("...")


def test_messages_in_another_order_are_reordered_and_similar_ones_changed() -> None:
    one, two, three = (turn("user", text) for text in ("The cat", "A dog barks", "Birds"))
    assert kinds([one, two, three], [three, one, two]) == [
        ("reordered", 3, 1), ("same", 1, 2), ("same", 2, 3),
    ]  # fmt: skip
    assert kinds([SYSTEM, one], [turn("system", "You are kind."), one]) == [
        ("changed", 1, 1), ("same", 2, 2),
    ]  # fmt: skip
    edited = turn("user", "A dog barks loudly")
    (added, changed, same) = changes([one, two], [turn("user", "Fish"), edited, one])
    assert (added.kind, changed.kind, same.kind) == ("added", "changed", "same")
    assert changed.is_moved
    # The same text with another id is changed too, and the difference is shown.
    results = [{"role": "tool", "tool_call_id": name, "content": "5"} for name in "ab"]
    (call,) = changes(results[:1], results[1:])
    assert call.kind == "changed"
    assert '"b"' in "".join(line.text for line in call.lines() if line.kind == "added")


texts = st.text("ab \n", max_size=8)
contents = texts | st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=2
)
single = st.fixed_dictionaries(
    {"role": st.sampled_from(("user", "assistant")), "content": contents}
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """Two conversations, of which the second has edited messages of the first."""
    old = draw(st.lists(single, max_size=7))
    new = []
    for message in draw(st.permutations(old)) if draw(st.booleans()) else old:
        edit = draw(st.sampled_from(("keep", "keep", "drop", "cut", "insert")))
        if edit == "cut" and isinstance(message["content"], str):
            new.append(
                {**message, "content": message["content"][1:4] + draw(st.sampled_from(("", "…")))}
            )
        elif edit != "drop":
            new.append(message)
        if edit == "insert":
            new.append(draw(single))
    return old, new


def applied(old: list[Any], found: list[dict[str, Any]]) -> list[Any]:
    """Return the new messages, from the old ones and the changes as JSON alone."""
    new = []
    for change in found:
        if change["change"] in ("same", "reordered"):
            new.append(old[change["from"] - 1])
        elif change["change"] != "removed":
            new.append(change["message"])
    return new


@given(conversations() | st.tuples(st.lists(single, max_size=7), st.lists(single, max_size=7)))
def test_changes_applied_to_old_messages_give_new_ones(pair: tuple[list[Any], list[Any]]) -> None:
    old, new = pair
    found = changes(old, new)
    assert applied(old, [each.as_dict() for each in found]) == new
    # Each message is named once.
    assert [each.new_number for each in found if each.new] == list(range(1, len(new) + 1))
    assert sorted(each.old_number or 0 for each in found if each.old) == list(
        range(1, len(old) + 1)
    )
    for each in found:
        if each.kind == "truncated" and each.old and each.new:
            assert each.old.text[slice(*each.kept)] == each.rest
            assert each.rest in each.new.text
        if each.kind == "changed" and each.old and each.new:
            shown = each.lines()
            sides = [
                "".join(line.text for line in shown if line.kind in ("same", kind))
                for kind in ("removed", "added")
            ]
            expected = [each.old.text, each.new.text]
            if expected[0] == expected[1]:
                expected = [each.old.key, each.new.key]
            assert sides == expected


def test_thousands_of_messages_and_lines_are_compared_in_bounds() -> None:
    many = [turn("user", f"{number} {'x' * 50}") for number in range(3_000)]
    other = [turn("user", f"other {number}") for number in range(3_000)]
    assert {each.kind for each in changes(many, [*many, turn("user", "last")])} == {"same", "added"}
    assert {each.kind for each in changes(many, other)} <= {"changed", "added", "removed"}
    lines = [
        Message(turn("user", "\n".join(f"{part}{at}" for at in range(3_000)))) for part in "ab"
    ]
    (only,) = message_changes(lines[:1], lines[1:])
    assert len(only.lines()) == 6_000
