"""One request, captured and replayed by real HTTP, and what it cost in model calls."""

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
]
"""What the demo asks of each app: a word for it, the path, the body."""


@dataclass(frozen=True)
class Answer:
    """What came back, and how many model calls the backend counted for it."""

    status: int
    session_id: str | None
    body: bytes
    model_calls: int


@dataclass(frozen=True)
class Exchange:
    """The answer to a request, and the answer to its replay."""

    captured: Answer
    replayed: Answer

    @property
    def proves_it(self) -> bool:
        """The same session and the same answer, from the model once and then from none."""
        return (
            (self.captured.status, self.replayed.status) == (200, 200)
            and self.captured.session_id is not None
            and self.captured.session_id == self.replayed.session_id
            and self.captured.body == self.replayed.body
            and self.captured.model_calls > 0
            and self.replayed.model_calls == 0
        )


class Observer:
    """Posts requests to an app and counts the backend's model calls meanwhile.

    Args:
        backend: The root URL of a backend that nobody else uses now.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._http = httpx.Client(timeout=120, trust_env=False)

    def capture_and_replay(self, url: str, body: Body) -> Exchange:
        """Post ``body``, then post it again with the session of the first answer."""
        captured = self._post(url, body, {})
        session = {REPLAY_HEADER: captured.session_id} if captured.session_id else {}
        return Exchange(captured, self._post(url, body, session))

    def _post(self, url: str, body: Body, headers: dict[str, str]) -> Answer:
        before = self._model_calls()
        answer = self._http.post(url, json=body, headers=headers)
        session_id = answer.headers.get(SESSION_HEADER)
        return Answer(answer.status_code, session_id, answer.content, self._model_calls() - before)

    def _model_calls(self) -> int:
        return int(self._http.get(f"{self._backend}/dev/stats").json()["modelCalls"])

    def close(self) -> None:
        """Release the connections."""
        self._http.close()
