"""The contents of a flow file: which keys it may have, and the nodes that its steps become."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..llm.errors import LlmConfigError
from ..workflow.kinds import Agent, Condition, Function, Transform, Work, with_context
from ..workflow.node import Node
from ..workflow.plan import CaptureMode

Loc = tuple[str | int, ...]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
Need = Annotated[str, Field(pattern=r"^(not )?[A-Za-z_][A-Za-z0-9_-]*$")]
LoadFunction = Callable[[str], Callable[..., Any]]
CheckModel = Callable[[str], object]
"""Raises LlmConfigError if a name is not the name of a model."""

_AGENT = {
    "prompt", "model", "system", "temperature", "max_tokens", "tools", "max_tool_iterations", "output",
    "top_p", "seed", "response_format", "extra_body",
}  # fmt: skip
_COMMON = {"id", "name", "needs", "retry", "timeout", "for_each", "concurrency"}
_ALLOWED = {
    "agent": _COMMON | _AGENT | {"context"},
    "function": _COMMON | {"function", "arguments"},
    "condition": {"id", "name", "needs", "condition"},
    "transform": {"id", "name", "needs", "for_each", "transform"},
    "parallel": {"needs", "parallel"},
}


class StepEntry(BaseModel):
    """A step as the file has it. For a field that is None, the flow's or :class:`Node`'s counts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Identifier | None = None
    name: Annotated[str, Field(min_length=1)] | None = None
    needs: list[Need] | None = None
    retry: Annotated[int, Field(ge=0, le=10)] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    for_each: str | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None

    prompt: str | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    system: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    tools: bool | None = None
    max_tool_iterations: Annotated[int, Field(gt=0)] | None = None
    output: Literal["text", "json"] | None = None
    context: str | dict[str, Any] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    extra_body: dict[str, Any] | None = None

    function: str | None = None
    arguments: dict[str, Any] | None = None
    condition: str | None = None
    transform: str | None = None
    parallel: Annotated[list[StepEntry], Field(min_length=1)] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that the file sets, by name."""
        return {name: value for name, value in self if value is not None}

    @property
    def kind(self) -> str:
        """``"agent"``, or the field that makes the step something else."""
        kinds = ("function", "condition", "transform", "parallel")
        return next((kind for kind in kinds if getattr(self, kind) is not None), "agent")


class FlowEntry(BaseModel):
    """The content of a flow file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    description: str = ""
    capture: CaptureMode = "full"
    model: Annotated[str, Field(min_length=1)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    steps: Annotated[list[StepEntry], Field(min_length=1)]

    @field_validator("capture", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare ``off`` as False.
        return "off" if value is False else value


def unknown_field(loc: Loc) -> str:
    """Return the message for a field that does not exist, with the one that may have been meant.

    Example:
        >>> unknown_field(("steps", 0, "promt"))
        'unknown field `promt`: did you mean `prompt`?'
    """
    name = str(loc[-1])
    known = (FlowEntry if len(loc) == 1 else StepEntry).model_fields
    close = difflib.get_close_matches(name, known, n=1)
    hint = f": did you mean `{close[0]}`?" if close else ""
    return f"unknown field `{name}`{hint}"


@dataclass
class NodeBuilder:
    """Turns the steps of a file into nodes.

    Attributes:
        nodes: The nodes made so far.
        locs: The place in the file of each of them.
        faults: ``(place in the file, message)`` for faults that :class:`StepEntry` cannot detect.
    """

    default_model: str
    load_function: LoadFunction
    check_model: CheckModel | None = None
    nodes: list[Node] = field(default_factory=list)
    locs: list[Loc] = field(default_factory=list)
    faults: list[tuple[Loc, str]] = field(default_factory=list)

    def add_all(self, steps: Sequence[StepEntry]) -> None:
        """Add the steps of a file. A step without ``needs`` needs the one before it."""
        before: list[str] = []
        for place, step in enumerate(steps):
            loc = ("steps", place)
            self._check_fields(step, loc)
            if step.parallel is None:
                before = [self._add(step, loc, before)]
                continue
            needs = before if step.needs is None else step.needs
            before = []
            for inner_place, inner in enumerate(step.parallel):
                inner_loc = (*loc, "parallel", inner_place)
                self._check_fields(inner, inner_loc)
                if inner.parallel is None:
                    before.append(self._add(inner, inner_loc, needs))
                else:
                    message = "a group cannot contain a group"
                    self.faults.append(((*inner_loc, "parallel"), message))

    def check(self, model: str | None, loc: Loc) -> None:
        """Add a fault if ``model`` is not the name of a model."""
        if model is None or self.check_model is None:
            return
        try:
            self.check_model(model)
        except LlmConfigError as error:
            self.faults.append((loc, error.message))

    def _check_fields(self, step: StepEntry, loc: Loc) -> None:
        described = {"agent": "a step that asks a model", "parallel": "a group"}
        kind = described.get(step.kind, f"a step with {step.kind!r}")
        for name in step.given:
            if name not in _ALLOWED[step.kind]:
                self.faults.append(((*loc, name), f"{name!r} is not allowed in {kind}"))

    def _add(self, step: StepEntry, loc: Loc, before: Sequence[str]) -> str:
        if step.id is None:
            self.faults.append(((*loc, "id"), "a step needs an id"))
        step_id = step.id or ""
        needs = before if step.needs is None else step.needs
        node = Node(
            id=step_id,
            name=step.name or step_id,
            work=self._work(step, loc),
            needs=tuple(need.removeprefix("not ") for need in needs),
            when={need[4:]: (False,) for need in needs if need.startswith("not ")},
            retry=step.retry,
            timeout=step.timeout,
            for_each=step.for_each,
            concurrency=step.concurrency or 1,
        )
        self.nodes.append(node)
        self.locs.append(loc)
        return step_id

    def _work(self, step: StepEntry, loc: Loc) -> Work:
        if step.condition is not None:
            return Condition(step.condition)
        if step.transform is not None:
            return Transform(step.transform)
        if step.function is not None:
            call: Callable[..., Any] = str
            try:
                call = self.load_function(step.function)
            except ValueError as error:
                self.faults.append(((*loc, "function"), str(error)))
            return Function(call, step.arguments)
        self.check(step.model, (*loc, "model"))
        settings = {name: value for name, value in step.given.items() if name in _AGENT}
        settings["system"] = with_context(step.system, step.context)
        return Agent(**{"model": self.default_model, **settings})
