"""One agent node: ask the model, pass the answer on chunk by chunk, see to its tools."""

from __future__ import annotations

import json
import re
from contextlib import aclosing
from typing import Any

from ...errors import FlowExecutionError
from ...models.events import Tokens
from ..llm.chat import ChatDelta, ChatModel, ChatRequest
from ..workflow import tool_functions
from ..workflow.node import Agent
from .step_context import StepContext
from .step_events import StepInput, StepOutput

Messages = list[dict[str, Any]]

# Models like to put JSON into a code block, also when they are told not to.
_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)


async def run_agent(job: StepContext, work: Agent) -> Any:
    """Gives the node's output.

    Raises:
        FlowExecutionError: ``TOOL_ITERATION_LIMIT``, ``TOOLS_NOT_ENABLED`` or ``OUTPUT_INVALID``.
    """
    model = job.model(work.model)
    messages = job.resumed_messages() or job.view.messages(work.prompt, work.system)
    while True:
        request = _request(job, work, messages)
        if job.listens:
            await job.tell(_told(job, model.name, request))
        answer = await _ask(job, model, request)
        job.spend(model.name, answer.usage)
        if not answer.tool_calls:
            return _output(job, work, answer.text)
        _check_tools(job, work, request)
        messages = [*messages, _turn(answer)]
        messages += await _results(job, work, messages, answer)


def _request(job: StepContext, work: Agent, messages: Messages) -> ChatRequest:
    tools, choice = None, None
    if isinstance(work.tools, tuple):
        tools = [tool_functions.schema_of(function) for function in work.tools] or None
    elif work.tools and job.state.tools:
        tools, choice = job.state.tools, job.state.tool_choice
    return ChatRequest(
        messages=messages,
        temperature=work.temperature,
        max_tokens=work.max_tokens,
        tools=tools,
        tool_choice=choice,
        response_format=work.output,
    )


async def _ask(job: StepContext, model: ChatModel, request: ChatRequest) -> ChatDelta:
    if not job.listens:
        return await model.answer(request)
    texts: list[str] = []
    calls: tuple[dict[str, Any], ...] = ()
    usage: Tokens | None = None
    async with aclosing(model.stream(request)) as pieces:
        async for piece in pieces:
            calls += piece.tool_calls
            usage = piece.usage or usage
            if piece.text:
                texts.append(piece.text)
                await job.tell(_chunk(job, piece.text))
    return ChatDelta("".join(texts), calls, usage)


def _chunk(job: StepContext, text: str) -> StepOutput:
    return StepOutput(step_id=job.node.id, output_data=text, loop_index=job.view.index)


def _told(job: StepContext, model: str, request: ChatRequest) -> StepInput:
    told: dict[str, Any] = {"model": model, "messages": request.messages}
    if request.temperature is not None:
        told["temperature"] = request.temperature
    if request.tools:
        told["tools"] = request.tools
    return StepInput(step_id=job.node.id, input_data=told, loop_index=job.view.index)


def _turn(answer: ChatDelta) -> dict[str, Any]:
    calls = list(answer.tool_calls)
    return {"role": "assistant", "content": answer.text or None, "tool_calls": calls}


def _check_tools(job: StepContext, work: Agent, request: ChatRequest) -> None:
    if not request.tools:
        message = f"the model of step {job.node.id!r} asks for tools, and none were offered"
        raise FlowExecutionError(message, code="TOOLS_NOT_ENABLED")
    if job.iterations_used >= work.max_tool_iterations:
        message = f"step {job.node.id!r} asked for tools {job.iterations_used} times already"
        raise FlowExecutionError(message, code="TOOL_ITERATION_LIMIT")


async def _results(
    job: StepContext, work: Agent, messages: Messages, answer: ChatDelta
) -> Messages:
    job.iterations_used += 1
    calls = list(answer.tool_calls)
    if isinstance(work.tools, tuple):
        return await tool_functions.run_tool_calls(work.tools, calls)
    return await job.tool_results(messages, calls)


def _output(job: StepContext, work: Agent, text: str) -> Any:
    if work.output == "text":
        return text
    fenced = _FENCED.fullmatch(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except ValueError as error:
        message = f"step {job.node.id!r} should answer in JSON and did not: {error}"
        raise FlowExecutionError(message, code="OUTPUT_INVALID") from error
