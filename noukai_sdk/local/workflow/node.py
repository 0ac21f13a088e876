"""The nodes of a workflow, which are the steps of a flow: one class, four kinds of work."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any, Literal

from ..llm.config import LlmConfig

Tool = Callable[..., Any]


@dataclass(frozen=True)
class Agent:
    """Ask a model.

    Attributes:
        prompt: The user turn, with references. One that names none of the node's inputs gets them
            below it.
        model: ``offline``, ``smollm2``, ``openai:...``, ``anthropic:...`` or ``ollama:...``, or a
            configuration; None for the executor's.
        system: The system turn, with references, None for none.
        temperature: 0 to 2; None leaves it to the model.
        max_tokens: Most tokens to produce; None leaves it to the model.
        tools: True: the node may ask for the tools that the call brings. Functions: it may call
            these, and the engine runs them.
        max_tool_iterations: How often it may ask before the run fails.
        output: ``"json"``: the model's text is JSON, and the output is its value.
    """

    prompt: str = "{{input}}"
    model: str | LlmConfig | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    tools: bool | tuple[Tool, ...] = False
    max_tool_iterations: int = 25
    output: Literal["text", "json"] = "text"


@dataclass(frozen=True)
class Function:
    """Call Python, in a worker thread unless it is a coroutine function.

    Attributes:
        call: Called with the node's input, or without where it takes no argument.
        arguments: Called with these keywords instead; texts among them may hold references, and one
            that is a single reference passes the value as it is.
    """

    call: Callable[..., Any]
    arguments: Mapping[str, Any] | None = None

    @cached_property
    def is_async(self) -> bool:
        """Whether a call gives an awaitable, as far as can be told without one."""
        call_method = type(self.call).__call__ if callable(self.call) else None
        return iscoroutinefunction(self.call) or iscoroutinefunction(call_method)

    @cached_property
    def takes(self) -> int | None:
        """How many arguments it is called with: 1, 0, or None where neither will do."""
        try:
            signature = inspect.signature(self.call)
        except (TypeError, ValueError):  # some callables written in C tell nothing
            return 1
        return next((count for count in (1, 0) if _binds(signature, count)), None)


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


@dataclass(frozen=True)
class Condition:
    """Decide: an expression, or a function of the node's input. The output is True or False."""

    test: str | Callable[[Any], Any]


@dataclass(frozen=True)
class Transform:
    """Change the input: a transformation's name (``transforms.py``) or a text with references."""

    transformation: str


Work = Agent | Function | Condition | Transform


