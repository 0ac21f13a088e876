"""Calls with arbitrary bodies succeed or are rejected, but never cause an internal error."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from .backends import WEATHER, Backend

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["answer", "one", "user", "tool", "function", "get_weather", "https://x.test"]),
)
TURN_FIELDS = ["role", "content", "type", "function", "name", "url", "mime_type", "tool_call_id"]
STEP_FIELDS = ["answer", "one", "temperature", "model", "prompt", "retry", "style"]
NAMES = st.sampled_from([*TURN_FIELDS, *STEP_FIELDS])
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "message": st.text(st.characters(exclude_categories=["Cs"])) | ANY_JSON,
    "messages": st.lists(st.dictionaries(NAMES, ANY_JSON, max_size=3), max_size=3) | ANY_JSON,
    "parameters": st.dictionaries(NAMES, ANY_JSON, max_size=3) | ANY_JSON,
    "blockOverrides": st.dictionaries(NAMES, st.dictionaries(NAMES, ANY_JSON, max_size=3))
    | ANY_JSON,
    "inputOverrides": st.dictionaries(NAMES, ANY_JSON, max_size=3) | ANY_JSON,
    "attachments": st.lists(st.dictionaries(NAMES, ANY_JSON, max_size=3), max_size=3) | ANY_JSON,
    "tools": st.just(WEATHER) | ANY_JSON,
    "toolChoice": st.just("auto") | ANY_JSON,
    "executionId": st.none() | ANY_JSON,
    "pausedAtStep": st.none() | ANY_JSON,
    "iterationsUsed": st.none() | ANY_JSON,
    "toolCallMessages": st.none() | ANY_JSON,
    "accumulatedOutputs": st.none() | ANY_JSON,
    "stepIndex": st.just(0) | ANY_JSON,
    "runRemaining": st.booleans() | ANY_JSON,
    "trace": st.booleans() | ANY_JSON,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS)
CALLS = st.tuples(
    st.sampled_from(["samples/weather", "samples/two-step", "tests/picky", "tests/redacted"]),
    st.sampled_from(["execute", "step", "jobs"]),
)


@settings(max_examples=60)
@given(CALLS, BODIES)
def test_call_arbitrary_body_is_never_an_internal_error(
    backend: Backend, call: tuple[str, str], body: Any
) -> None:
    response = backend.post("/".join(call), body, "fuzz")
    if response.status_code >= 400:
        # An unknown model fails its step: that is a result of the flow.
        code = response.json()["detail"]["code"]
        assert code not in ("INTERNAL_ERROR", "STEP_FAILED"), response.text
        assert response.status_code < 500 or code == "MODEL_ERROR", response.text
    assert backend.get("/seq/sessions/fuzz").status_code in (200, 404)
