"""A Celery task whose runs are sessions. A header of the task replays one.

The broker and the results are folders here, so that the example needs no server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish
from celery.utils.log import get_task_logger

from noukai_sdk import Noukai, current_session_id, trace_scope_sync

SESSION = "noukai_session"
REPLAY = "noukai_replay"

folder = Path(os.environ.get("CELERY_FOLDER", "celery"))
for name in ("queue", "results", "control"):
    (folder / name).mkdir(parents=True, exist_ok=True)

app = Celery("grader", broker="filesystem://", backend=f"file://{(folder / 'results').resolve()}")
app.conf.broker_transport_options = {
    "data_folder_in": str(folder / "queue"),
    "data_folder_out": str(folder / "queue"),
    "control_folder": str(folder / "control"),
}
app.conf.broker_connection_retry_on_startup = True

noukai = Noukai(org="acme", project="spelling")
logger = get_task_logger(__name__)


@before_task_publish.connect
def carry_session(headers: dict[str, Any], **_: Any) -> None:
    """Put the session of the request that sends a task into its headers, for the worker's log."""
    headers.setdefault(SESSION, current_session_id())


class SessionTask(Task):
    """A task that runs in a session of its own: it may run long after its request."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        replay = self.request.get(REPLAY)
        with trace_scope_sync(
            client=noukai, replay_session_id=replay, strict=replay is not None
        ) as scope:
            sender = self.request.get(SESSION)
            logger.info("session %s, sent by session %s", scope.session_id, sender)
            result = super().__call__(*args, **kwargs)
        return {"session": scope.session_id, "result": result, "hits": len(scope.report.hits)}


@app.task(base=SessionTask)
def grade(text: str) -> str:
    return str(noukai.flow("grade-3").execute(text).result)
