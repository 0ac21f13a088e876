"""Send a text to the worker: ``python -m example_apps.celery_worker TEXT [SESSION TO REPLAY]``."""

import json
import sys

from example_apps.celery_worker.tasks import REPLAY, grade
from noukai_sdk import trace_scope_sync

text, *replay = sys.argv[1:]
with trace_scope_sync() as scope:  # as the middleware of a web app does
    sent = grade.apply_async((text,), headers={REPLAY: replay[0]} if replay else {})
print(json.dumps({"sender": scope.session_id, **sent.get(timeout=60)}))
