"""From calls to HTTP requests."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.protocol.requests import encode, get, post
from tests.support.stepping import FLOW, a_call, a_service

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=("Cs",)), max_size=4), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def is_json(text: bytes) -> bool:
    constants: list[str] = []
    json.loads(text, parse_constant=constants.append)
    return not constants


@given(values)
def test_what_goes_out_is_json_or_an_error(value: Any) -> None:
    if is_json(json.dumps(value).encode()):
        assert json.loads(encode(value)) == value
    else:
        with pytest.raises(TypeError, match="cannot be sent as JSON"):
            encode(value)


@pytest.mark.parametrize("value", [object(), float("inf"), {"x": [float("-inf")]}, "\ud800"])
def test_what_json_has_no_word_for(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent as JSON"):
        encode({"x": value})


def test_a_text_about_numbers_is_no_number() -> None:
    assert json.loads(encode({"x": "NaN and Infinity"})) == {"x": "NaN and Infinity"}


def test_dates_go_out_as_text() -> None:
    assert encode({"x": datetime.date(2026, 5, 31)}) == b'{"x":"2026-05-31"}'


def test_our_headers_before_the_callers_in_whatever_letters() -> None:
    call = a_call(
        session_id="s1", extra_headers={"x-session-id": "mine", "ACCEPT": "x", "X-Mine": "1"}
    )
    assert post(call, {}, accept="text/event-stream").headers == {
        "X-Mine": "1",
        "Content-Type": "application/json",
        "X-Session-Id": "s1",
        "Accept": "text/event-stream",
    }
    untagged = a_call(extra_headers={"x-session-id": "mine"})
    assert post(untagged, {}).headers["x-session-id"] == "mine"


def test_the_calls_timeout_before_the_clients() -> None:
    assert post(a_call(), {}).timeout == 300.0
    assert post(a_call(timeout=1.5), {}).timeout == 1.5
    assert get(a_service(timeout=7.0), "/x").timeout == 7.0
    assert get(a_service(), "/x", timeout=2.0).timeout == 2.0


def test_nothing_secret_is_in_a_repr() -> None:
    call = a_call(extra_headers={"X-Token": "hush"})
    assert "nk_secret" not in repr(call)
    assert "hush" not in repr(call)
    assert str(FLOW) == "acme/spelling/grade-3"
