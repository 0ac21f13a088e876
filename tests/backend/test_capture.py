"""Masked secrets in stored data."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.backend.capture import captured_events
from noukai_sdk.masking.values import Masker


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("Authorization: Basic Zm9v", "Authorization: [redacted]"),
        ('{"api_key": "xyz", "city": "Paris"}', '{"api_key": "[redacted]", "city": "Paris"}'),
        ('{\\"apiKey\\": \\"xyz\\"}', '{\\"apiKey\\": \\"[redacted]\\"}'),
        ("MY_SECRET_VALUE=hunter2&x=1", "MY_SECRET_VALUE=[redacted]&x=1"),
        ("use sk-proj-abcdefgh now", "use [redacted] now"),
        ("key nk_live_12345678.", "key [redacted]."),
        ("AKIAABCDEFGHIJKLMNOP", "[redacted]"),
        ("eyJhbGciOi.eyJzdWIi.c2ln", "[redacted]"),
        ("postgres://me:pw@host/db", "postgres://me:[redacted]@host/db"),
        ("the token is fine", "the token is fine"),
        ("a task-force met", "a task-force met"),
        ("", ""),
    ],
)
def test_masked_text_hides_secrets(text: str, expected: str) -> None:
    assert Masker().value(text) == expected


def test_masked_value_hides_texts_under_secret_names() -> None:
    value = {
        "headers": {"Authorization": "x", "X-Api-Key": "y", "Accept": "json"},
        "credentials": {"user": "me", "list": ["a", 5, None]},
        "max_tokens": 100,
        "tokens": {"prompt": 3},
        "messages": [{"content": "password: p4ssw0rd"}],
    }
    assert Masker().value(value) == {
        "headers": {"Authorization": "[redacted]", "X-Api-Key": "[redacted]", "Accept": "json"},
        "credentials": "[redacted]",
        "max_tokens": 100,
        "tokens": {"prompt": 3},
        "messages": [{"content": "password: [redacted]"}],
    }
    assert value["headers"]["Authorization"] == "x"  # type: ignore[index]  # it is the dict above


def split(text: str, positions: list[int]) -> list[str]:
    edges = [0, *sorted(position % (len(text) + 1) for position in positions), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


TEXTS = st.lists(
    st.sampled_from(["Bearer ", "abc", "password: ", "hunter2", " ", "sk-12345678", ",", '"', "ü"])
).map("".join)


@given(TEXTS, st.lists(st.integers(0, 200), max_size=5))
def test_masked_chunks_join_to_the_masked_text(text: str, positions: list[int]) -> None:
    chunks = split(text, positions)
    out = Masker().chunks(chunks)
    assert len(out) == len(chunks)
    assert "".join(out) == Masker().value(text)


@given(st.text(alphabet='abc=: "\\-_tokenBearers', max_size=60))
def test_masked_twice_is_masked_once(text: str) -> None:
    assert Masker().value(Masker().value(text)) == Masker().value(text)


def chunk(step: str, text: Any) -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": step, "outputData": text}


def test_captured_events_mask_the_outputs_of_parallel_steps() -> None:
    events = [
        chunk("a", "password: hu"),
        chunk("b", "fine "),
        chunk("a", "nter2 and a password: "),
        chunk("b", {"token": "x"}),
        chunk("b", "too"),
        {"eventType": "step_completed", "stepId": "a", "output": "password: "},
        chunk("a", "of another attempt"),
    ]
    out = captured_events("redacted", events)
    assert [e.get("outputData", e.get("output")) for e in out] == [
        "password: [redacted]",
        "fine ",
        " and a password: ",
        {"token": "[redacted]"},
        "too",
        "password: ",
        "of another attempt",
    ]
    assert captured_events("full", events) is events
    assert captured_events("metadata_only", events) == captured_events("off", events) == []