@dataclass(frozen=True)
class Node:
    """One node. Made by ``Node.agent``, ``.condition``, ``.transform`` and ``.function``.

    Attributes:
        id: Names the node in outputs, overrides and references; unique in its workflow.
        name: What people see, and what a result calls the output.
        work: What the node does.
        needs: Ids of the nodes that must be done before, in the order of their outputs.
        unless: Those of ``needs`` that are conditions and must come out false.
        retry: How often the node is tried again after a failure; None for the executor's setting.
        timeout: Seconds for one attempt, None for no limit.
        for_each: A reference to a list: the work is done for each of its items, as ``{{item}}``.
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
        retry: int | None = None,
        timeout: float | None = None,
        for_each: str | None = None,
        concurrency: int = 1,
    ) -> Node:
        """A node that asks a model. See :class:`Agent` and :class:`Node` for what is not said here.

        Args:
            name: What people see, and what a result calls the output.
            prompt: The user turn, with references.
            agent_id: The node's id; made from the name where it is left out.
            tools: True, or the functions that the model may call.
            model: A model's spec, such as ``"openai:gpt-4o-mini"``.
            llm_config: A configuration in the place of ``model``.
            system_prompt: The system turn.
            temperature: 0 to 2.
            max_tokens: Most tokens to produce.
            max_tool_iterations: How often tools may be asked for.
            output: ``"text"`` or ``"json"``.
            retry: How often a failure is tried again.
            timeout: Seconds for one attempt.
            for_each: A reference to a list.
            concurrency: How many items at once.

        Raises:
            TypeError: A prompt is no text, or a tool cannot be called.
            ValueError: A setting is out of range, or both ``model`` and ``llm_config`` are given.
        """
        _text(name, "prompt", prompt)
        _text(name, "system_prompt", system_prompt)
        if model is not None and llm_config is not None:
            raise ValueError(f"node {name!r}: give model= or llm_config=, not both")
        _temperature(name, temperature)
        _whole(name, "max_tokens", max_tokens, 1)
        _whole(name, "max_tool_iterations", max_tool_iterations, 1)
        work = Agent(
            prompt=prompt,
            model=llm_config or model,
            system=system_prompt,
            temperature=temperature,
            max_tokens=max_tokens,
            tools=tools if isinstance(tools, bool) else _callables(name, tools),
            max_tool_iterations=max_tool_iterations,
            output=output,
        )
        return _node(
            name,
            agent_id,
            work,
            retry=retry,
            timeout=timeout,
            for_each=for_each,
            at_once=concurrency,
        )

    @classmethod
    def condition(
        cls, name: str, expression: str | Callable[[Any], Any], *, node_id: str | None = None
    ) -> Node:
        """A node that decides which of the nodes after it run.

        Args:
            name: What people see.
            expression: Such as ``"len(input) > 100"`` or ``"{{node.grade.score}} >= 0.8"``, or a
                function of the node's input.
            node_id: The node's id; made from the name where it is left out.

        Raises:
            TypeError: ``expression`` is neither a text nor a function.
        """
        if not callable(expression):
            _text(name, "expression", expression)
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
        """A node that changes its input without a model.

        Args:
            name: What people see.
            transformation: ``"uppercase"``, ``"lines"`` and so on, see
                :data:`~noukai_sdk.local.workflow.transforms.TRANSFORMS`; or a text with references.
            node_id: The node's id; made from the name where it is left out.
            for_each: A reference to a list.

        Raises:
            TypeError: ``transformation`` is no text.
        """
        _text(name, "transformation", transformation)
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
        """A node that calls Python.

        A function that is not async runs in a worker thread. After its timeout the run goes on
        without it, but nothing can stop the thread.

        Args:
            name: What people see.
            function: Takes the node's input, or nothing, or ``arguments``.
            arguments: Keyword arguments; texts among them may hold references.
            node_id: The node's id; made from the name where it is left out.
            retry: How often a failure is tried again.
            timeout: Seconds for one attempt.
            for_each: A reference to a list.
            concurrency: How many items at once.

        Raises:
            TypeError: ``function`` cannot be called.
            ValueError: A setting is out of range.
        """
        if not callable(function):
            raise TypeError(f"node {name!r}: the function must be callable, not {function!r}")
        work = Function(function, arguments)
        return _node(
            name,
            node_id,
            work,
            retry=retry,
            timeout=timeout,
            for_each=for_each,
            at_once=concurrency,
        )

    @property
    def kind(self) -> str:
        """``"agent"``, ``"function"``, ``"condition"`` or ``"transform"``."""
        return type(self.work).__name__.lower()

    @property
    def model(self) -> str | None:
        """The spec of the model that the node asks, None where it names none."""
        model = self.work.model if isinstance(self.work, Agent) else None
        return model.name if isinstance(model, LlmConfig) else model

    @property
    def tools(self) -> bool:
        """Whether the node may ask for the tools that a call brings."""
        return isinstance(self.work, Agent) and self.work.tools is True


def _node(
    name: str,
    node_id: str | None,
    work: Work,
    *,
    retry: int | None = None,
    timeout: float | None = None,
    for_each: str | None = None,
    at_once: int = 1,
) -> Node:
    _text(name, "name", name)
    _text(name, "id", node_id)
    _text(name, "for_each", for_each)
    _whole(name, "retry", retry, 0)
    _whole(name, "concurrency", at_once, 1)
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise ValueError(f"node {name!r}: timeout must be more than 0 seconds, not {timeout!r}")
    return Node(
        id=node_id or _id_of(name),
        name=name,
        work=work,
        retry=retry,
        timeout=timeout,
        for_each=for_each,
        concurrency=at_once,
    )


def _id_of(name: str) -> str:
    made = re.sub(r"[^\w-]+", "-", name).strip("-")
    if not made:
        raise ValueError(f"a node's name must have a letter or a digit: {name!r}")
    return made


def _callables(name: str, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    for tool in tools:
        if not callable(tool):
            raise TypeError(f"node {name!r}: a tool must be callable, not {tool!r}")
    return tuple(tools)


def _text(name: str, setting: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"node {name!r}: {setting} must be a str, not {type(value).__name__}")


def _whole(name: str, setting: str, value: int | None, least: int) -> None:
    if value is not None and not (isinstance(value, int) and value >= least):
        raise ValueError(f"node {name!r}: {setting} must be {least} or more, not {value!r}")


def _temperature(name: str, value: float | None) -> None:
    if value is not None and not (isinstance(value, int | float) and 0 <= value <= 2):
        raise ValueError(f"node {name!r}: temperature must be 0 to 2, not {value!r}")
