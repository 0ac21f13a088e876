"""Calls made up of anything: refused or run, but never an error of ours."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Backend
from .streams import WEATHER

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["answer", "one", "user", "tool", "function", "get_weather", "https://x.test"]),
)
OF_TURNS = ["role", "content", "type", "function", "name", "url", "mime_type", "tool_call_id"]
OF_STEPS = ["answer", "one", "temperature", "model", "prompt", "retry", "style"]
NAMES = st.sampled_from([*OF_TURNS, *OF_STEPS])
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
FIELDS = {
    "message": st.text(st.characters(exclude_categories=["Cs"])) | ANYTHING,
    "messages": st.lists(st.dictionaries(NAMES, ANYTHING, max_size=3), max_size=3) | ANYTHING,
    "parameters": st.dictionaries(NAMES, ANYTHING, max_size=3) | ANYTHING,
    "blockOverrides": st.dictionaries(NAMES, st.dictionaries(NAMES, ANYTHING, max_size=3))
    | ANYTHING,
    "inputOverrides": st.dictionaries(NAMES, ANYTHING, max_size=3) | ANYTHING,
    "attachments": st.lists(st.dictionaries(NAMES, ANYTHING, max_size=3), max_size=3) | ANYTHING,
    "tools": st.just(WEATHER) | ANYTHING,
    "toolChoice": st.just("auto") | ANYTHING,
    "executionId": st.none() | ANYTHING,
    "pausedAtStep": st.none() | ANYTHING,
    "iterationsUsed": st.none() | ANYTHING,
    "toolCallMessages": st.none() | ANYTHING,
    "accumulatedOutputs": st.none() | ANYTHING,
    "stepIndex": st.just(0) | ANYTHING,
    "runRemaining": st.booleans() | ANYTHING,
    "trace": st.booleans() | ANYTHING,
}
BODIES = st.fixed_dictionaries({}, optional=FIELDS)
CALLS = st.tuples(
    st.sampled_from(["samples/weather", "samples/two-step", "tests/picky", "tests/redacted"]),
    st.sampled_from(["execute", "step", "jobs"]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CALLS, BODIES)
def test_never_an_error_of_ours(backend: Backend, call: tuple[str, str], body: Any) -> None:
    response = backend.post("/".join(call), body, **{"X-Session-Id": "fuzz"})
    if response.status_code >= 400:
        # A model that is none fails its step: that is an answer of the flow.
        code = response.json()["detail"]["code"]
        assert code not in ("INTERNAL_ERROR", "STEP_FAILED"), response.text
        assert response.status_code < 500 or code == "MODEL_ERROR", response.text
    assert backend.get("/seq/sessions/fuzz").status_code in (200, 404)
