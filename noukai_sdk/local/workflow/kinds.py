"""The kinds of work that a node can do, as data; ``engine/work.py`` does them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, get_args, get_origin

from ..llm.config import LlmConfig
from ..runtime.hidden_keys import shown
from .expressions import AROUND_WORDS, is_true
from .templates import as_text

if TYPE_CHECKING:
    from .json_schemas import JsonSchema
    from .plan import Plan

Tool = Callable[..., Any]
Output = Union[Literal["text", "json"], type[Any], "JsonSchema"]
Branch = str | int | float | bool
"""A value of a route, and the name of the branch for it."""

OnLimit = Literal["fail", "keep"]

# As in YAML, where a bare "yes" is True.
_SAME = {"yes": "true", "on": "true", "no": "false", "off": "false"}


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
        output: ``"json"`` if the model returns JSON and the output is its value. A type, such as a pydantic
            model, if the response must be JSON of this type and the output is an instance.
        repairs: How often the model may correct a response that does not fit the type.
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
    output: Output = "text"
    repairs: int = 1
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


class Decision:
    """A kind of work whose output decides which of the nodes after it run.

    Attributes:
        branches: The branches that there are.
        unsaid: The branches on which a node is that does not say it; None for all.
    """

    branches: tuple[Branch, ...]
    unsaid: ClassVar[tuple[Branch, ...] | None] = None

    def leads_to(self, output: Any, branches: Sequence[Branch]) -> bool:
        """Return whether ``output``, the node's, is one of ``branches``."""
        raise NotImplementedError

    def passes_on(self, value: Any, output: Any) -> Any:
        """Return the input of the nodes behind this one, whose input is ``value``."""
        return value


@dataclass(frozen=True)
class Route(Decision):
    """Pick a branch by an expression, or a function of the node's input. The output is the branch.

    Attributes:
        by: The expression or the function.
        branches: The values that it may have. Texts match in any case, with or without a full stop and
            quotes around them, since models write their decisions as text; ``"3"`` matches 3.
        default: The branch for any other value; None for an error.
    """

    by: str | Callable[[Any], Any]
    branches: tuple[Branch, ...]
    default: Branch | None = None

    @classmethod
    def of(
        cls, by: str | Callable[[Any], Any], branches: Sequence[Branch], default: Branch | None
    ) -> Route:
        """Return a route whose default is one of its branches, also if ``branches`` does not name it."""
        known = [branch_text(branch) for branch in branches]
        added = () if default is None or branch_text(default) in known else (default,)
        return Route(by, (*branches, *added), default)

    def pick(self, value: Any) -> Branch:
        """Return the branch for a value.

        Raises:
            NoBranchError: There is none, and no default.

        Example:
            >>> Route("input", ("billing", 3), default="other").pick(" Billing.")
            'billing'
        """
        reads = branch_text(value)
        for branch in self.branches:
            if branch_text(branch) == reads:
                return branch
        if self.default is None:
            known = ", ".join(map(repr, self.branches))
            raise NoBranchError(f"the value {shown(value)} is not one of the branches {known}")
        return self.default

    def leads_to(self, output: Any, branches: Sequence[Branch]) -> bool:
        """Return whether ``output``, which :meth:`pick` has returned, is one of ``branches``."""
        return branch_text(output) in map(branch_text, branches)


@dataclass(frozen=True)
class Condition(Route):
    """A route with the branches True and False, which any value leads to."""

    branches: tuple[Branch, ...] = (True, False)

    unsaid: ClassVar[tuple[Branch, ...] | None] = (True,)

    def pick(self, value: Any) -> Branch:
        """Return whether the value counts as true."""
        return is_true(value)

    def leads_to(self, output: Any, branches: Sequence[Branch]) -> bool:
        """Return whether the output, True or False, is one of ``branches``."""
        return bool(output) in branches


@dataclass(frozen=True)
class Approval(Decision):
    """Wait for the decision of a person. The output is ``{"approved", "comment", "value"}``.

    Attributes:
        prompt: What is asked, with references.
    """

    prompt: str
    branches: tuple[Branch, ...] = (True, False)

    unsaid: ClassVar[tuple[Branch, ...] | None] = (True,)

    def leads_to(self, output: Any, branches: Sequence[Branch]) -> bool:
        """Return whether the decision is one of ``branches``."""
        return bool(output["approved"]) in branches

    def passes_on(self, value: Any, output: Any) -> Any:
        """Return the value that was approved, which may have been edited."""
        return output["value"]


class NoBranchError(ValueError):
    """The value of a route is not one of its branches."""


def branch_text(value: Any) -> str | None:
    """Return how a value reads as a branch: equal for values that stand for one branch.

    Example:
        >>> branch_text(" Billing.") == branch_text("billing"), branch_text(3.0) == branch_text("3")
        (True, True)
    """
    if not isinstance(value, str | int | float):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = as_text(value).strip(AROUND_WORDS).casefold()
    return _SAME.get(text, text)


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


@dataclass(frozen=True)
class Repeat(SubFlow):
    """Run a workflow again on its own output, until that is enough.

    Attributes:
        until: An expression with ``output``, ``input`` and ``round``, or a function of a round's output.
            Rounds count from 1.
        at_most: How many rounds there may be.
        on_limit: If ``until`` is not true after that many: ``"fail"``, or ``"keep"`` the last output.
    """

    until: str | Callable[[Any], Any] = "True"
    at_most: int = 1
    on_limit: OnLimit = "fail"


Work = Agent | Function | Route | Approval | Transform | SubFlow


def classes_in(output: Any) -> Iterator[type]:
    """Yield the classes that an output of an agent may be an instance of, or a list of.

    Example:
        >>> from decimal import Decimal
        >>> list(classes_in(list[Decimal] | None))
        [<class 'decimal.Decimal'>]
    """
    if isinstance(output, type) and get_origin(output) is None:
        if output.__module__ != "builtins":
            yield output
        return
    for inner in get_args(output):
        yield from classes_in(inner)


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
