"""Workflows over HTTP: what a node adds to the call underneath, and a fan-out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.engine import graphbit_runs, langgraph_runs
from benchmarks.engine.compared import Compared
from benchmarks.engine.timing import Run, best_of_each
from noukai_sdk.local import Executor, LlmConfig, Node, Workflow

try:  # what the openai client uses
    import httpx2 as http
except ImportError:
    import httpx as http

COUNT = 50
ROUNDS = 30
WIDTH = 10
LATENCY = 50
_HEADERS = {"authorization": "Bearer none"}


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


async def chains(url: str) -> list[Compared]:
    """Nodes in a row without latency: over the bare client, and over the official one."""
    import openai

    names = [f"n{place}" for place in range(COUNT)]
    executor = Executor(_config(url, 0))
    official = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")

    async def official_call() -> None:
        await official.post("/chat/completions", body=_body(0), cast_to=object)

    async def typed_call() -> None:
        await official.chat.completions.create(**_body(0))

    async with _bare_call(url, 0) as bare, official:
        functions = _chain([Node.function(name, bare) for name in names])
        agents = _chain([Node.agent(name, "Prompt {{input}}") for name in names])
        runs = {
            "bare": _times(bare, COUNT),
            "functions": _ours(executor, functions),
            "official": _times(official_call, COUNT),
            "typed": _times(typed_call, COUNT),
            "agents": _ours(executor, agents),
        }
        if langgraph_runs.runs():
            runs["LangGraph"] = langgraph_runs.chain(COUNT, bare)
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.chain(url, COUNT)
        best = {name: ms / COUNT for name, ms in (await best_of_each(runs, ROUNDS)).items()}
        await executor.aclose()
    others = {name: best[name] for name in ("LangGraph", "GraphBit") if name in best}
    return [
        Compared(
            "a node with the bare HTTP call",
            "ms",
            best["functions"],
            limit=1.15,
            base=best["bare"],
            note=f"{http.__name__} alone",
            others=others,
        ),
        Compared(
            "an agent node",
            "ms",
            best["agents"],
            limit=1.15,
            base=best["official"],
            note="the official client's post()",
            others={**others, "openai typed": best["typed"]},
        ),
        Compared(
            "an agent node",
            "ms",
            best["agents"],
            base=best["bare"],
            note=f"{http.__name__} alone",
            others=others,
        ),
    ]


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
