"""Nodes of a workflow, which flow files call steps: one class for all kinds of work."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..llm.config import LlmConfig
from ..runtime import checks
from ..runtime.hidden_keys import shown
from . import node_checks as check
from .kinds import (
    Agent,
    Approval,
    Branch,
    Condition,
    Decision,
    Function,
    OnLimit,
    Output,
    Repeat,
    Route,
    SubFlow,
    Tool,
    Transform,
    Work,
    with_context,
)

if TYPE_CHECKING:
    from .plan import Flow
    from .workflow import Workflow

OnError = Literal["fail", "keep"]
Fallback: TypeAlias = "str | LlmConfig | Node"
"""A model, or a node that stands in."""


@dataclass(frozen=True)
class Node:
    """One node. ``Node.agent`` and the other constructors make it, one for each kind of work.

    Attributes:
        id: The node's name in outputs, overrides and references; unique in its workflow.
        name: The name that people see, and the key of the output in a result.
        work: What the node does.
        needs: The ids of the nodes that must be done before, in the order of their outputs.
        when: For conditions and routes in ``needs``, the branches that lead to the node. A condition
            without an entry must be true; a route may take any branch.
        retry: How often a failed attempt is repeated; None for the executor's setting.
        timeout: Seconds for one attempt, None for no limit.
        for_each: A reference to a list: the node does its work for each item, as ``{{item}}``.
        concurrency: How many items are worked on at once.
        on_error: ``"fail"`` to fail the node if an item has failed for good; ``"keep"`` to put its
            error into the output, an :class:`~noukai_sdk.local.engine.for_each.ItemError`.
        fallback: What is tried, in this order, when all attempts have failed: other models for the same
            prompt, or nodes whose output is used instead. In a loop, for each item.

    Example:
        >>> Node.agent("Draft", "Write about {{message}}").id
        'Draft'
    """

    id: str
    name: str
    work: Work
    needs: tuple[str, ...] = ()
    when: Mapping[str, tuple[Branch, ...]] = field(default_factory=dict)
    retry: int | None = None
    timeout: float | None = None
    for_each: str | None = None
    concurrency: int = 1
    on_error: OnError = "fail"
    fallback: tuple[Fallback, ...] = ()

    @classmethod
    def agent(
        cls,
        name: str,
        prompt: str = "{{input}}",
        agent_id: str | None = None,
        tools: bool | Sequence[Tool] = False,
        *,
        model: str | None = None,
        llm_config: LlmConfig | None = None,
        system_prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        max_tool_iterations: int = 25,
        output: Output = "text",
        repairs: int = 1,
        context: str | Mapping[str, Any] | None = None,
        output_name: str | None = None,
        max_iterations: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        retry: int | None = None,
        timeout: float | None = None,
        for_each: str | None = None,
        concurrency: int = 1,
        on_error: OnError = "fail",
        fallback: Fallback | Sequence[Fallback] = (),
    ) -> Node:
        """Make a node that asks a model. :class:`Agent` and :class:`Node` explain the settings.

        Args:
            name: The name that people see, and the key of the output in a result.
            prompt: The user turn, with references.
            agent_id: The node's id, by default made from the name.
            tools: True, or the functions that the model may call.
            model: The spec of a model, such as ``"openai:gpt-4o-mini"``.
            llm_config: A configuration instead of ``model``.
            system_prompt: The system turn.
            temperature: 0 to 2.
            max_tokens: The most tokens to produce.
            max_tool_iterations: How often the model may request tools.
            output: ``"text"``, ``"json"``, or a type, such as a pydantic model, a dataclass, a TypedDict or
                ``list[Item]``: the model is asked for JSON of this type, and the output is an instance.
            repairs: How often the model may correct a response that does not fit the type.
            context: What the model should know, a text or values by name, with references. It is added to
                the system turn.
            output_name: The name of the output in results and references: another name of ``agent_id``.
            max_iterations: Another name of ``max_tool_iterations``.
            top_p: More than 0, at most 1.
            seed: For models that can repeat a response.
            response_format: In OpenAI's form, such as a JSON schema.
            extra_body: Fields to add to the request.
            retry: How often a failed attempt is repeated.
            timeout: Seconds for one attempt.
            for_each: A reference to a list.
            concurrency: How many items are worked on at once.
            on_error: ``"keep"`` to continue if an item fails, with its error in the output.
            fallback: A model, a configuration or a node to try when all attempts have failed; or several.

        Raises:
            TypeError: A prompt is not a str, a tool cannot be called, or JSON has no such output.
            ValueError: A setting is out of range, or both ``model`` and ``llm_config`` are given.
        """
        check.text(name, "prompt", prompt)
        check.text(name, "system_prompt", system_prompt)
        check.model(name, model, llm_config, temperature)
        check.whole(name, "max_tokens", max_tokens, least=1)
        check.at_most_one(name, agent_id=agent_id, output_name=output_name)
        if max_iterations is not None:
            limit = None if max_tool_iterations == 25 else max_tool_iterations
            check.at_most_one(name, max_iterations=max_iterations, max_tool_iterations=limit)
            check.whole(name, "max_iterations", max_iterations, least=1)
            max_tool_iterations = max_iterations
        check.request(
            name,
            top_p=top_p,
            seed=seed,
            response_format=response_format,
            extra_body=extra_body,
        )
        check.of_type(name, "context", context, str | Mapping, "a str or a mapping")
        check.whole(name, "max_tool_iterations", max_tool_iterations, least=1)
        check.tools(name, tools)
        check.output(name, output)
        check.whole(name, "repairs", repairs, least=0)
        work = Agent(
            prompt=prompt,
            model=llm_config or model,
            system=with_context(system_prompt, context),
            temperature=temperature,
            max_tokens=max_tokens,
            tools=tools if isinstance(tools, bool) else tuple(tools),
            max_tool_iterations=max_tool_iterations,
            output=output,
            repairs=repairs,
            top_p=top_p,
            seed=seed,
            response_format=response_format,
            extra_body=extra_body,
        )
        fallbacks = check.fallbacks(name, fallback, str | LlmConfig | Node)
        node_id = agent_id or output_name
        node = _node(name, node_id, work, retry, timeout, for_each, concurrency, on_error)
        return replace(node, fallback=fallbacks)

    @classmethod
    def condition(
        cls, name: str, expression: str | Callable[[Any], Any], *, node_id: str | None = None
    ) -> Node:
        """Make a node that decides which of the nodes after it run.

        Args:
            name: The name that people see.
            expression: Such as ``"len(input) > 100"`` or ``"{{node.grade.score}} >= 0.8"``, or a
                function of the node's input.
            node_id: The node's id, by default made from the name.

        Raises:
            TypeError: ``expression`` is neither a str nor a function.
        """
        check.function_or_text(name, "expression", expression)
        return _node(name, node_id, Condition(expression))

    @classmethod
    def route(
        cls,
        name: str,
        by: str | Callable[[Any], Any],
        branches: Sequence[Branch],
        *,
        default: Branch | None = None,
        node_id: str | None = None,
    ) -> Node:
        """Make a node that picks a branch; the nodes on the other branches are skipped.

        ``workflow.connect(route, node, when="billing")`` says on which branch a node is, a list for
        several. Without ``when``, the node runs after the route on any branch.

        Args:
            name: The name that people see.
            by: An expression, such as ``"{{node.classify.kind}}"`` or ``"input"``, or a function of the
                node's input.
            branches: The values that it may have: texts, numbers, True and False. Texts match in any
                case, with or without a full stop.
            default: The branch for any other value. Without it, such a value is an error.
            node_id: The node's id, by default made from the name.

        Raises:
            TypeError: ``by`` is neither a str nor a function, or a branch is not a simple value.
            ValueError: There are no branches, or two read the same.
        """
        check.function_or_text(name, "by", by)
        check.branches(name, branches, default)
        return _node(name, node_id, Route.of(by, branches, default))

    @classmethod
    def approval(cls, name: str, prompt: str = "{{input}}", *, node_id: str | None = None) -> Node:
        """Make a node at which the run waits for the decision of a person.

        The rest of the run runs to its end; then it pauses. ``result.approvals`` has the open requests,
        and ``executor.resume(workflow, result, approvals={"Review": True})`` decides. The nodes after
        it run if it is approved, or with ``connect(..., when=False)`` if it is not; their input is that
        of this node, or the ``value`` of the decision. The output is ``{"approved", "comment",
        "value"}``.

        Args:
            name: The name that people see, and the key of the decision.
            prompt: What is asked, with references.
            node_id: The node's id, by default made from the name.

        Raises:
            TypeError: ``prompt`` is not a str.
        """
        check.text(name, "prompt", prompt)
        return _node(name, node_id, Approval(prompt))

    @classmethod
    def transform(
        cls,
        name: str,
        transformation: str,
        *,
        node_id: str | None = None,
        for_each: str | None = None,
        on_error: OnError = "fail",
    ) -> Node:
        """Make a node that changes its input without a model.

        Args:
            name: The name that people see.
            transformation: A name such as ``"uppercase"`` or ``"lines"`` (see
                :data:`~noukai_sdk.local.workflow.transforms.TRANSFORMS`), or a text with references
                or spaces.
            node_id: The node's id, by default made from the name.
            for_each: A reference to a list.
            on_error: ``"keep"`` to continue if an item fails, with its error in the output.

        Raises:
            TypeError: ``transformation`` is not a str.
        """
        check.text(name, "transformation", transformation)
        work = Transform(transformation)
        return _node(name, node_id, work, for_each=for_each, on_error=on_error)

    @classmethod
    def function(
        cls,
        name: str,
        function: Callable[..., Any],
        *,
        arguments: Mapping[str, Any] | None = None,
        node_id: str | None = None,
        retry: int | None = None,
        timeout: float | None = None,
        for_each: str | None = None,
        concurrency: int = 1,
        on_error: OnError = "fail",
        fallback: Node | Sequence[Node] = (),
    ) -> Node:
        """Make a node that calls Python.

        A function that is not async runs in a worker thread. After its timeout the run continues
        without it, but the thread cannot be stopped.

        Args:
            name: The name that people see.
            function: Takes the node's input, or nothing, or ``arguments``.
            arguments: Keyword arguments; texts among them may hold references.
            node_id: The node's id, by default made from the name.
            retry: How often a failed attempt is repeated.
            timeout: Seconds for one attempt.
            for_each: A reference to a list.
            concurrency: How many items are worked on at once.
            on_error: ``"keep"`` to continue if an item fails, with its error in the output.
            fallback: A node to try when all attempts have failed; or several.

        Raises:
            TypeError: ``function`` cannot be called.
            ValueError: A setting is out of range.
        """
        check.function(name, function)
        check.of_type(name, "arguments", arguments, Mapping, "a dict of keyword arguments")
        fallbacks = check.fallbacks(name, fallback, Node)
        work = Function(function, arguments)
        node = _node(name, node_id, work, retry, timeout, for_each, concurrency, on_error)
        return replace(node, fallback=fallbacks)

    @classmethod
    def flow(
        cls,
        workflow: Workflow | Flow,
        name: str | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        node_id: str | None = None,
        retry: int = 0,
        timeout: float | None = None,
        for_each: str | None = None,
        concurrency: int = 1,
        on_error: OnError = "fail",
    ) -> Node:
        """Make a node that runs another workflow; the output is that one's result.

        It needs no thread, stops with the run, and its nodes count towards the run's ``max_concurrency``.

        Args:
            workflow: The workflow as it is now; later changes have no effect.
            name: The name that people see, by default the workflow's.
            inputs: Values for the workflow's ``{{parameters.x}}``, besides those of the run; texts among
                them may hold references. The message is ``inputs["message"]``, or else the node's input.
            node_id: The node's id, by default made from the name.
            retry: How often to resume at the nodes that have failed; these have retries of their own.
            timeout: Seconds for one attempt.
            for_each: A reference to a list.
            concurrency: How many items are worked on at once.
            on_error: ``"keep"`` to continue if an item fails, with its error in the output.

        Raises:
            TypeError: ``workflow`` is neither a Workflow nor a Flow, or ``inputs`` is not a mapping.
            ValueError: A setting is out of range.
            WorkflowError: The workflow cannot run.
        """
        check.workflow(workflow, "Node.flow takes a Workflow or a Flow")
        name = _name_of(workflow) if name is None else name
        check.mapping(name, "inputs", inputs)
        work = SubFlow(workflow.plan, inputs)
        return _node(name, node_id, work, retry, timeout, for_each, concurrency, on_error)

    @classmethod
    def repeat(
        cls,
        body: Node | Workflow | Flow,
        name: str | None = None,
        *,
        until: str | Callable[[Any], Any],
        at_most: int,
        on_limit: OnLimit = "fail",
        inputs: Mapping[str, Any] | None = None,
        node_id: str | None = None,
        retry: int = 0,
        timeout: float | None = None,
        for_each: str | None = None,
        concurrency: int = 1,
        on_error: OnError = "fail",
    ) -> Node:
        """Make a node that runs another one again and again, each time on the output of the round before.

        A round runs like the workflow of :meth:`flow`. Finished rounds are kept if the node is retried or
        the run is resumed.

        Args:
            body: A node, or a workflow as it is now. Its message is the output of the round before, in the
                first round the node's input; ``{{parameters.round}}`` counts from 1.
            name: The name that people see, by default the body's.
            until: An expression with ``output``, ``input`` and ``round``, such as
                ``"output.score >= 0.8"``, or a function of a round's output.
            at_most: How many rounds there may be.
            on_limit: If ``until`` is not true after that many: ``"fail"`` with the code ``REPEAT_LIMIT``,
                or ``"keep"`` the last output.
            inputs: Values for the body's ``{{parameters.x}}``, as for :meth:`flow`, with the references
                of the first round.
            node_id: The node's id, by default made from the name.
            retry: How often the round that failed is repeated; its nodes have retries of their own.
            timeout: Seconds for one attempt, all rounds together.
            for_each: A reference to a list.
            concurrency: How many items are worked on at once.
            on_error: ``"keep"`` to continue if an item fails, with its error in the output.

        Raises:
            TypeError: A setting is of the wrong type.
            ValueError: A setting is out of range.
            WorkflowError: The body cannot run.
        """
        from .workflow import Workflow  # imports this module

        if isinstance(body, Node):
            node, body = body, Workflow(body.name)
            body.add_node(node)
        check.workflow(body, "Node.repeat takes a Node, a Workflow or a Flow")
        name = _name_of(body) if name is None else name
        check.mapping(name, "inputs", inputs)
        check.function_or_text(name, "until", until)
        check.required(name, "at_most", at_most)
        check.whole(name, "at_most", at_most, least=1)
        check.one_of(name, "on_limit", on_limit, ("fail", "keep"))
        work = Repeat(body.plan, inputs, until, at_most, on_limit)
        return _node(name, node_id, work, retry, timeout, for_each, concurrency, on_error)

    @property
    def kind(self) -> str:
        """``"agent"``, ``"function"``, ``"condition"``, ``"route"``, ``"approval"``, ``"transform"``,
        ``"flow"`` or ``"repeat"``.
        """
        return "flow" if type(self.work) is SubFlow else type(self.work).__name__.lower()

    def branches_after(self, parent: Node) -> tuple[Branch, ...] | None:
        """Return the branches of ``parent`` that lead to this node; None for all, and if it has none."""
        if not isinstance(parent.work, Decision):
            return None
        return self.when.get(parent.id, parent.work.unsaid)

    @property
    def model(self) -> str | None:
        """The spec of the model that the node asks, None if it names none."""
        model = self.work.model if isinstance(self.work, Agent) else None
        return model.name if isinstance(model, LlmConfig) else model

    @property
    def tools(self) -> bool:
        """Whether the node, or a fallback, may request the tools that come with a call."""
        if isinstance(self.work, Agent) and self.work.tools is True:
            return True
        return any(isinstance(fallback, Node) and fallback.tools for fallback in self.fallback)


def _name_of(workflow: Workflow | Flow) -> str:
    from .plan import Flow  # imports this module

    return workflow.slug if isinstance(workflow, Flow) else workflow.name


def _node(
    name: str,
    node_id: str | None,
    work: Work,
    retry: int | None = None,
    timeout: float | None = None,
    for_each: str | None = None,
    concurrency: int = 1,
    on_error: OnError = "fail",
) -> Node:
    checks.text("the name of a node", name)
    check.text(name, "id", node_id)
    check.text(name, "for_each", for_each)
    check.whole(name, "retry", retry, least=0)
    check.whole(name, "concurrency", concurrency, least=1)
    check.one_of(name, "on_error", on_error, ("fail", "keep"))
    check.seconds(name, "timeout", timeout)
    node_id = node_id or re.sub(r"[^\w-]+", "-", name).strip("-")
    if not node_id:
        raise ValueError(f"the name of a node must have a letter or a digit: {shown(name)}")
    return Node(
        id=node_id,
        name=name,
        work=work,
        retry=retry,
        timeout=timeout,
        for_each=for_each,
        concurrency=concurrency,
        on_error=on_error,
    )
