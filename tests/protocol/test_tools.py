"""Tool results: every accepted form, and the one form of the wire."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.models.results import PausedResult
from noukai_sdk.protocol.tools import MANY_MESSAGES, wire_results, with_results

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.text(min_size=1),
    json_values,
    st.sampled_from(["tool_call_id", "toolCallId"]),
    st.sampled_from(["output", "content"]),
    st.booleans(),
)
def test_tool_results_of_any_form_become_wire_form(
    call_id: str, value: Any, id_name: str, value_name: str, with_role: bool
) -> None:
    result = {id_name: call_id, value_name: value, **({"role": "tool"} if with_role else {})}
    (wire,) = wire_results([result])
    assert list(wire) == ["role", "tool_call_id", "content"]
    assert (wire["role"], wire["tool_call_id"]) == ("tool", call_id)
    assert (wire["content"] if isinstance(value, str) else json.loads(wire["content"])) == value
    assert wire_results([wire]) == [wire]
    frozen: Mapping[str, Any] = MappingProxyType(result)
    assert wire_results((frozen,)) == [wire]


@pytest.mark.parametrize(
    ("results", "error", "problem"),
    [
        (None, TypeError, "a list of dicts, not NoneType"),
        ("text", TypeError, "a list of dicts, not str"),
        ({"tool_call_id": "1"}, TypeError, "a list of dicts, not dict"),
        (["text"], TypeError, "must be a dict, not str"),
        ([{"output": 1}], ValueError, "'tool_call_id'"),
        ([{"tool_call_id": 5, "output": 1}], ValueError, "'tool_call_id'"),
        ([{"tool_call_id": "1"}], ValueError, "'1' needs 'output' or 'content'"),
        ([{"tool_call_id": "1", "output": object()}], TypeError, "cannot be sent as JSON"),
        ([{"tool_call_id": "1", "output": float("nan")}], TypeError, "cannot be sent as JSON"),
    ],
)
def test_tool_results_not_valid_raise(results: Any, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        wire_results(results)


def test_long_conversation_warns() -> None:
    def paused(messages: int) -> PausedResult:
        return PausedResult(
            status="tool_calls_required",
            execution_id="e",
            paused_at_step="a",
            tool_call_messages=[{"role": "user", "content": "hi"}] * messages,
        )

    with pytest.warns(UserWarning, match=f"{MANY_MESSAGES + 1} tool messages.*MESSAGES_TOO_LARGE"):
        with_results(paused(MANY_MESSAGES), [{}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(with_results(paused(MANY_MESSAGES - 1), [{}])) == MANY_MESSAGES
