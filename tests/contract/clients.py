"""Small clients that share no code with ours: one over httpx and one over curl."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx

from tests.contract import wire

WEATHER = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]

M = TypeVar("M", bound=wire.Wire)

ResultForm = Callable[[str], dict[str, Any]]
"""Returns the result of a tool call, by the id of the call, in one of the forms that are accepted."""

RESULT_FORMS: dict[str, ResultForm] = {
    "tool_call_id": lambda id_: {"role": "tool", "tool_call_id": id_, "content": "sunny"},
    "toolCallId": lambda id_: {"role": "tool", "toolCallId": id_, "content": "sunny"},
    "output": lambda id_: {"tool_call_id": id_, "output": "sunny"},
    "output that is not a string": lambda id_: {"tool_call_id": id_, "output": {"sky": "sunny"}},
}


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Sender(Protocol):
    def __call__(
        self, method: str, url: str, body: str | None, headers: dict[str, str]
    ) -> Response: ...


_http = httpx.Client(timeout=30, trust_env=False)


def send_by_httpx(method: str, url: str, body: str | None, headers: dict[str, str]) -> Response:
    response = _http.request(method, url, content=body, headers=headers)
    return Response(response.status_code, dict(response.headers), response.text)


def send_by_curl(method: str, url: str, body: str | None, headers: dict[str, str]) -> Response:
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "30"]
    command += ["--request", method, url]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    if body is not None:
        command += ["--data-binary", "@-"]
    output = subprocess.run(command, input=(body or "").encode(), capture_output=True, check=True)
    head, _, text = output.stdout.decode().partition("\r\n\r\n")
    status_line, *lines = head.split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Response(int(status_line.split()[1]), {k.lower(): v for k, v in pairs}, text)


class StrictClient:
    """A client that reads every response with the strict models.

    Args:
        api: The base URL, with ``/api/v1``.
        send: Sends a request.
        session: The session id of all calls.
    """

    def __init__(self, api: str, session: str, send: Sender = send_by_httpx) -> None:
        self.session_id = session
        self._api = api
        self._send = send

    def send(
        self, method: str, path: str, body: Any = None, key: str = "nk_dev", **headers: str
    ) -> Response:
        headers = {"Content-Type": "application/json", "X-Session-Id": self.session_id, **headers}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        text = None if body is None else body if isinstance(body, str) else json.dumps(body)
        response = self._send(method, self._api + path, text, headers)
        assert response.headers["x-request-id"].startswith("req_")
        return response

    def read(
        self, model: type[M], method: str, path: str, body: Any = None, status: int = 200
    ) -> M:
        """Send a request and return its response, of this model and with this status."""
        response = self.send(method, path, body)
        assert response.status == status, response.text
        assert response.headers["content-type"] == "application/json"
        return model.model_validate_json(response.text)

    def stream(self, method: str, path: str, body: Any = None) -> list[Any]:
        """Send a request and return the events of its response."""
        response = self.send(method, path, body)
        assert response.status == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return wire.parse_stream(response.text)

    def execute(
        self, flow: str, body: dict[str, Any], form: ResultForm = RESULT_FORMS["tool_call_id"]
    ) -> tuple[wire.Completed, list[wire.Paused]]:
        """Execute a flow and answer its tool calls; return the end and the pauses before it."""
        pauses: list[wire.Paused] = []
        request = body
        while True:
            response = self.send("POST", f"/seq/{flow}/execute", request)
            assert response.status == 200, response.text
            if json.loads(response.text)["status"] == "completed":
                return wire.Completed.model_validate_json(response.text), pauses
            pause = wire.Paused.model_validate_json(response.text)
            pauses.append(pause)
            repeated = {name: value for name, value in body.items() if name != "message"}
            request = {
                **repeated,
                "executionId": pause.execution_id,
                "pausedAtStep": pause.paused_at_step,
                "iterationsUsed": pause.iterations_used,
                "accumulatedOutputs": pause.accumulated_outputs,
                "toolCallMessages": [
                    *pause.tool_call_messages,
                    *(form(call.id) for call in pause.tool_calls),
                ],
            }

    def step_through(
        self, flow: str, body: dict[str, Any], form: ResultForm = RESULT_FORMS["tool_call_id"]
    ) -> list[Any]:
        """Run a flow by the step protocol; return the events of all its calls.

        Later calls send empty values for the fields that go out on the first call only.
        """
        events: list[Any] = []
        sent = {
            "message": None,
            "parameters": {},
            "inputOverrides": {},
            "iterationsUsed": 0,
            **body,
        }
        later = {**sent, "message": None, "parameters": {}}
        outputs: dict[str, Any] = {}
        request = {**sent, "stepIndex": 0, "accumulatedOutputs": {}}
        while True:
            new = self.stream("POST", f"/seq/{flow}/step", request)
            events += new
            outputs |= {e.step_id: e.output for e in new if e.event_type == "step_completed"}
            last = new[-1]
            request = {**later, "executionId": last.execution_id, "accumulatedOutputs": outputs}
            if last.event_type == "step_paused":
                request["stepIndex"] = last.step_index + 1
            elif last.event_type == "step_paused_for_tool_calls":
                request["stepIndex"] = last.step_index
                request["iterationsUsed"] = last.iterations_used
                results = [form(call.id) for call in last.tool_calls]
                request["toolCallMessages"] = [*last.tool_call_messages, *results]
            else:
                return events

    def run_job(self, flow: str, body: dict[str, Any]) -> wire.Poll:
        """Submit a job and poll it to its end."""
        job = self.read(wire.Submitted, "POST", f"/seq/{flow}/jobs", body, 202)
        while True:
            poll = self.read(wire.Poll, "GET", f"/seq/{flow}/jobs/{job.execution_id}")
            if poll.status in ("completed", "failed"):
                return poll
            time.sleep(0.01)

    def trace(self, flow: str, execution_id: str) -> wire.RunTrace:
        """Read the trace of a run, and every trace of each of its steps."""
        run = f"/seq/{flow}/runs/{execution_id}"
        trace = self.read(wire.RunTrace, "GET", f"{run}/trace")
        for step in trace.steps:
            of_step = f"{run}/steps/{step.step_id}/trace"
            item = "" if step.loop_index is None else f"&loop_index={step.loop_index}"
            every = self.read(wire.StepAttempts, "GET", f"{of_step}?attempt=all{item}").attempts
            assert [each.attempt for each in every] == list(range(1, step.attempt + 1))
            latest = self.read(wire.StepTrace, "GET", f"{of_step}?attempt={step.attempt}{item}")
            assert latest == every[-1] == step
            assert self.read(wire.StepTrace, "GET", f"{of_step}?{item.lstrip('&')}") == step
        return trace

    def live_trace(self, flow: str, execution_id: str) -> list[Any]:
        """Return the events of a run that has ended."""
        return self.stream("GET", f"/seq/{flow}/runs/{execution_id}/trace/stream")

    def session(self) -> list[wire.Execution]:
        """Return the executions of the session."""
        session = self.read(wire.Session, "GET", f"/seq/sessions/{self.session_id}")
        assert session.session_id == self.session_id
        return session.executions
