"""Any JSON from the service leads to a working scope or a ReplayError, never to another error."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from noukai_sdk import (
    ExecuteResult,
    Noukai,
    NoukaiError,
    PausedResult,
    ReplayError,
    trace_scope_sync,
)
from noukai_sdk.models.events import EVENT_CLASSES, StreamEvent
from tests.support.replays import TOOLS, execution, step, weather, weather_stream

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def rarely_not(draw: st.DrawFn, usual: st.SearchStrategy[Any]) -> Any:
    """The usual values; once in a while any value at all."""
    return draw(anything if draw(st.integers(0, 60)) == 42 else usual)


def mostly(*usual: Any) -> st.SearchStrategy[Any]:
    return rarely_not(st.sampled_from(usual))


def lists(items: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[Any]:
    return rarely_not(st.lists(items, max_size=most))


@st.composite
def objects(draw: st.DrawFn, **fields: st.SearchStrategy[Any]) -> dict[str, Any]:
    """An object with these fields; once in a while one is missing."""
    kept = {name: field for name, field in fields.items() if draw(st.integers(0, 30)) != 17}
    return {name: draw(field) for name, field in kept.items()}


names = mostly("a", "b", None)
times = mostly(None, "2026-05-31T12:00:00Z", "2026-05-31T12:00:01.5+02:00", "0001-01-01T00:00:00Z")
steps = objects(
    stepId=mostly("a", "b"),
    attempt=mostly(1, 2),
    loopIndex=mostly(None, 0, 1),
    status=mostly("completed", "failed", "running", "skipped"),
    inputSnapshot=objects(message=mostly("m0", "m1")) | anything,
    outputSnapshot=anything | objects(__rendered_prompt__=st.text()),
    errorSnapshot=st.none() | objects(code=anything, message=anything) | anything,
    truncated=mostly(True, False),
)
events = objects(
    eventType=st.sampled_from(list(EVENT_CLASSES)) | anything,
    stepId=names,
    stepIndex=mostly(0, 1, None),
    executionId=mostly("exec-0"),
    output=anything,
    result=anything,
)
rounds = objects(
    paused=st.just(weather()["toolRounds"][0]["paused"]) | objects(status=names),
    toolResults=lists(objects(tool_call_id=names, content=names), 2),
)
executions = objects(
    executionId=mostly("exec-0"),
    flowId=names,
    slug=mostly("grade-3", "grade-3", None),
    triggerType=mostly("execute", "step", "job", None),
    status=mostly("completed", "failed", "running", "cancelled"),
    startedAt=times,
    completedAt=times,
    traceCaptureMode=mostly("full", "redacted", "off", None),
    snapshotsAvailable=mostly(True, False),
    errorAtStep=names,
    steps=lists(steps, 3),
    call=st.none() | objects(slug=names, request=objects(message=names, parameters=anything)),
    result=anything,
    error=st.none() | objects(statusCode=mostly(402, 500), code=names, message=mostly("no")),
    events=st.none() | lists(events, 4),
    toolRounds=st.none() | lists(rounds, 2),
)
good = st.sampled_from(
    [
        execution(0),
        execution(1, triggerType="step", steps=[step("a", 1), step("b", 2)]),
        weather(),
        weather_stream(),
    ]
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A good session in which one value was replaced."""
    session: Any = json.loads(json.dumps({"sessionId": "s-1", "executions": [draw(good)]}))
    node = session
    while True:
        key = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else 0
        inner = node[key]
        if not (isinstance(inner, (dict, list)) and inner) or draw(st.integers(0, 5)) == 0:
            node[key] = draw(anything)
            return session
        node = inner


outcomes = objects(
    kind=mostly("execute", "step", "job"),
    position=mostly(0, 1, 9),
    calls=mostly(None, 2, 3),
    executionId=mostly(None, "exec-0"),
    call=objects(org=names, slug=mostly("grade-3"), request=objects(message=mostly("m0", "m1"))),
    startedAt=times,
    completedAt=times,
    abandoned=mostly(True, False),
    seen=mostly(None, 0, 1, 9),
    error=st.none() | objects(statusCode=mostly(429, None), type=mostly("APITimeoutError", None)),
)
payloads = (
    anything
    | damaged()
    | objects(sessionId=mostly("s-1"), executions=lists(executions, 4), outcomes=lists(outcomes, 4))
    | objects(sessionId=mostly("s-1"), executions=lists(executions | good, 4))
)


def handle_tools(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": str(call.get("id")), "output": "sunny"} for call in tool_calls]


def replay(body: bytes) -> None:
    """Open the session and make calls of every kind."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body))
    client = Noukai(api_key="nk_test", max_retries=0, http_client=httpx.Client(transport=transport))
    flow = client.flow("acme/spelling/grade-3")
    with trace_scope_sync(replay_session_id="s-1", client=client) as scope:
        for options in ({}, {"tools": TOOLS}, {"tools": TOOLS, "tool_handler": handle_tools}):
            with suppress(NoukaiError):
                result: Any = flow.execute(message="m0", **options)
                assert isinstance(result, (ExecuteResult, PausedResult))
                if isinstance(result, PausedResult):
                    result.resume_sync(tool_results=[])
            with suppress(NoukaiError):
                for event in flow.events(message="m0", **options):
                    assert isinstance(event, StreamEvent)
        with suppress(NoukaiError):
            flow.execute_async(message="m0")
    json.dumps(scope.report.as_dict())


@settings(max_examples=150)
@given(payload=payloads)
def test_session_of_any_json_opens_or_raises_a_replay_error(payload: Any) -> None:
    with (
        patch.dict(os.environ, NOUKAI_REPLAY_ENABLED="1"),
        warnings.catch_warnings(),
        patch("noukai_sdk.replay.serving._AT_MOST", 0.0),  # abandoned calls wait no time
    ):
        warnings.simplefilter("ignore", UserWarning)
        with suppress(ReplayError):
            replay(json.dumps(payload).encode())


@settings(max_examples=50)
@given(body=st.binary())
def test_session_of_any_bytes_opens_or_raises_a_replay_error(body: bytes) -> None:
    with patch.dict(os.environ, NOUKAI_REPLAY_ENABLED="1"), suppress(ReplayError):
        replay(body)


def test_fuzzed_sessions_start_from_ones_that_replay() -> None:
    for recorded in (execution(0), weather()):
        body = json.dumps({"sessionId": "s-1", "executions": [recorded]}).encode()
        transport = httpx.MockTransport(
            lambda request, body=body: httpx.Response(200, content=body)
        )
        client = Noukai(api_key="nk_test", http_client=httpx.Client(transport=transport))
        with (
            patch.dict(os.environ, NOUKAI_REPLAY_ENABLED="1"),
            trace_scope_sync(replay_session_id="s-1", client=client),
        ):
            client.flow("acme/spelling/grade-3").execute(
                message="m0", tools=TOOLS, tool_handler=handle_tools
            )
