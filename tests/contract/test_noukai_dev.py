"""Foreign clients against ``noukai dev`` as a process: one over curl, one that reads like TypeScript."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.contract.clients import RESULT_FORMS, WEATHER, StrictClient, send_by_curl
from tests.support.servers import serve_backend

CITY = {"message": "What is the weather in Paris?", "tools": WEATHER}
TEXT = {"message": "The cat sat.", "parameters": {"difficulty": "hard"}}

# Fields of TypeScript interfaces: the type, and whether the field is optional. An optional field may be
# missing, but not be null, and a number that is shown as milliseconds has no fraction.
INTERFACES: dict[str, dict[str, tuple[type, bool]]] = {
    "run_started": {"runId": (str, False), "executionId": (str, True), "stepCount": (int, True)},
    "step_started": {"stepId": (str, False), "name": (str, True), "stepIndex": (int, False)},
    "step_input": {"stepId": (str, False), "inputData": (dict, True)},
    "step_output": {"stepId": (str, False), "outputData": (str, True)},
    "step_completed": {
        "stepId": (str, False),
        "durationMs": (int, True),
        "tokens": (dict, True),
        "costUsd": (str, True),
    },
    "step_paused": {"stepId": (str, False), "stepIndex": (int, False)},
    "step_paused_for_tool_calls": {
        "runId": (str, False),
        "executionId": (str, False),
        "stepId": (str, False),
        "stepIndex": (int, False),
        "iterationsUsed": (int, False),
        "toolCallMessages": (list, False),
        "toolCalls": (list, False),
        "accumulatedOutputs": (dict, False),
    },
    "flow_completed": {"runId": (str, True), "executionId": (str, True)},
}


def test_curl_runs_tool_loop_step_protocol_job_and_session(tmp_path: Path) -> None:
    with serve_backend(tmp_path) as server:
        client = StrictClient(server.api, "by-curl", send_by_curl)
        for form in RESULT_FORMS.values():
            completed, pauses = client.execute("acme/samples/weather", CITY, form)
            assert len(pauses) == 1
            assert "sunny" in completed.result
        events = client.step_through("acme/spelling/grade-3", TEXT)
        # The parameters of the first call hold for the later ones, which send none.
        inputs = [e.input_data for e in events if e.event_type == "step_input"]
        assert "The difficulty is hard" in str(inputs[0])
        job = client.run_job("acme/spelling/grade-3", TEXT)
        assert job.result == events[-1].result
        executions = client.session()
    assert [execution.trigger_type for execution in executions] == ["execute"] * 4 + ["step", "job"]
    assert executions[4].events == events


def test_events_fit_typescript_interfaces(tmp_path: Path) -> None:
    streams: list[str] = []
    with serve_backend(tmp_path) as server:
        client = StrictClient(server.api, "typescript")
        client.step_through("acme/samples/weather", CITY)
        client.step_through("acme/spelling/grade-3", TEXT)
        for execution in client.session():
            flow = "weather" if execution.slug == "weather" else "grade-3"
            project = "samples" if flow == "weather" else "spelling"
            run = f"/seq/acme/{project}/{flow}/runs/{execution.execution_id}"
            streams.append(client.send("GET", f"{run}/trace/stream").text)
    seen = set()
    for stream in streams:
        for data in re.findall(r"^data: (.*)$", stream, re.MULTILINE):
            event: dict[str, Any] = json.loads(data)
            seen.add(event["eventType"])
            for name, (kind, optional) in INTERFACES[event["eventType"]].items():
                assert optional or name in event
                assert name not in event or type(event[name]) is kind, (event["eventType"], name)
    assert seen == set(INTERFACES)
