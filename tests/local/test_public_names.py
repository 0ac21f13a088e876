"""The public names of ``noukai_sdk.local``: loaded at first use, sync or async as documented."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from noukai_sdk import local
from noukai_sdk.local import (
    EmbeddingClient,
    Executor,
    LlmClient,
    LlmConfig,
    Node,
    Workflow,
    WorkflowResult,
)

SYNC: list[tuple[Any, str]] = [
    (local, "init version get_system_info health_check configure_runtime shutdown"),
    (LlmClient, "complete complete_full get_stats reset_stats close"),
    (EmbeddingClient, "embed embed_many similarity"),
    (Workflow, "add_node connect validate problems to_mermaid"),
    (Node, "agent condition transform function"),
    (Executor, "configure get_stats reset_stats get_execution_mode execute execute_streaming"),
    (LlmConfig, "openai anthropic ollama azure openai_compatible smollm2 offline"),
    (WorkflowResult, "is_success is_failed is_paused state execution_time_ms raise_for_failure"),
    (WorkflowResult, "get_variable get_all_variables variables"),
    (WorkflowResult, "get_node_output get_all_node_outputs"),
]
ASYNC: list[tuple[Any, str]] = [
    (LlmClient, "complete_async complete_batch warmup"),
    (EmbeddingClient, "embed_async embed_many_async"),
    (Executor, "run_async"),
]


def test_each_name_is_sync_or_async_as_documented() -> None:
    for table, is_async in ((SYNC, False), (ASYNC, True)):
        for owner, names in table:
            for name in names.split():
                function = getattr(owner, name)
                assert inspect.iscoroutinefunction(function) is is_async, name
                assert inspect.getdoc(function), name


def test_import_loads_no_provider_and_unknown_names_raise() -> None:
    code = """
import sys
import noukai_sdk.local
before = set(sys.modules)
assert not before & {"openai", "anthropic", "xllamacpp", "yaml", "anyio", "pydantic"}, before
assert "Executor" in dir(noukai_sdk.local)
from noukai_sdk.local import *
assert {"Executor", "FlowCatalog", "shutdown"} <= set(globals())
assert not set(sys.modules) & {"openai", "anthropic", "xllamacpp", "yaml", "fastapi", "click"}
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        local.nonesuch  # noqa: B018
