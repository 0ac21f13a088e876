"""Capture and replay one request over HTTP, and count the model calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

SESSION_HEADER = "X-Noukai-Session"
REPLAY_HEADER = "X-Noukai-Replay"

Body = dict[str, Any]

ROUTES: list[tuple[str, str, Body]] = [
    ("plain", "/grade", {"text": "The cat sat on teh mat."}),
    ("streaming", "/grade/stream", {"text": "Their are to many cats."}),
    ("fan-out", "/grade/many", {"texts": ["I has a cat.", "She runned.", "We was late."]}),
    ("tools", "/weather", {"question": "How is the weather in Paris and in Oslo?"}),
    ("recorded", "/pupils/2/essays", {"text": "Teh dog barks."}),
]
"""The requests of the demo: a name, the path and the body."""


@dataclass(frozen=True)
class Response:
    """The response of an app, and the number of model calls that it caused."""

    status: int
    session_id: str | None
    body: bytes
    model_calls: int


@dataclass(frozen=True)
class Exchange:
    """The response to a request, and the response to its replay."""

    captured: Response
    replayed: Response

    @property
    def passed(self) -> bool:
        """Whether the replay has the same session and body, and called no model."""
        return (
            (self.captured.status, self.replayed.status) == (200, 200)
            and self.captured.session_id is not None
            and self.captured.session_id == self.replayed.session_id
            and self.captured.body == self.replayed.body
            and self.captured.model_calls > 0
            and self.replayed.model_calls == 0
        )


class Observer:
    """Post requests to an app, and count the model calls of the backend meanwhile.

    Args:
        backend: The root URL of a backend without other clients.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._http = httpx.Client(timeout=120, trust_env=False)

    def capture_and_replay(self, url: str, body: Body) -> Exchange:
        """Post ``body``, then post it again with the session of the first response."""
        captured = self._post(url, body, {})
        session = {REPLAY_HEADER: captured.session_id} if captured.session_id else {}
        return Exchange(captured, self._post(url, body, session))

    def _post(self, url: str, body: Body, headers: dict[str, str]) -> Response:
        before = self._model_calls()
        response = self._http.post(url, json=body, headers=headers)
        session_id = response.headers.get(SESSION_HEADER)
        model_calls = self._model_calls() - before
        return Response(response.status_code, session_id, response.content, model_calls)

    def _model_calls(self) -> int:
        return int(self._http.get(f"{self._backend}/dev/stats").json()["modelCalls"])

    def close(self) -> None:
        """Release the connections."""
        self._http.close()
