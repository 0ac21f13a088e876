"""The session in log records."""

from __future__ import annotations

import logging
from typing import Any

from .scope import current_scope


class SessionFilter(logging.Filter):
    """Put the session that the logging code runs in into every log record.

    Each record gets ``noukai_session``, which is ``default`` outside of a session, and ``noukai_replay``,
    True if the session is replayed. Add the filter to handlers: a logger's filters do not see the
    records of loggers below it. In front of a queue, add it to the QueueHandler.

    Args:
        default: The session of records outside of any.

    Example:
        >>> import logging, sys
        >>> from noukai_sdk import SessionFilter
        >>> handler = logging.StreamHandler(sys.stdout)
        >>> handler.addFilter(SessionFilter(default="none"))
        >>> handler.setFormatter(logging.Formatter("%(message)s session=%(noukai_session)s"))
        >>> logger = logging.getLogger("my-app")
        >>> logger.addHandler(handler)
        >>> logger.warning("low on memory")
        low on memory session=none
        >>> logger.removeHandler(handler)
    """

    def __init__(self, default: str = "-") -> None:
        super().__init__()
        self._default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields. Every record passes."""
        for name, value in log_context(default=self._default).items():
            # The SDK's own records may name the session that they are about.
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


def log_context(default: str | None = None) -> dict[str, Any]:
    """Return ``noukai_session`` and ``noukai_replay`` of the running code, for loggers of other kinds.

    Outside of a session they are ``default`` and False. Without a default, the dict is empty there.

    Example:
        >>> from noukai_sdk import log_context, trace_scope_sync
        >>> log_context()
        {}
        >>> with trace_scope_sync() as scope:
        ...     log_context() == {"noukai_session": scope.session_id, "noukai_replay": False}
        True
    """
    scope = current_scope()
    if scope is not None and scope.session_id is not None:
        return {"noukai_session": scope.session_id, "noukai_replay": scope.mode == "replay"}
    return {} if default is None else {"noukai_session": default, "noukai_replay": False}
