"""What models received is read from any recording, whatever its events hold."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from noukai_sdk.contexts.call_changes import compare_calls
from noukai_sdk.contexts.model_inputs import call_inputs
from noukai_sdk.dashboard.views.call_view import call_view
from noukai_sdk.dashboard.views.context_changes import shown_steps
from noukai_sdk.replay.recording import Recording

NAMES = ("role", "content", "tool_calls", "type", "text", "function", "source", "messages", "tools")
texts = st.text(max_size=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=6,
)
message = anything | st.fixed_dictionaries(
    {"role": anything, "content": anything}, optional={"tool_calls": anything}
)
request = anything | st.fixed_dictionaries(
    {"messages": st.lists(message | st.integers(-2, 4), max_size=3)},
    optional={"system": anything, "tools": anything, "json_schema": anything},
)
value = anything | st.fixed_dictionaries(
    {"messages": st.lists(message, max_size=3)}, optional={"request": request, "model": anything}
)
KINDS = ("step_started", "step_input", "sub_flow_input", "step_paused_for_tool_calls")
events = st.lists(
    st.fixed_dictionaries(
        {
            "eventType": st.sampled_from((*KINDS, "step_completed", "step_error")),
            "stepId": st.sampled_from(("a", "b")) | anything,
            "inputData": value,
        },
        optional={"loopIndex": anything, "path": st.just("a[0]/b") | anything, "tokens": anything},
    ),
    max_size=6,
)


@settings(max_examples=30)
@given(events, events)
def test_hostile_events_are_read_compared_and_shown(a: list[Any], b: list[Any]) -> None:
    recordings = [Recording("s", "execute", events=tuple(each)) for each in (a, b)]
    old, new = (call_inputs(at, each) for at, each in enumerate(recordings, 1))
    change = compare_calls(old, new)
    json.dumps([old.as_dict(), change.as_dict()])
    shown_steps(change)
    call_view(recordings[0], limit=10)
    assert compare_calls(old, old).is_same
