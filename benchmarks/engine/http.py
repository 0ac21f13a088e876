"""Workflows over HTTP: what a node adds to the call underneath, and a fan-out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from benchmarks.engine import graphbit_runs, langgraph_runs
from benchmarks.engine.compared import Compared
from benchmarks.engine.timing import Run, best_of_each
from noukai_sdk.local import Executor, LlmConfig, Node, Workflow
from noukai_sdk.transport import fast

try:  # what the openai client uses
    import httpx2 as http
except ImportError:
    import httpx as http

COUNT = 50
ROUNDS = 30
WIDTH = 10
LATENCY = 50
_HEADERS = {"authorization": "Bearer none"}
_ALONE = f"{http.__name__} alone"


def _body(latency: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Prompt A short answer."}]
    return {"model": f"lat-{latency}", "messages": messages}


@asynccontextmanager
async def _bare_call(url: str, latency: int) -> AsyncIterator[Any]:
    async with http.AsyncClient(limits=http.Limits(max_connections=None)) as client:

        async def call() -> str:
            answer = await client.post(
                f"{url}/v1/chat/completions", json=_body(latency), headers=_HEADERS
            )
            return str(answer.json()["choices"][0]["message"]["content"])

        yield call


def _config(url: str, latency: int) -> LlmConfig:
    return LlmConfig.openai_compatible(f"{url}/v1", f"lat-{latency}")


def _chain(nodes: list[Node]) -> Workflow:
    workflow = Workflow("chain")
    for place, node in enumerate(nodes):
        workflow.add_node(node)
        if place:
            workflow.connect(nodes[place - 1].id, node.id)
    return workflow


def _ours(executor: Executor, workflow: Workflow) -> Run:
    async def run() -> None:
        result = await executor.run_async(workflow, "Start")
        result.raise_for_failure()

    return run


def _times(call: Any, count: int) -> Run:
    async def run() -> None:
        for _ in range(count):
            await call()

    return run


@asynccontextmanager
async def _aiohttp_call(url: str, latency: int) -> AsyncIterator[Any]:
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def call() -> str:
            async with session.post(
                f"{url}/v1/chat/completions", json=_body(latency), headers=_HEADERS
            ) as answer:
                return str((await answer.json())["choices"][0]["message"]["content"])

        yield call


def _agents() -> Workflow:
    return _chain([Node.agent(f"n{place}", "Prompt {{input}}") for place in range(COUNT)])


async def chains(url: str) -> list[Compared]:
    """Nodes in a row without latency, and the calls underneath."""
    executor = Executor(_config(url, 0))
    async with _bare_call(url, 0) as bare, _aiohttp_call(url, 0) as aiohttp_call:
        functions = _chain([Node.function(f"n{place}", bare) for place in range(COUNT)])
        runs = {
            "bare": _times(bare, COUNT),
            "aiohttp alone": _times(aiohttp_call, COUNT),
            "functions": _ours(executor, functions),
            "agents": _ours(executor, _agents()),
        }
        if langgraph_runs.runs():
            runs["LangGraph"] = langgraph_runs.chain(COUNT, bare)
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.chain(url, COUNT)
        best = await _of_one(runs)
        await executor.aclose()
    others = {
        name: best[name] for name in ("aiohttp alone", "LangGraph", "GraphBit") if name in best
    }
    return [
        _node("a node with the bare HTTP call", best["functions"], best["bare"], _ALONE, others),
        _node("an agent node", best["agents"], best["bare"], _ALONE, others),
    ]


async def official_chain(url: str) -> Compared:
    """Nodes in a row without aiohttp: all of it through the official client."""
    import openai

    executor = Executor(_config(url, 0))
    official = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")

    async def post() -> None:
        await official.post("/chat/completions", body=_body(0), cast_to=object)

    async def typed() -> None:
        await official.chat.completions.create(**_body(0))

    async with official:
        runs = {
            "post": _times(post, COUNT),
            "typed": _times(typed, COUNT),
            "agents": _ours(executor, _agents()),
        }
        with patch.dict(os.environ, {fast.VARIABLE: "0"}):
            best = await _of_one(runs)
        await executor.aclose()
    others = {"its typed call": best["typed"]}
    name = "an agent node without aiohttp"
    return _node(name, best["agents"], best["post"], "the official client's post()", others)


async def _of_one(runs: Mapping[str, Run]) -> dict[str, float]:
    return {name: ms / COUNT for name, ms in (await best_of_each(runs, ROUNDS)).items()}


def _node(name: str, ours: float, base: float, note: str, others: Mapping[str, float]) -> Compared:
    return Compared(name, "ms", ours, limit=1.15, base=base, note=note, others=others)


async def fan_out(url: str) -> Compared:
    """One agent, ten at once, one: three times the latency is the least that it can take."""
    workflow = Workflow("fan-out")
    workflow.add_node(Node.agent("first"))
    workflow.add_node(Node.agent("last"))
    for place in range(WIDTH):
        workflow.add_node(Node.agent(f"m{place}"))
        workflow.connect("first", f"m{place}")
        workflow.connect(f"m{place}", "last")
    executor = Executor(_config(url, LATENCY))
    async with _bare_call(url, LATENCY) as bare:
        runs = {"ours": _ours(executor, workflow)}
        if langgraph_runs.runs():
            runs["LangGraph"] = langgraph_runs.fan_out(WIDTH, bare)
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.fan_out(url, WIDTH, LATENCY)
        best = await best_of_each(runs, 10)
        await executor.aclose()
    ours = best.pop("ours")
    note = f"3 x {LATENCY} ms"
    return Compared(
        f"fan-out, {WIDTH} wide", "ms", ours, limit=1.1, base=3.0 * LATENCY, note=note, others=best
    )
