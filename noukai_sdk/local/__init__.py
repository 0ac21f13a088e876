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
    from .engine.executor import Executor
    from .engine.failures import NodeError
    from .engine.result import WorkflowResult
    from .engine.stream import EventStream
    from .flow_files.catalog import FlowCatalog
    from .flow_files.flow_file import FlowProblem
    from .llm.client import LlmClient
    from .llm.config import LlmConfig
    from .llm.embeddings import EmbeddingClient
    from .llm.errors import (
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
    from .llm.response import CompletionStream, LlmResponse
    from .llm.stats import LlmStats
    from .runtime.runtime import (
        configure_runtime,
        get_system_info,
        health_check,
        init,
        shutdown,
        version,
    )
    from .workflow.node import Node
    from .workflow.plan import Flow
    from .workflow.validation import Problem, WorkflowError
    from .workflow.workflow import Workflow

_MODULES = {
    "flow_files.catalog": ["FlowCatalog"],
    "workflow.validation": ["Problem", "WorkflowError"],
    "llm.embeddings": ["EmbeddingClient"],
    "engine.stream": ["EventStream"],
    "engine.executor": ["Executor"],
    "engine.failures": ["NodeError"],
    "workflow.plan": ["Flow"],
    "flow_files.flow_file": ["FlowProblem"],
    "llm.client": ["LlmClient"],
    "llm.config": ["LlmConfig"],
    "llm.errors": [
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
    "llm.response": ["CompletionStream", "LlmResponse"],
    "llm.stats": ["LlmStats"],
    "workflow.node": ["Node"],
    "engine.result": ["WorkflowResult"],
    "runtime.runtime": [
        "configure_runtime",
        "get_system_info",
        "health_check",
        "init",
        "shutdown",
        "version",
    ],
    "workflow.workflow": ["Workflow"],
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
