"""Nodes of a workflow, which flow files call steps: one class with five kinds of work."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Literal

from ..llm.config import LlmConfig, check_request
from ..runtime.hidden_keys import shown, type_name
from .templates import as_text

if TYPE_CHECKING:
    from .plan import Flow, Plan
    from .workflow import Workflow

Tool = Callable[..., Any]


@dataclass(frozen=True)
class Agent:
    """Ask a model.

    Attributes:
        prompt: The user turn, with references. If it refers to none of the node's inputs, the engine
            appends them.
        model: ``offline``, ``smollm2``, ``openai:...`` or another spec (``LlmConfig.from_spec``), or a
            configuration; None for the executor's.
        system: The system turn, with references, None for none.
        temperature: 0 to 2; None leaves it to the model.
        max_tokens: The most tokens to produce; None leaves it to the model.
        tools: True if the node may request the tools that come with the call. Functions if it may
            request these, and the engine calls them.
        max_tool_iterations: How often the node may request tools before the run fails.
        output: ``"json"`` if the model returns JSON and the output is its value.
        top_p: More than 0, at most 1; None for the model's configuration.
        seed: For models that can repeat a response; None for the model's configuration.
        response_format: In OpenAI's form, such as a JSON schema; None for the model's configuration.
        extra_body: Fields to add to the request, for settings that only one provider has.
    """

    prompt: str = "{{input}}"
    model: str | LlmConfig | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    tools: bool | tuple[Tool, ...] = False
    max_tool_iterations: int = 25
    output: Literal["text", "json"] = "text"
    top_p: float | None = None
    seed: int | None = None
    response_format: Mapping[str, Any] | None = None
    extra_body: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Function:
    """Call Python: a coroutine function in the event loop, any other in a worker thread.

    Attributes:
        call: Called with the node's input, or with nothing if it takes no argument.
        arguments: Keyword arguments to call it with instead. Texts among them may hold references; a
            text that is a single reference passes the value as it is.
    """

    call: Callable[..., Any]
    arguments: Mapping[str, Any] | None = None

    @cached_property
    def is_async(self) -> bool:
        """Whether a call returns an awaitable, as far as inspection shows."""
        call_method = type(self.call).__call__ if callable(self.call) else None
        return iscoroutinefunction(self.call) or iscoroutinefunction(call_method)

    @cached_property
    def takes(self) -> int | None:
        """The number of arguments to call it with: 1, or else 0, or None if it takes neither."""
        try:
            signature = inspect.signature(self.call)
        except (TypeError, ValueError):  # some callables written in C have no signature
            return 1
        for count in (1, 0):
            try:
                signature.bind(*[None] * count)
            except TypeError:
                continue
            return count
        return None


@dataclass(frozen=True)
class Condition:
    """Decide by an expression, or a function of the node's input. The output is True or False."""

    test: str | Callable[[Any], Any]


@dataclass(frozen=True)
class Transform:
    """Change the input by a named transformation (``transforms.py``) or a text with references."""

    transformation: str


@dataclass(frozen=True)
class SubFlow:
    """Run another workflow, in the event loop and within the limits of this run.

    Attributes:
        plan: The workflow. Its message is the node's input.
        inputs: Values for its ``{{parameters.x}}``, besides those of the run; ``"message"`` replaces the
            message. Texts among them may hold references.
    """

    plan: Plan
    inputs: Mapping[str, Any] | None = None


Work = Agent | Function | Condition | Transform | SubFlow


