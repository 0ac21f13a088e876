"""Outputs that leave the process: JSON that every parser reads, or an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.backend.encoding import encode
from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local.engine.json_values import to_json

keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.binary(), st.floats())
scalars = st.one_of(
    keys,
    st.text(st.characters(categories=None), min_size=1),  # half of a surrogate pair, too
    st.integers(),
    st.decimals(),
    st.datetimes(),
    st.uuids(),
    st.complex_numbers(),
    st.builds(object),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner),
        st.frozensets(keys),
        st.builds(iter, st.lists(inner)),
    ),
    max_leaves=10,
)


@given(values)
def test_to_json_any_value_is_json_or_output_invalid(value: Any) -> None:
    try:
        output = to_json(value)
    except FlowExecutionError:
        return
    assert json.loads(encode(output)) == output


def test_to_json_number_that_no_parser_reads_is_invalid() -> None:
    assert to_json([10**4299, "9" * 5000]) == [10**4299, "9" * 5000]
    with pytest.raises(FlowExecutionError, match="4300 digits"):
        to_json(10**4301)
