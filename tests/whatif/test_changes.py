"""What-ifs without a service of ours: their texts, a hosted service, and the comparison of runs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from noukai_sdk import Noukai, ReplayError, trace_scope_sync
from noukai_sdk.errors import ReplayInvalidSessionError
from noukai_sdk.models.sessions import Session
from noukai_sdk.replay.sources import recordings_of_fork
from noukai_sdk.session.options import requested_replay
from noukai_sdk.whatif.changes import LiveTarget, WhatIfOptions
from noukai_sdk.whatif.compared_calls import LiveCall
from noukai_sdk.whatif.measures import Measure
from noukai_sdk.whatif.several_runs import compare


def test_targets_and_changes_survive_the_header() -> None:
    for text in ("grade-3", "a/b/grade-3", "grade-3#2", "grade-3/score", "a/b/grade-3#2/score"):
        assert str(LiveTarget.parse(text)) == text
    changes: dict[str, Any] = {
        "model": "openai:m",
        "settings": {"temperature": 0, "prompt": "ä; b=c"},
        "parameters": {"level": [1]},
        "message": "héllo\n",
    }
    options = WhatIfOptions.of(["a/b/grade-3", "ünï;code#2"], **changes)
    header = "; ".join(["s-1", *(f"{name}={value}" for name, value in options.header_options())])
    assert header.isascii()
    request = requested_replay(header)
    assert request is not None
    assert request.what_if == options
    for wrong in (
        "live=",
        "live=a/b/c/d/e",
        "change=e30",
        "live=a; change=W10",
        "live=a; live-from=1",
    ):
        with pytest.raises(ReplayInvalidSessionError):
            requested_replay(f"s-1; {wrong}")


class Hosted:
    """A service as the hosted one is: no list of flows, no extensions, no events in its sessions."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        step = {"stepId": "s", "status": "completed", "outputSnapshot": "old"}
        if path.endswith("/trace"):
            tokens = {"prompt": 7, "completion": 2, "total": 9}
            traced = {"stepId": "s", "status": "completed", "modelUsed": "gpt", "tokens": tokens}
            run = {"id": path.split("/")[-2], "status": "completed"}
            return httpx.Response(200, json={"flowRun": run, "steps": [traced]})
        if path.endswith("/sessions/s-1"):
            call = {"executionId": "e-1", "slug": "grade", "status": "completed", "steps": [step]}
            call |= {"triggerType": "execute", "traceCaptureMode": "full"}
            return httpx.Response(200, json={"sessionId": "s-1", "executions": [call]})
        if not path.endswith("/execute"):
            return httpx.Response(404, json={"detail": "Not Found"})
        self.sent.append(json.loads(request.content))
        result = {"status": "completed", "result": "new", "executionId": "e-2"}
        return httpx.Response(200, json=result)


def test_service_without_our_extensions() -> None:
    hosted = Hosted()
    http = httpx.Client(transport=httpx.MockTransport(hosted.respond))
    with Noukai(org="acme", project="shop", api_key="nk_x", http_client=http) as client:
        with trace_scope_sync(replay_session_id="s-1", client=client) as scope:
            what_if = scope.whatif("grade", model="openai:m", settings={"max_tokens": 9})
            assert client.flow("grade").execute("x").result == "new"
        # The steps are those of the recorded run's trace, as far as the session does not tell them.
        overrides = {"s": {"model": "openai:m", "maxTokens": 9}}
        assert hosted.sent == [{"message": "x", "blockOverrides": overrides}]
        [call] = what_if
        assert (call.live.tokens_in, call.live.model) == (7, "gpt")
        assert call.recorded is not None
        assert (call.recorded.output, call.recorded.tokens_in) == ("old", None)

        with trace_scope_sync(replay_session_id="s-1", client=client) as scope:
            scope.whatif("grade/s", model="openai:m")
            with pytest.raises(ReplayError, match="does not tell the outputs of its steps"):
                client.flow("grade").execute("x")
        assert len(hosted.sent) == 1


def test_inputs_of_overlapping_calls_are_restored_by_their_runs() -> None:
    """Of two changed calls, the run of the second one began first."""

    def execution(run: str, began: int) -> dict[str, Any]:
        call = {"org": "a", "project": "b", "slug": "c", "version": None}
        call |= {"request": {"message": run, "blockOverrides": {}}}
        times = {"startedAt": f"2026-01-01T00:00:0{began}Z", "completedAt": "2026-01-01T00:00:09Z"}
        known = {"executionId": run, "slug": "c", "status": "completed", "triggerType": "execute"}
        return {**known, **times, "call": call, "result": run, "traceCaptureMode": "full"}

    def edited(order: int, run: str) -> dict[str, Any]:
        call = {"org": "a", "project": "b", "slug": "c", "request": {"message": f"as made: {run}"}}
        return {"order": order, "executionId": run, "call": call}

    link = {
        "sessionId": "p",
        "served": [],
        "edited": edited(0, "x"),
        "alsoEdited": [edited(1, "y")],
    }
    content = {
        "sessionId": "f",
        "executions": [execution("y", 1), execution("x", 2)],
        "parent": link,
    }
    session = Session.model_validate_json(json.dumps(content))
    recordings = recordings_of_fork([session], as_made=True)
    made = {each.execution_id: (each.request or {})["message"] for each in recordings}
    assert made == {"x": "as made: x", "y": "as made: y"}


def live(output: Any, tokens: int, recorded: Any = '{"grade": 3, "why": "a"}') -> LiveCall:
    values = {"status": "completed", "output": output, "tokensOut": tokens, "costUsd": "0.5"}
    known = Measure("completed", recorded).as_dict()
    return LiveCall.from_dict(
        {"flow": "a/b/c", "kind": "execute", "recorded": known, "live": values}
    )


def test_answers_are_compared_field_by_field_and_counted() -> None:
    outputs = ['{"grade": 3, "why": "a"}', '```json\n{"grade": 5, "why": "b"}\n```', "none"]
    runs = [(number, [live(outputs[number % 3], number)]) for number in range(4)]
    [call] = compare(runs)
    spread = call.spread("tokens_out")
    assert spread is not None
    assert (spread.mean, spread.low, spread.high) == (1.5, 0, 3)
    assert round(spread.deviation, 3) == 1.291
    same, other, text = call.answers
    assert (same.runs, same.changes) == ((0, 3), ())
    assert other.changes is not None
    assert [change.path for change in other.changes] == ["$.grade", "$.why"]
    assert text.changes is not None
    assert text.changes[0].path == "$"
    [field] = call.fields
    assert (field.path, field.recorded, field.spread.count) == ("$.grade", 3, 3)
    assert (field.spread.low, field.spread.high) == (3, 5)