@dataclass(frozen=True)
class Node:
    """One node. Make it with ``Node.agent``, ``.condition``, ``.transform``, ``.function`` or ``.flow``.

    Attributes:
        id: The node's name in outputs, overrides and references; unique in its workflow.
        name: The name that people see, and the key of the output in a result.
        work: What the node does.
        needs: The ids of the nodes that must be done before, in the order of their outputs.
        unless: The ids in ``needs`` of conditions that must come out false.
        retry: How often a failed attempt is repeated; None for the executor's setting.
        timeout: Seconds for one attempt, None for no limit.
        for_each: A reference to a list: the node does its work for each item, as ``{{item}}``.
        concurrency: How many items are worked on at once.

    Example:
        >>> Node.agent("Draft", "Write about {{message}}").id
        'Draft'
    """

    id: str
    name: str
    work: Work
    needs: tuple[str, ...] = ()
    unless: frozenset[str] = frozenset()
    retry: int | None = None
    timeout: float | None = None
    for_each: str | None = None
    concurrency: int = 1

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
        output: Literal["text", "json"] = "text",
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
            output: ``"text"`` or ``"json"``.
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

        Raises:
            TypeError: A prompt is not a str, or a tool cannot be called.
            ValueError: A setting is out of range, or both ``model`` and ``llm_config`` are given.
        """
        _check_text(name, "prompt", prompt)
        _check_text(name, "system_prompt", system_prompt)
        if model is not None and llm_config is not None:
            raise ValueError(f"node {shown(name)}: pass model= or llm_config=, not both")
        _check_type(name, "model", model, str | LlmConfig, "the name of a model, as a str")
        example = "an LlmConfig, as in LlmConfig.openai()"
        _check_type(name, "llm_config", llm_config, LlmConfig, example)
        _check_type(name, "temperature", temperature, int | float, "a number from 0 to 2")
        if temperature is not None and not 0 <= temperature <= 2:
            raise ValueError(f"node {shown(name)}: temperature must be 0 to 2, not {temperature!r}")
        _check_whole(name, "max_tokens", max_tokens, least=1)
        if agent_id is not None and output_name is not None:
            raise ValueError(f"node {name!r}: pass agent_id= or output_name=, not both")
        if max_iterations is not None:
            if max_tool_iterations != 25:
                message = "pass max_iterations= or max_tool_iterations=, not both"
                raise ValueError(f"node {name!r}: {message}")
            _check_whole(name, "max_iterations", max_iterations, least=1)
            max_tool_iterations = max_iterations
        try:
            check_request(top_p, seed, response_format, extra_body)
        except ValueError as error:
            raise ValueError(f"node {name!r}: {error}") from None
        _check_context(name, context)
        _check_whole(name, "max_tool_iterations", max_tool_iterations, least=1)
        _check_tools(name, tools)
        work = Agent(
            prompt=prompt,
            model=llm_config or model,
            system=with_context(system_prompt, context),
            temperature=temperature,
            max_tokens=max_tokens,
            tools=tools if isinstance(tools, bool) else tuple(tools),
            max_tool_iterations=max_tool_iterations,
            output=output,
            top_p=top_p,
            seed=seed,
            response_format=response_format,
            extra_body=extra_body,
        )
        return _node(name, agent_id or output_name, work, retry, timeout, for_each, concurrency)

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
        if not callable(expression):
            _check_text(name, "expression", expression)
        return _node(name, node_id, Condition(expression))

    @classmethod
    def transform(
        cls,
        name: str,
        transformation: str,
        *,
        node_id: str | None = None,
        for_each: str | None = None,
    ) -> Node:
        """Make a node that changes its input without a model.

        Args:
            name: The name that people see.
            transformation: A name such as ``"uppercase"`` or ``"lines"`` (see
                :data:`~noukai_sdk.local.workflow.transforms.TRANSFORMS`), or a text with references.
            node_id: The node's id, by default made from the name.
            for_each: A reference to a list.

        Raises:
            TypeError: ``transformation`` is not a str.
        """
        _check_text(name, "transformation", transformation)
        return _node(name, node_id, Transform(transformation), for_each=for_each)

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
    ) -> Node:
        """Make a node that calls Python.

        A function that is not async runs in a worker thread. After its timeout the run goes on
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

        Raises:
            TypeError: ``function`` cannot be called.
            ValueError: A setting is out of range.
        """
        if not callable(function):
            raise TypeError(
                f"node {shown(name)}: the function must be callable, not {type_name(function)}"
            )
        _check_type(name, "arguments", arguments, Mapping, "a dict of keyword arguments")
        work = Function(function, arguments)
        return _node(name, node_id, work, retry, timeout, for_each, concurrency)

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
    ) -> Node:
        """Make a node that runs another workflow; the output is that one's result.

        It needs no thread, stops with the run, and its nodes count for the run's ``max_concurrency``.

        Args:
            workflow: The workflow as it is now; later changes to it do not count.
            name: The name that people see, by default the workflow's.
            inputs: Values for the workflow's ``{{parameters.x}}``, besides those of the run; texts among
                them may hold references. The message is ``inputs["message"]``, or else the node's input.
            node_id: The node's id, by default made from the name.
            retry: How often the whole workflow is repeated; its nodes have retries of their own.
            timeout: Seconds for one attempt.
            for_each: A reference to a list.
            concurrency: How many items are worked on at once.

        Raises:
            TypeError: ``workflow`` is neither a Workflow nor a Flow, or ``inputs`` is not a mapping.
            ValueError: A setting is out of range.
            WorkflowError: The workflow cannot run.
        """
        from .plan import Flow  # imports this module

        _check_flow(workflow)
        if name is None:
            name = workflow.slug if isinstance(workflow, Flow) else workflow.name
        _check_mapping(name, "inputs", inputs)
        work = SubFlow(workflow.plan, inputs)
        return _node(name, node_id, work, retry, timeout, for_each, concurrency)

    @property
    def kind(self) -> str:
        """``"agent"``, ``"function"``, ``"condition"``, ``"transform"`` or ``"flow"``."""
        return "flow" if isinstance(self.work, SubFlow) else type(self.work).__name__.lower()

    @property
    def model(self) -> str | None:
        """The spec of the model that the node asks, None if it names none."""
        model = self.work.model if isinstance(self.work, Agent) else None
        return model.name if isinstance(model, LlmConfig) else model

    @property
    def tools(self) -> bool:
        """Whether the node may request the tools that come with a call."""
        return isinstance(self.work, Agent) and self.work.tools is True


def with_context(system: str | None, context: str | Mapping[str, Any] | None) -> str | None:
    r"""Return the system turn with the context below it.

    Example:
        >>> with_context("Be brief.", {"team": "red", "sizes": [1, 2]})
        'Be brief.\n\nContext:\nteam: red\nsizes: [1, 2]'
    """
    if not context:
        return system
    if not isinstance(context, str):
        context = "\n".join(f"{name}: {as_text(value)}" for name, value in context.items())
    return "\n\n".join([*([system] if system else []), f"Context:\n{context}"])


def _node(
    name: str,
    node_id: str | None,
    work: Work,
    retry: int | None = None,
    timeout: float | None = None,
    for_each: str | None = None,
    concurrency: int = 1,
) -> Node:
    if not isinstance(name, str):
        raise TypeError(f"the name of a node must be a str, not {type_name(name)}")
    _check_text(name, "id", node_id)
    _check_text(name, "for_each", for_each)
    _check_whole(name, "retry", retry, least=0)
    _check_whole(name, "concurrency", concurrency, least=1)
    _check_type(name, "timeout", timeout, int | float, "a number of seconds")
    if timeout is not None and not timeout > 0:
        raise ValueError(
            f"node {shown(name)}: timeout must be more than 0 seconds, not {timeout!r}"
        )
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
    )


def _check_flow(value: object) -> None:
    from .plan import Flow  # imports this module
    from .workflow import Workflow

    if not isinstance(value, Workflow | Flow):
        raise TypeError(f"Node.flow takes a Workflow or a Flow, not {type(value).__name__}")


def _check_mapping(name: str, setting: str, value: object) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"node {name!r}: {setting} must be a mapping, not {type(value).__name__}")


def _check_context(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str | Mapping):
        kind = type(value).__name__
        raise TypeError(f"node {name!r}: context must be a str or a mapping, not {kind}")


def _check_text(name: str, setting: str, value: object) -> None:
    _check_type(name, setting, value, str, "a str")


def _check_type(name: str, setting: str, value: object, kind: Any, expected: str) -> None:
    # The type only: the value may be a key.
    if value is not None and not isinstance(value, kind):
        message = f"{setting} must be {expected}, not {type_name(value)}"
        raise TypeError(f"node {shown(name)}: {message}")


def _check_tools(name: str, tools: Any) -> None:
    if isinstance(tools, str) or not isinstance(tools, bool | Iterable):
        message = f"tools must be True or a list of functions, not {type_name(tools)}"
        raise TypeError(f"node {shown(name)}: {message}")
    for tool in () if isinstance(tools, bool) else tools:
        if not callable(tool):
            message = f"a tool must be callable, not {type_name(tool)}"
            raise TypeError(f"node {shown(name)}: {message}")


def _check_whole(name: str, setting: str, value: int | None, least: int) -> None:
    _check_type(name, setting, value, int, f"an int of {least} or more")
    if value is not None and value < least:
        raise ValueError(f"node {shown(name)}: {setting} must be {least} or more, not {value!r}")
