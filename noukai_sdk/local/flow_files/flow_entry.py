"""The contents of a flow file: which keys it may have, of which types."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
)
from pydantic_core import PydanticCustomError

from ..workflow.kinds import OnLimit
from ..workflow.node import OnError
from ..workflow.plan import CaptureMode

Loc = tuple[str | int, ...]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
Need = Annotated[str, Field(pattern=r"^(not )?[A-Za-z_][A-Za-z0-9_-]*$")]

MAIN_FILE = "flow.yaml"
"""The name of the flow file itself among the files of a published version."""

AGENT_SETTINGS = {
    "prompt", "model", "system", "temperature", "max_tokens", "tools", "max_tool_iterations", "output",
    "repairs", "top_p", "seed", "response_format", "extra_body",
}  # fmt: skip
_NAMES = {"id", "name", "needs"}
_COMMON = _NAMES | {"retry", "timeout", "for_each", "concurrency", "on_error"}
ALLOWED = {
    "agent": _COMMON | AGENT_SETTINGS | {"context", "fallback"},
    "function": _COMMON | {"function", "arguments", "fallback"},
    "condition": _NAMES | {"condition"},
    "route": _NAMES | {"route", "branches", "default"},
    "approval": _NAMES | {"approval"},
    "transform": _NAMES | {"for_each", "on_error", "transform"},
    "flow": _COMMON | {"flow", "inputs"},
    "repeat": _COMMON | {"repeat", "until", "at_most", "on_limit", "inputs"},
    "parallel": {"needs", "parallel"},
}
"""The fields of each kind of step. The kind is ``agent``, or the field that makes it something else."""

REQUIRED = {"route": ("branches",), "repeat": ("until", "at_most")}


def tagged(tags: dict[type, str]) -> Discriminator:
    """Return how to find the type of a value, so that faults of one type alone are reported."""

    def tag_of(value: Any) -> str:
        return next((tag for kind, tag in tags.items() if isinstance(value, kind)), tags[str])

    return Discriminator(tag_of)


def without_tags(loc: Loc) -> Loc:
    """Return the place of a fault in the file, without what :func:`tagged` has added."""
    return tuple(part for part in loc if not (isinstance(part, str) and part.startswith("~")))


def _branch(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise PydanticCustomError("branch", "A branch is a text, a number, true or false")
    return value


OneBranch = Annotated[Any, AfterValidator(_branch)]
Branches = Annotated[
    Annotated[OneBranch, Tag("~one")] | Annotated[list[OneBranch], Tag("~list")],
    tagged({list: "~list", str: "~one"}),
]
NeedEntry = Annotated[
    Annotated[Need, Tag("~name")] | Annotated[dict[Identifier, Branches], Tag("~branches")],
    tagged({dict: "~branches", str: "~name"}),
]
Output = Annotated[
    Annotated[str, Tag("~name")] | Annotated[dict[str, Any], Tag("~schema")],
    tagged({dict: "~schema", str: "~name"}),
]
"""``text``, ``json``, a JSON schema, or ``module:Model`` with the name of a type."""
Body = Annotated[
    Annotated[str, Tag("~name")]
    | Annotated["StepEntry", Tag("~step")]
    | Annotated[list["StepEntry"], Field(min_length=1), Tag("~steps")],
    tagged({dict: "~step", list: "~steps", str: "~name"}),
]
"""What a step runs: the name of a flow, a step or steps."""
OneFallback = Annotated[
    Annotated[str, Tag("~name")] | Annotated["StepEntry", Tag("~step")],
    tagged({dict: "~step", str: "~name"}),
]
Fallbacks = Annotated[
    Annotated[OneFallback, Tag("~one")] | Annotated[list[OneFallback], Tag("~list")],
    tagged({list: "~list", str: "~one"}),
]
"""Models and steps to try when a step has failed."""


class StepEntry(BaseModel):
    """A step as the file has it. For a field that is None, the flow's or :class:`Node`'s counts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Identifier | None = None
    name: Annotated[str, Field(min_length=1)] | None = None
    needs: list[NeedEntry] | None = None
    retry: Annotated[int, Field(ge=0, le=10)] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    for_each: str | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None
    on_error: OnError | None = None
    fallback: Fallbacks | None = None

    prompt: str | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    system: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    tools: bool | None = None
    max_tool_iterations: Annotated[int, Field(gt=0)] | None = None
    output: Output | None = None
    repairs: Annotated[int, Field(ge=0)] | None = None
    context: str | dict[str, Any] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    extra_body: dict[str, Any] | None = None

    function: str | None = None
    arguments: dict[str, Any] | None = None
    condition: str | None = None
    route: str | None = None
    branches: Annotated[list[OneBranch], Field(min_length=1)] | None = None
    default: OneBranch | None = None
    approval: str | None = None
    transform: str | None = None
    flow: Body | None = None
    inputs: dict[str, Any] | None = None
    repeat: Body | None = None
    until: str | None = None
    at_most: Annotated[int, Field(ge=1)] | None = None
    on_limit: OnLimit | None = None
    parallel: Annotated[list[StepEntry], Field(min_length=1)] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that the file sets, by name."""
        return {name: value for name, value in self if value is not None}

    @property
    def kind(self) -> str:
        """``"agent"``, or the field that makes the step something else."""
        return next((kind for kind in ALLOWED if getattr(self, kind, None) is not None), "agent")


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
