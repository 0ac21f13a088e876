"""Programs stepped by hand, on a clock of the test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from noukai_sdk import NoukaiError
from noukai_sdk.protocol.call import FlowCall, FlowRef, Service
from noukai_sdk.protocol.program import (
    CallTools,
    Effect,
    Now,
    OpenStream,
    Program,
    ReadChunk,
    Response,
    SendRequest,
    Sleep,
)
from noukai_sdk.replay import recording_builder as draft
from tests.replay.live import TOOLS

SERVICE = Service("http://service", {"Authorization": "Bearer nk_x"}, 60, 0, None)


class Clock:
    """Time that passes only where the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(draft.time, "perf_counter", lambda: self.now)

    def run(
        self, program: Program[Any], answers: Iterable[Any] = (), consumer: float = 0.0
    ) -> list[tuple[float, Any]]:
        """Drive a program; gives what it said and when, its result or error last.

        Args:
            program: What to drive.
            answers: For each request and each chunk, the seconds that it takes and what comes.
            consumer: Seconds that the caller takes for each event.
        """
        answers = iter(answers)
        began = self.now
        said: list[tuple[float, Any]] = []
        outcome: Any = None
        try:
            while True:
                item = program.send(outcome)
                outcome = self._perform(item, answers)
                if not isinstance(item, Effect):
                    said.append((round(self.now - began, 6), item))
                    self.now += consumer
        except StopIteration as end:
            said.append((round(self.now - began, 6), end.value))
        except NoukaiError as error:
            said.append((round(self.now - began, 6), type(error)))
        return said

    def _perform(self, item: Any, answers: Any) -> Any:
        match item:
            case SendRequest() | OpenStream() | ReadChunk():
                seconds, answer = next(answers)
                self.now += seconds
                return answer
            case Sleep(seconds):
                self.now += seconds
            case Now():
                return self.now
            case CallTools(_, calls):
                self.now += 5
                return [{"tool_call_id": call["id"], "output": 1} for call in calls]
        return None


def call(kind: Any, **fields: Any) -> FlowCall:
    request = {"message": "m", **({"tools": TOOLS} if "tool_handler" in fields else {})}
    return FlowCall(kind, FlowRef("acme", "tests", "flow"), SERVICE, request, **fields)


def ok(**body: Any) -> Response:
    return Response(200, {}, json.dumps(body).encode())
