"""Flows that run in this process, and the model clients they use.

Example::

    from noukai_sdk.local import Executor, LlmConfig, Node, Workflow

    workflow = Workflow("Report")
    draft = workflow.add_node(Node.agent("Draft", "Write about {{message}}"))
    check = workflow.add_node(Node.agent("Check", "Find mistakes in {{node.Draft}}"))
    workflow.connect(draft, check)

    result = Executor(LlmConfig.offline()).execute(workflow, inputs={"message": "cats"})
    print(result.get_node_output("Check"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalog import FlowCatalog
    from .checks import Problem, WorkflowError
    from .embeddings import EmbeddingClient
    from .event_stream import EventStream
    from .executor import Executor
    from .failures import NodeError
    from .flow import Flow
    from .flow_file import FlowProblem
    from .llm_client import LlmClient
    from .llm_config import LlmConfig
    from .llm_errors import (
        LlmAuthenticationError,
        LlmCircuitOpenError,
        LlmClosedError,
        LlmConfigError,
        LlmConnectionError,
        LlmError,
        LlmRateLimitError,
        LlmRequestError,
        LlmResponseError,
        LlmServerError,
        LlmTimeoutError,
        MissingExtraError,
    )
    from .llm_response import CompletionStream, LlmResponse
    from .llm_stats import LlmStats
    from .node import Node
    from .result import WorkflowResult
    from .runtime import (
        configure_runtime,
        get_system_info,
        health_check,
        init,
        shutdown,
        version,
    )
    from .workflow import Workflow

_MODULES = {
    "catalog": ["FlowCatalog"],
    "checks": ["Problem", "WorkflowError"],
    "embeddings": ["EmbeddingClient"],
    "event_stream": ["EventStream"],
    "executor": ["Executor"],
    "failures": ["NodeError"],
    "flow": ["Flow"],
    "flow_file": ["FlowProblem"],
    "llm_client": ["LlmClient"],
    "llm_config": ["LlmConfig"],
    "llm_errors": [
        "LlmAuthenticationError",
        "LlmCircuitOpenError",
        "LlmClosedError",
        "LlmConfigError",
        "LlmConnectionError",
        "LlmError",
        "LlmRateLimitError",
        "LlmRequestError",
        "LlmResponseError",
        "LlmServerError",
        "LlmTimeoutError",
        "MissingExtraError",
    ],
    "llm_response": ["CompletionStream", "LlmResponse"],
    "llm_stats": ["LlmStats"],
    "node": ["Node"],
    "result": ["WorkflowResult"],
    "runtime": [
        "configure_runtime",
        "get_system_info",
        "health_check",
        "init",
        "shutdown",
        "version",
    ],
    "workflow": ["Workflow"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CompletionStream",
    "EmbeddingClient",
    "EventStream",
    "Executor",
    "Flow",
    "FlowCatalog",
    "FlowProblem",
    "LlmAuthenticationError",
    "LlmCircuitOpenError",
    "LlmClient",
    "LlmClosedError",
    "LlmConfig",
    "LlmConfigError",
    "LlmConnectionError",
    "LlmError",
    "LlmRateLimitError",
    "LlmRequestError",
    "LlmResponse",
    "LlmResponseError",
    "LlmServerError",
    "LlmStats",
    "LlmTimeoutError",
    "MissingExtraError",
    "Node",
    "NodeError",
    "Problem",
    "Workflow",
    "WorkflowError",
    "WorkflowResult",
    "configure_runtime",
    "get_system_info",
    "health_check",
    "init",
    "shutdown",
    "version",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
