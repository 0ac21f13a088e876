"""Run an agent node: ask its model, stream the response, run its tools."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from ...errors import FlowExecutionError
from ...models.events import TokenBreakdown
from ..llm.chat import ChatDelta, ChatModel, ChatRequest
from ..llm.sent_requests import model_input
from ..workflow import tool_functions
from ..workflow.kinds import Agent
from ..workflow.output_types import output_type
from .agent_output import OutputInvalidError, output_of, repair_turns
from .spans import chat_span
from .step_context import StepContext


async def run_agent(context: StepContext, agent: Agent) -> Any:
    """Ask the model until it responds without tool calls; return the node's output.

    Raises:
        FlowExecutionError: ``TOOL_ITERATION_LIMIT`` or ``TOOLS_NOT_ENABLED``.
        OutputInvalidError: The response does not fit ``agent.output``, and was not repaired.
    """
    step_id, state = context.node.id, context.state
    model = await context.model(agent.model)
    messages = context.resumed_messages() or context.view.messages(agent.prompt, agent.system)
    tools, tool_choice = None, None
    if isinstance(agent.tools, tuple):
        tools = [tool_functions.schema_of(function) for function in agent.tools] or None
    elif agent.tools and state.tools:
        tools, tool_choice = state.tools, state.tool_choice
    kind = None if isinstance(agent.output, str) else output_type(agent.output)
    repairs_left = 0 if kind is None else agent.repairs

    while True:
        request = ChatRequest(
            messages=messages,
            temperature=agent.temperature,
            max_tokens=agent.max_tokens,
            tools=tools,
            tool_choice=tool_choice,
            response_format=agent.response_format or ("json" if agent.output == "json" else "text"),
            json_schema=None if kind is None else kind.schema,
            top_p=agent.top_p,
            seed=agent.seed,
            extra_body=agent.extra_body,
        )
        with chat_span(model.name, request) as span:
            response = await _ask(context, model, request)
            span.used(response.usage)
        context.usage.add(model.name, response.usage)
        if not response.tool_calls:
            try:
                return output_of(step_id, agent, response.text)
            except OutputInvalidError as error:
                if not repairs_left:
                    raise
                repairs_left -= 1
                messages = [*messages, *repair_turns(error)]
                continue
        if not tools:
            message = f"the model of step {step_id!r} asked for tools, but none were offered"
            raise FlowExecutionError(message, code="TOOLS_NOT_ENABLED")
        if context.iterations_used >= agent.max_tool_iterations:
            message = f"step {step_id!r} asked for tools {context.iterations_used} times already"
            raise FlowExecutionError(message, code="TOOL_ITERATION_LIMIT")
        context.iterations_used += 1
        calls = list(response.tool_calls)
        turn = {"role": "assistant", "content": response.text or None, "tool_calls": calls}
        messages = [*messages, turn]
        if isinstance(agent.tools, tuple):
            messages += await tool_functions.run_tool_calls(agent.tools, calls)
        else:
            messages += await context.tool_results(messages, calls)


async def _ask(context: StepContext, model: ChatModel, request: ChatRequest) -> ChatDelta:
    if not context.has_listener:
        if context.observer is not None:
            await context.emit_sub_flow_input(model_input(model, request))
        return await model.answer(request)
    await context.emit_input(model_input(model, request), model.name)

    texts: list[str] = []
    calls: tuple[dict[str, Any], ...] = ()
    usage: TokenBreakdown | None = None
    async with aclosing(model.stream(request)) as pieces:
        async for piece in pieces:
            calls += piece.tool_calls
            usage = piece.usage or usage
            if piece.text:
                texts.append(piece.text)
                await context.emit_output(piece.text)
    return ChatDelta("".join(texts), calls, usage)
