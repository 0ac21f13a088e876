"""The same workflows in GraphBit, if it is installed."""

from __future__ import annotations

import asyncio
import itertools
from importlib.util import find_spec

from benchmarks.engine.comparison import Run

# Azure is the only provider whose address can be set; shorter keys are rejected.
_KEY = "k" * 32


def runs() -> bool:
    """Return whether GraphBit is installed."""
    return find_spec("graphbit") is not None


def _executor(url: str, latency: int):
    import graphbit

    graphbit.init()
    config = graphbit.LlmConfig.azurellm(_KEY, f"lat-{latency}", url, "2024-10-21")
    return graphbit.Executor(config)


def _agent(name: str):
    import graphbit

    return graphbit.Node.agent(name=name, prompt="Prompt", agent_id=name)


def _blocking(executor, workflow) -> Run:
    async def run() -> None:
        result = await asyncio.to_thread(executor.execute, workflow)
        assert result.is_success(), result.state()

    return run


def chain(url: str, count: int) -> Run:
    """Return a run of agents in a row, over HTTP without latency."""
    import graphbit

    workflow = graphbit.Workflow("chain")
    ids = [workflow.add_node(_agent(f"n{place}")) for place in range(count)]
    for one, other in itertools.pairwise(ids):
        workflow.connect(one, other)
    return _blocking(_executor(url, 0), workflow)


def fan_out(url: str, width: int, latency: int) -> Run:
    """Return a run of one agent, then many, then one."""
    import graphbit

    workflow = graphbit.Workflow("fan-out")
    first, last = workflow.add_node(_agent("first")), workflow.add_node(_agent("last"))
    for place in range(width):
        middle = workflow.add_node(_agent(f"m{place}"))
        workflow.connect(first, middle)
        workflow.connect(middle, last)
    return _blocking(_executor(url, latency), workflow)


def alone(url: str, count: int) -> Run:
    """Return a run of transforms in a row, after an agent: GraphBit rejects a workflow without one."""
    import graphbit

    workflow = graphbit.Workflow("alone")
    last = workflow.add_node(_agent("agent"))
    for place in range(count):
        node = workflow.add_node(graphbit.Node.transform(f"n{place}", "uppercase"))
        workflow.connect(last, node)
        last = node
    return _blocking(_executor(url, 0), workflow)


def batch(url: str, count: int, latency: int) -> Run:
    """Return a run of a batch with all prompts at once."""
    import graphbit

    graphbit.init()
    config = graphbit.LlmConfig.azurellm(_KEY, f"lat-{latency}", url, "2024-10-21")
    client = graphbit.LlmClient(config)

    async def run() -> None:
        responses = await client.complete_batch(["Prompt"] * count, max_concurrency=count)
        assert len(responses) == count

    return run
