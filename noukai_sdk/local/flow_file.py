"""Reads one flow file: YAML to a :class:`Flow`, or the problems with file, line and field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .checks import Problem, in_order, problems_of
from .flow import CaptureMode, Flow, Step

if TYPE_CHECKING:
    import yaml

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=2)]


@dataclass(frozen=True)
class FlowProblem:
    """A fault in a flow file, whose name is relative to its directory. Lines count from 1."""

    file: str
    line: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return (
            f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"
        )


class FlowFileError(ValueError):
    """A flow file that cannot be used; ``problems`` says why."""

    def __init__(self, problems: Sequence[FlowProblem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


class StepEntry(BaseModel):
    """A step as the file has it. What is None falls back on the flow or on :class:`Step`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Identifier
    name: str | None = None
    model: str | None = None
    prompt: str | None = None
    system: str | None = None
    temperature: Temperature | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    tools: bool | None = None
    max_tool_iterations: Annotated[int, Field(gt=0)] | None = None
    needs: list[Identifier] | None = None
    retry: Annotated[int, Field(ge=0, le=10)] | None = None
    timeout: Seconds | None = None
    output: Literal["text", "json"] | None = None


class FlowEntry(BaseModel):
    """A flow file's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    description: str = ""
    capture: CaptureMode = "full"
    model: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    steps: list[StepEntry] = Field(min_length=1)

    @field_validator("capture", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare ``off`` as False.
        return "off" if value is False else value


def read_flow(
    text: str,
    *,
    file: str,
    org: str,
    project: str,
    slug: str,
    version: int | None = None,
    default_model: str = "offline",
) -> Flow:
    """The flow that ``text`` describes.

    Args:
        text: The file's content.
        file: The name to report problems under.
        org: The flow's organisation.
        project: The flow's project.
        slug: The flow's name in its project.
        version: None for the working copy.
        default_model: For steps where neither they nor the flow name a model.

    Raises:
        FlowFileError: The text is no YAML, or no flow that can run.
    """
    tree = _compose(text, file)
    entry = _validate(tree, file)
    steps = _steps(entry, default_model)
    faults = problems_of(steps)
    if faults:
        raise FlowFileError([_located(fault, tree, file) for fault in faults])
    return Flow(
        org=org,
        project=project,
        slug=slug,
        version=version,
        steps=in_order(steps),
        capture_mode=entry.capture,
        parameters=entry.parameters,
        description=entry.description,
    )


def _compose(text: str, file: str) -> yaml.Node:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else None
        raise FlowFileError([FlowProblem(file, line, None, f"no YAML: {message}")]) from error
    if not isinstance(node, yaml.MappingNode):
        message = "a flow file is a mapping with the key 'steps'"
        raise FlowFileError([FlowProblem(file, 1, "steps", message)])
    return node


def _validate(tree: yaml.Node, file: str) -> FlowEntry:
    import yaml

    loader = yaml.SafeLoader("")
    try:
        return FlowEntry.model_validate(loader.construct_document(tree))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        message = f"no YAML: {getattr(error, 'problem', error)}"
        problem = FlowProblem(file, mark.line + 1 if mark else None, None, message)
        raise FlowFileError([problem]) from error
    except ValidationError as error:
        problems = [
            FlowProblem(file, line_of(tree, e["loc"]), _dotted(e["loc"]), e["msg"])
            for e in error.errors(include_url=False, include_context=False)
        ]
        raise FlowFileError(problems) from error
    finally:
        loader.dispose()


def _steps(entry: FlowEntry, default_model: str) -> list[Step]:
    steps: list[Step] = []
    for item in entry.steps:
        given = item.model_dump(exclude_none=True)
        before = [steps[-1].id] if steps else []
        given["needs"] = tuple(given.get("needs", before))
        given.setdefault("name", item.id)
        given.setdefault("model", entry.model or default_model)
        steps.append(Step(**given))
    return steps


def _located(fault: Problem, tree: yaml.Node, file: str) -> FlowProblem:
    loc: tuple[str | int, ...] = () if fault.step is None else ("steps", fault.step)
    if fault.field:
        loc += (fault.field,)
    return FlowProblem(file, line_of(tree, loc), _dotted(loc), fault.message)


def line_of(tree: yaml.Node, loc: Sequence[str | int]) -> int:
    """The line of the deepest part of ``loc`` that the file has, counted from 1."""
    line = tree.start_mark.line
    node: Any = tree
    for part in loc:
        found = _child(node, part)
        if found is None:
            break
        mark, node = found
        line = mark.start_mark.line
    return int(line) + 1


def _child(node: Any, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node to point at (a mapping's key, a sequence's item) and the one to go on from."""
    if isinstance(part, int):
        items = node.value if isinstance(node.value, list) else []
        return (items[part], items[part]) if part < len(items) else None
    pairs = node.value if node.id == "mapping" else []
    return next(((key, value) for key, value in pairs if key.value == part), None)


def _dotted(loc: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
