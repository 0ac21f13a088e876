"""What a flow file may hold: the shape of it, and the nodes that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..llm.errors import LlmConfigError
from ..workflow.node import Agent, Condition, Function, Node, Transform, Work
from ..workflow.plan import CaptureMode

Loc = tuple[str | int, ...]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
Need = Annotated[str, Field(pattern=r"^(not )?[A-Za-z_][A-Za-z0-9_-]*$")]
LoadFunction = Callable[[str], Callable[..., Any]]
CheckModel = Callable[[str], object]
"""Raises LlmConfigError for a name that is no model's."""

AGENT_FIELDS = (
    "prompt",
    "model",
    "system",
    "temperature",
    "max_tokens",
    "tools",
    "max_tool_iterations",
    "output",
)
_KINDS = ("function", "condition", "transform", "parallel")


class StepEntry(BaseModel):
    """A step as the file has it. What is None falls back on the flow or on :class:`Node`."""

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
        """``"agent"``, or the field that makes it something else."""
        return next((kind for kind in _KINDS if getattr(self, kind) is not None), "agent")


class FlowEntry(BaseModel):
    """A flow file's content."""

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


@dataclass
class Nodes:
    """The nodes of a file, and where in the file each of them stands.

    Attributes:
        faults: ``(place in the file, message)`` for what the shape alone cannot tell.
    """

    default_model: str
    load_function: LoadFunction
    check_model: CheckModel | None = None
    nodes: list[Node] = field(default_factory=list)
    locs: list[Loc] = field(default_factory=list)
    faults: list[tuple[Loc, str]] = field(default_factory=list)

    def add_all(self, steps: Sequence[StepEntry]) -> None:
        """Take the steps of a file. A step needs the one before it where it does not say."""
        before: list[str] = []
        for place, step in enumerate(steps):
            loc = ("steps", place)
            self.faults += [((*loc, name), message) for name, message in _misplaced(step)]
            if step.parallel is None:
                before = [self._add(step, loc, before)]
            else:
                before = self._add_group(step, step.parallel, loc, before)

    def check(self, model: str | None, loc: Loc) -> None:
        """Note where ``model`` names none."""
        if model is None or self.check_model is None:
            return
        try:
            self.check_model(model)
        except LlmConfigError as error:
            self.faults.append((loc, error.message))

    def _add_group(
        self, group: StepEntry, steps: Sequence[StepEntry], loc: Loc, before: list[str]
    ) -> list[str]:
        needs = before if group.needs is None else group.needs
        added = []
        for place, step in enumerate(steps):
            inner = (*loc, "parallel", place)
            self.faults += [((*inner, name), message) for name, message in _misplaced(step)]
            if step.parallel is not None:
                self.faults.append(((*inner, "parallel"), "a group cannot hold a group"))
            else:
                added.append(self._add(step, inner, needs))
        return added

    def _add(self, step: StepEntry, loc: Loc, before: Sequence[str]) -> str:
        if step.id is None:
            self.faults.append(((*loc, "id"), "a step needs an id"))
        name = step.id or ""
        needs = list(before) if step.needs is None else step.needs
        node = Node(
            id=name,
            name=step.name or name,
            work=self._work(step, loc),
            needs=tuple(need.removeprefix("not ") for need in needs),
            unless=frozenset(need[4:] for need in needs if need.startswith("not ")),
            retry=step.retry,
            timeout=step.timeout,
            for_each=step.for_each,
            concurrency=step.concurrency or 1,
        )
        self.nodes.append(node)
        self.locs.append(loc)
        return name

    def _work(self, step: StepEntry, loc: Loc) -> Work:
        if step.condition is not None:
            return Condition(step.condition)
        if step.transform is not None:
            return Transform(step.transform)
        if step.function is not None:
            return Function(self._function(step.function, loc), step.arguments)
        self.check(step.model, (*loc, "model"))
        given = {name: value for name, value in step.given.items() if name in AGENT_FIELDS}
        return Agent(**{"model": self.default_model, **given})

    def _function(self, name: str, loc: Loc) -> Callable[..., Any]:
        try:
            return self.load_function(name)
        except ValueError as error:
            self.faults.append(((*loc, "function"), str(error)))
            return str


def _misplaced(step: StepEntry) -> Iterator[tuple[str, str]]:
    """Fields that have no place in a step of this kind."""
    allowed = {
        "agent": {"id", "name", "needs", "retry", "timeout", "for_each", "concurrency"}.union(
            AGENT_FIELDS
        ),
        "function": {"id", "name", "needs", "retry", "timeout", "for_each", "concurrency"}
        | {"function", "arguments"},
        "condition": {"id", "name", "needs", "condition"},
        "transform": {"id", "name", "needs", "for_each", "transform"},
        "parallel": {"needs", "parallel"},
    }[step.kind]
    for name in step.given:
        if name not in allowed:
            what = "a group" if step.kind == "parallel" else f"a step with {step.kind!r}"
            kind = "a step that asks a model" if step.kind == "agent" else what
            yield name, f"{name!r} has no place in {kind}"
