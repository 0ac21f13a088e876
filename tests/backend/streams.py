"""Reads step streams, as a client of a few lines would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from .conftest import Backend

WEATHER = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]

Event = dict[str, Any]


def parse(text: str) -> list[Event]:
    """The events of a stream; holds each frame to the form that docs/wire.md asks for."""
    events = []
    for block in text.split("\n\n")[:-1]:
        first, second = block.split("\n")
        data = second.removeprefix("data: ")
        event = json.loads(data)
        assert first == f"event: {event['eventType']}"
        assert data.startswith('{"eventType":')
        events.append(event)
    return events


def step(backend: Backend, flow: str, body: dict[str, Any], **headers: str) -> list[Event]:
    """One step call of a flow of acme."""
    response = backend.post(f"{flow}/step", body, **headers)
    assert response.status_code == 200, response.text
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["content-type"].startswith("text/event-stream")
    return parse(response.text)


def types(events: list[Event]) -> list[str]:
    """The events' types, chunks of output left out."""
    return [e["eventType"] for e in events if e["eventType"] != "step_output"]


def lines(response: httpx.Response) -> Iterator[Event]:
    """The events of an open stream as they come."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


def answered(pause: dict[str, Any], content: str = "sunny") -> list[dict[str, Any]]:
    """The conversation of a pause, with a result for each of its calls."""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": content}
        for call in pause["toolCalls"]
    ]
    return [*pause["toolCallMessages"], *results]
