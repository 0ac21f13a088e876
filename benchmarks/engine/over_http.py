"""Workflows and clients over HTTP: the time that they add to the calls underneath."""

from __future__ import annotations

import os
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import openai

from benchmarks.engine import graphbit_runs, langgraph_runs
from benchmarks.engine.comparison import Comparison, Run, best_of_each
from benchmarks.engine.server import RATE
from noukai_sdk.local import Executor, LlmClient, LlmConfig, Node, Workflow

try:  # the library that the openai client uses
    import httpx2 as http
except ImportError:
    import httpx as http

NODES = 50
ROUNDS = 30
WIDTH = 10
BATCH = 100
LATENCY = 50
PROMPTS = 300


def _body(latency: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Prompt A short answer."}]
    return {"model": f"lat-{latency}", "messages": messages}


def _config(url: str, latency: int) -> LlmConfig:
    return LlmConfig.openai_compatible(f"{url}/v1", f"lat-{latency}")


def _chain(nodes: list[Node]) -> Workflow:
    workflow = Workflow("chain")
    for place, node in enumerate(nodes):
        workflow.add_node(node)
        if place:
            workflow.connect(nodes[place - 1].id, node.id)
    return workflow


def _run_of(executor: Executor, workflow: Workflow) -> Run:
    async def run() -> None:
        result = await executor.run_async(workflow, "Start")
        result.raise_for_failure()

    return run


def _repeat(call: Any) -> Run:
    async def run() -> None:
        for _ in range(NODES):
            await call()

    return run


async def function_chain(url: str) -> Comparison:
    """Measure the processor time of function nodes in a row, each with one bare HTTP call."""
    executor = Executor()
    async with http.AsyncClient(limits=http.Limits(max_connections=None)) as client:

        async def call() -> str:
            response = await client.post(f"{url}/v1/chat/completions", json=_body(0))
            return str(response.json()["choices"][0]["message"]["content"])

        workflow = _chain([Node.function(f"n{place}", call) for place in range(NODES)])
        runs = {"base": _repeat(call), "ours": _run_of(executor, workflow)}
        if langgraph_runs.runs():
            runs["LangGraph"] = langgraph_runs.chain(NODES, call)
        best = await best_of_each(runs, ROUNDS, process_time)
        await executor.aclose()
    name, note = "a node with a bare HTTP call", f"the {http.__name__} call"
    base, ours = best.pop("base"), best.pop("ours")
    return Comparison(name, "ms", ours, 1.15, base, note, best)


async def agent_chain(url: str, *, aiohttp: bool) -> Comparison:
    """Measure the processor time of agent nodes in a row, beside the official client's ``post``."""
    http_client = openai.DefaultAioHttpClient if aiohttp else openai.DefaultAsyncHttpxClient
    official = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http_client())

    async def post() -> None:
        await official.post("/chat/completions", body=_body(0), cast_to=object)

    async def typed() -> None:
        await official.chat.completions.create(**_body(0))

    with patch.dict(os.environ, {} if aiohttp else {"NOUKAI_FAST": "0"}):
        executor = Executor(_config(url, 0))
        workflow = _chain([Node.agent(f"n{place}", "Prompt {{input}}") for place in range(NODES)])
        runs = {"base": _repeat(post), "ours": _run_of(executor, workflow)}
        runs["its typed call"] = _repeat(typed)
        if aiohttp and graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.chain(url, NODES)
        async with official:
            best = await best_of_each(runs, ROUNDS, process_time)
        await executor.aclose()
    name = "an agent node" if aiohttp else "an agent node, NOUKAI_FAST=0"
    base, ours = best.pop("base"), best.pop("ours")
    return Comparison(name, "ms", ours, 1.15, base, "the official client's post()", best)


async def fan_out(url: str) -> Comparison:
    """Measure one agent, ten at once, and one: at least three times the latency."""
    workflow = Workflow("fan-out")
    workflow.add_node(Node.agent("first"))
    workflow.add_node(Node.agent("last"))
    for place in range(WIDTH):
        workflow.add_node(Node.agent(f"m{place}"))
        workflow.connect("first", f"m{place}")
        workflow.connect(f"m{place}", "last")
    executor = Executor(_config(url, LATENCY))
    async with http.AsyncClient(limits=http.Limits(max_connections=None)) as client:

        async def call() -> str:
            return (await client.post(f"{url}/v1/chat/completions", json=_body(LATENCY))).text

        runs = {"ours": _run_of(executor, workflow)}
        if langgraph_runs.runs():
            runs["LangGraph"] = langgraph_runs.fan_out(WIDTH, call)
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.fan_out(url, WIDTH, LATENCY)
        best = await best_of_each(runs, 10)
        await executor.aclose()
    name, note = f"fan-out, {WIDTH} wide", f"3 x {LATENCY} ms"
    return Comparison(name, "ms", best.pop("ours"), 1.1, 3.0 * LATENCY, note, best)


async def batch(url: str) -> Comparison:
    """Measure a batch of a hundred prompts at once, beside one prompt."""
    async with LlmClient(_config(url, LATENCY)) as client:

        async def one() -> None:
            await client.complete_async("Prompt")

        async def all_at_once() -> None:
            responses = await client.complete_batch(["Prompt"] * BATCH, max_concurrency=BATCH)
            assert all(isinstance(response, str) for response in responses)

        runs = {"base": one, "ours": all_at_once}
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.batch(url, BATCH, LATENCY)
        best = await best_of_each(runs, 10)
    base, ours = best.pop("base"), best.pop("ours")
    return Comparison(f"a batch of {BATCH} at {LATENCY} ms", "ms", ours, 4, base, "one call", best)


async def rate_limit(url: str) -> Comparison:
    """Measure a batch against a limit of requests: the slowest of three kinds of limits."""

    async def seconds(model: str) -> float:
        async with LlmClient(LlmConfig.openai_compatible(f"{url}/v1", model)) as client:
            started = perf_counter()
            responses = await client.complete_batch(["Prompt"] * PROMPTS)
            assert all(isinstance(response, str) for response in responses)
            return perf_counter() - started

    slowest = max([await seconds(model) for model in ("window", "sliding", "bucket")])
    name, ideal = f"{PROMPTS} prompts under a limit of {RATE} a second", PROMPTS / RATE
    return Comparison(name, "s", slowest, 1.15, ideal, f"the ideal {ideal:g} s")
