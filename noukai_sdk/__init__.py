"""Call Noukai flows, and run a production request again with no model call.

Every public name is here and loaded when it is first used, so that ``import noukai_sdk`` costs
nothing and loads no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .client import AsyncNoukai as AsyncNoukai
    from .client import Noukai as Noukai
    from .errors import APIConnectionError as APIConnectionError
    from .errors import APITimeoutError as APITimeoutError
    from .errors import AuthenticationError as AuthenticationError
    from .errors import CassetteError as CassetteError
    from .errors import ClientClosedError as ClientClosedError
    from .errors import FlowExecutionError as FlowExecutionError
    from .errors import FlowNotFoundError as FlowNotFoundError
    from .errors import InsufficientCreditsError as InsufficientCreditsError
    from .errors import NoukaiError as NoukaiError
    from .errors import PermissionDeniedError as PermissionDeniedError
    from .errors import RateLimitError as RateLimitError
    from .errors import ReplayDisabledError as ReplayDisabledError
    from .errors import ReplayError as ReplayError
    from .errors import ReplayForbiddenError as ReplayForbiddenError
    from .errors import ReplayInvalidSessionError as ReplayInvalidSessionError
    from .errors import ReplayLeftoverError as ReplayLeftoverError
    from .errors import ReplayMissError as ReplayMissError
    from .errors import ReplayNoSnapshotsError as ReplayNoSnapshotsError
    from .errors import ReplaySessionExpiredError as ReplaySessionExpiredError
    from .errors import ReplaySessionNotFoundError as ReplaySessionNotFoundError
    from .errors import ToolCallLimitError as ToolCallLimitError
    from .errors import ToolHandlerRequiredError as ToolHandlerRequiredError
    from .flow import AsyncFlow as AsyncFlow
    from .flow import Flow as Flow
    from .job import AsyncJob as AsyncJob
    from .job import Job as Job
    from .models.events import FlowCompleted as FlowCompleted
    from .models.events import RunStarted as RunStarted
    from .models.events import StepCompleted as StepCompleted
    from .models.events import StepFailed as StepFailed
    from .models.events import StepInput as StepInput
    from .models.events import StepOutput as StepOutput
    from .models.events import StepPaused as StepPaused
    from .models.events import StepStarted as StepStarted
    from .models.events import StreamEvent as StreamEvent
    from .models.events import Tokens as Tokens
    from .models.events import ToolCallsRequired as ToolCallsRequired
    from .models.reports import ReplayReport as ReplayReport
    from .models.results import ExecuteResult as ExecuteResult
    from .models.results import JobStatus as JobStatus
    from .models.results import PausedResult as PausedResult
    from .models.traces import FlowRun as FlowRun
    from .models.traces import RunTrace as RunTrace
    from .models.traces import StepAttempts as StepAttempts
    from .models.traces import StepTrace as StepTrace
    from .replay.player import ReplayConcurrencyWarning as ReplayConcurrencyWarning
    from .run import AsyncRun as AsyncRun
    from .run import Run as Run
    from .session.lost_scope import LostScopeWarning as LostScopeWarning
    from .session.opening import trace_scope as trace_scope
    from .session.opening import trace_scope_sync as trace_scope_sync
    from .session.recording_scope import LateCallWarning as LateCallWarning
    from .session.scope import Scope as Scope
    from .session.scope import current_session_id as current_session_id
    from .session.threads import ContextThreadPoolExecutor as ContextThreadPoolExecutor
    from .session.threads import copy_scope as copy_scope
    from .session.trace import trace as trace

_HOMES: dict[str, tuple[str, ...]] = {
    "client": ("AsyncNoukai", "Noukai"),
    "errors": (
        "APIConnectionError",
        "APITimeoutError",
        "AuthenticationError",
        "CassetteError",
        "ClientClosedError",
        "FlowExecutionError",
        "FlowNotFoundError",
        "InsufficientCreditsError",
        "NoukaiError",
        "PermissionDeniedError",
        "RateLimitError",
        "ReplayDisabledError",
        "ReplayError",
        "ReplayForbiddenError",
        "ReplayInvalidSessionError",
        "ReplayLeftoverError",
        "ReplayMissError",
        "ReplayNoSnapshotsError",
        "ReplaySessionExpiredError",
        "ReplaySessionNotFoundError",
        "ToolCallLimitError",
        "ToolHandlerRequiredError",
    ),
    "flow": ("AsyncFlow", "Flow"),
    "job": ("AsyncJob", "Job"),
    "models.events": (
        "FlowCompleted",
        "RunStarted",
        "StepCompleted",
        "StepFailed",
        "StepInput",
        "StepOutput",
        "StepPaused",
        "StepStarted",
        "StreamEvent",
        "Tokens",
        "ToolCallsRequired",
    ),
    "models.reports": ("ReplayReport",),
    "models.results": ("ExecuteResult", "JobStatus", "PausedResult"),
    "models.traces": ("FlowRun", "RunTrace", "StepAttempts", "StepTrace"),
    "replay.player": ("ReplayConcurrencyWarning",),
    "run": ("AsyncRun", "Run"),
    "session.lost_scope": ("LostScopeWarning",),
    "session.opening": ("trace_scope", "trace_scope_sync"),
    "session.recording_scope": ("LateCallWarning",),
    "session.scope": ("Scope", "current_session_id"),
    "session.threads": ("ContextThreadPoolExecutor", "copy_scope"),
    "session.trace": ("trace",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604 - a list of names, put together


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
