"""Side-by-side measurements. Each module has ``run() -> list[Row]``; see measure.py."""

import os

# As in tests/conftest.py: asgi-correlation-id imports Sentry, and Sentry eventlet.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
