"""ENGINE.md's table: each name exists, is sync or async as it says, and does what its row says."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from noukai_sdk import local
from noukai_sdk.local import (
    EmbeddingClient,
    Executor,
    LlmClient,
    LlmConfig,
    LlmError,
    Node,
    Workflow,
    WorkflowResult,
)
from tests.support.servers import wait_until

SYNC = {
    "module": (
        local,
        "init version get_system_info health_check configure_runtime shutdown",
    ),
    "LlmConfig": (
        LlmConfig,
        "openai anthropic ollama azure openai_compatible smollm2 offline",
    ),
    "LlmClient": (LlmClient, "complete complete_full get_stats reset_stats close"),
    "EmbeddingClient": (EmbeddingClient, "embed embed_many similarity"),
    "Workflow": (Workflow, "add_node connect validate problems to_mermaid"),
    "Node": (Node, "agent condition transform function"),
    "Executor": (
        Executor,
        "configure get_stats reset_stats get_execution_mode execute execute_streaming",
    ),
    "WorkflowResult": (
        WorkflowResult,
        """is_success is_failed state execution_time_ms get_variable get_all_variables variables
        get_node_output get_all_node_outputs""",
    ),
}
ASYNC = {
    "LlmClient": (LlmClient, "complete_async complete_batch warmup"),
    "EmbeddingClient": (EmbeddingClient, "embed_async embed_many_async"),
    "Executor": (Executor, "run_async"),
}


def rows(table: dict[str, tuple[Any, str]]) -> list[Any]:
    return [
        pytest.param(getattr(owner, name), id=f"{owner_name}.{name}")
        for owner_name, (owner, names) in table.items()
        for name in names.split()
    ]


@pytest.mark.parametrize("function", rows(SYNC))
def test_sync_names_are_sync_and_documented(function: Any) -> None:
    assert callable(function)
    assert not inspect.iscoroutinefunction(function)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("function", rows(ASYNC))
def test_async_names_are_async_and_documented(function: Any) -> None:
    assert inspect.iscoroutinefunction(function)
    assert inspect.getdoc(function)


def test_module_functions() -> None:
    local.configure_runtime(worker_threads=4)
    local.init(log_level="info", enable_tracing=True, debug=False)
    try:
        assert isinstance(local.version(), str)
        assert local.get_system_info()["runtime_worker_threads"] == 4
        assert local.health_check()["overall_healthy"] is True
    finally:
        local.shutdown()
        local.configure_runtime(worker_threads=40)
    assert local.health_check()["overall_healthy"] is True


def test_llm_config() -> None:
    configs = [
        LlmConfig.openai("sk-secret", timeout=5, max_retries=0, base_url="http://localhost:1/v1"),
        LlmConfig.anthropic("sk-secret"),
        LlmConfig.ollama(),
        LlmConfig.azure("sk-secret", "deployment", "https://x.openai.azure.com"),
        LlmConfig.openai_compatible("http://localhost:1/v1", "m", api_key="sk-secret"),
        LlmConfig.smollm2(),
        LlmConfig.offline(),
    ]
    assert (configs[0].timeout, configs[0].max_retries) == (5, 0)
    assert "sk-secret" not in repr(configs)


def test_llm_client() -> None:
    with LlmClient(LlmConfig.offline()) as client:
        text = client.complete("Hello")

        async def use() -> None:
            await client.warmup()
            assert await client.complete_async("Hello") == text
            assert await client.complete_stream("Hello") == text
            assert "".join([piece async for piece in client.complete_stream("Hello")]) == text
            prompts = [f"prompt {number}" for number in range(20)]
            answers = await client.complete_batch(prompts, max_concurrency=5)
            for prompt, answer in zip(prompts, answers, strict=True):
                assert not isinstance(answer, LlmError)
                assert f'"{prompt}"' in answer

        asyncio.run(use())
        asyncio.run(use())
        full = client.complete_full("Hello")
        assert full.text == text
        assert client.get_stats()["total_requests"] == 48


def test_embedding_client() -> None:
    with EmbeddingClient() as client:
        one, other = client.embed_many(["a cat", "two cats"])
        assert client.embed("a cat") == one
        assert asyncio.run(client.embed_async("a cat")) == one
        assert asyncio.run(client.embed_many_async(["a cat", "two cats"])) == [one, other]
        assert EmbeddingClient.similarity(one, one) == pytest.approx(1)


def chain() -> Workflow:
    workflow = Workflow("chain")
    first = workflow.add_node(Node.agent("First", "Write about {{message}}"))
    count = workflow.add_node(Node.function("Count", lambda text: {"words": len(text.split())}))
    check = workflow.add_node(Node.condition("Check", "{{node.Count.words}} > 3"))
    last = workflow.add_node(Node.transform("Last", "uppercase"))
    for source, target in ((first, count), (count, check), (check, last)):
        workflow.connect(source, target)
    workflow.validate()
    return workflow


def test_workflow_and_nodes() -> None:
    result = Executor().execute(chain(), inputs={"message": "cats"})
    assert result.get_node_output("Count") == {"words": 10}
    assert result.get_node_output("Check") is True
    assert result.get_node_output("Last") == '{"WORDS": 10}'


def test_execute_blocks_and_run_async_is_awaited() -> None:
    executor = Executor(LlmConfig.offline())
    blocked = executor.execute(chain(), inputs={"message": "cats"})
    assert isinstance(blocked, WorkflowResult)

    async def main() -> WorkflowResult:
        return await executor.run_async(chain(), inputs={"message": "cats"})

    assert asyncio.run(main()).get_all_node_outputs() == blocked.get_all_node_outputs()
    assert executor.get_stats()["total_executions"] == 2


def test_execute_streaming_yields_events() -> None:
    types = [event.type for event in Executor().execute_streaming(chain(), {"message": "cats"})]
    assert (types[0], types[-1]) == ("run_started", "flow_completed")


def test_workflow_result() -> None:
    result = Executor().execute(chain(), inputs={"message": "cats", "n": 1})
    assert (result.is_success(), result.is_failed(), result.state()) == (True, False, "completed")
    assert result.execution_time_ms() > 0
    assert result.get_variable("n") == 1
    assert list(result.get_all_variables()) == ["message", "n", "First", "Count", "Check", "Last"]
    assert dict(result.variables()) == result.get_all_variables()


def test_shutdown_leaves_no_thread_of_ours() -> None:
    local.shutdown()
    before = set(threading.enumerate())
    Executor().execute(chain(), "cats")
    client = LlmClient(LlmConfig.offline())
    client.complete("x")
    local.shutdown()
    # Idle worker threads are told to end, and do so by themselves.
    wait_until(lambda: set(threading.enumerate()) <= before, what="all threads have ended")
