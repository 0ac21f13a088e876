"""Reads one flow file: YAML or Python to a :class:`Flow`, or the problems with line and field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..workflow.plan import Flow, in_order
from ..workflow.validation import Problem, problems_of
from .flow_entry import CheckModel, FlowEntry, Loc, Nodes
from .flow_tree import TreeError, line_of, read_tree, value_of
from .python_files import FunctionLoader, PythonFileError, load_file

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class FlowProblem:
    """A fault in a flow file, whose name is relative to its directory. Lines count from 1."""

    file: str
    line: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.field, self.message) if part)


class FlowFileError(ValueError):
    """A flow file that cannot be used.

    Attributes:
        problems: Everything that is wrong with it.
        sources: Files that it names: where one changes, it may be good.
    """

    def __init__(self, problems: Sequence[FlowProblem], sources: Sequence[Path] = ()) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)
        self.sources = tuple(sources)


@dataclass(frozen=True)
class FlowFile:
    """A flow file and the address that its path gives it.

    Attributes:
        file: The name to report problems under.
        default_model: For steps where neither they nor the flow name a model.
        check_model: Refuses names that are no model's, None to take any.
    """

    path: Path
    file: str
    org: str
    project: str
    slug: str
    version: int | None = None
    default_model: str = "offline"
    check_model: CheckModel | None = None

    def read(self) -> Flow:
        """The flow.

        Raises:
            FlowFileError: It cannot run, or the file cannot be read.
        """
        try:
            return self._from_python() if self.path.suffix == ".py" else self._from_yaml()
        except (OSError, UnicodeDecodeError) as error:
            raise FlowFileError([self._problem(None, None, f"cannot be read: {error}")]) from error

    def _from_python(self) -> Flow:
        from ..workflow.workflow import Workflow, WorkflowError

        try:
            workflow = getattr(load_file(self.path), "workflow", None)
        except PythonFileError as error:
            raise FlowFileError([self._problem(error.line, None, str(error))]) from error
        if not isinstance(workflow, Workflow):
            message = "the module has no Workflow under the name 'workflow'"
            raise FlowFileError([self._problem(None, "workflow", message)])
        try:
            return workflow.as_flow(
                self.org, self.project, self.slug, version=self.version, model=self.default_model
            )
        except WorkflowError as error:
            problems = [self._problem(None, p.field, str(p)) for p in error.problems]
            raise FlowFileError(problems) from error
        except Exception as error:
            # A node can be made of anything, and code that checks it may fall over that.
            message = f"the workflow cannot be checked: {type(error).__name__}: {error}"
            raise FlowFileError([self._problem(None, "workflow", message)]) from error

    def _from_yaml(self) -> Flow:
        import yaml

        try:
            tree = read_tree(self.path.read_text(encoding="utf-8"))
            value = None if tree is None else value_of(tree)
        except TreeError as error:
            raise FlowFileError([self._problem(error.line, None, str(error))]) from error
        if not isinstance(tree, yaml.MappingNode):
            message = "a flow file is a mapping with the key 'steps'"
            raise FlowFileError([self._problem(1, "steps", message)])
        return self._from_tree(tree, value)

    def _from_tree(self, tree: yaml.Node, value: Any) -> Flow:
        entry = self._validate(tree, value)
        loader = FunctionLoader(self.path.parent)
        nodes = Nodes(entry.model or self.default_model, loader, self.check_model)
        nodes.check(entry.model, ("model",))
        nodes.add_all(entry.steps)
        problems = [self._located(tree, *fault) for fault in nodes.faults]
        problems = problems or [
            self._located(tree, _place(problem, nodes.locs), problem.message)
            for problem in problems_of(nodes.nodes)
        ]
        if problems:
            raise FlowFileError(problems, loader.sources)
        return Flow(
            org=self.org,
            project=self.project,
            slug=self.slug,
            version=self.version,
            steps=in_order(nodes.nodes),
            capture_mode=entry.capture,
            parameters=entry.parameters,
            description=entry.description,
            sources=tuple(loader.sources),
        )

    def _validate(self, tree: yaml.Node, value: Any) -> FlowEntry:
        try:
            return FlowEntry.model_validate(value)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)
            raise FlowFileError(
                [self._located(tree, e["loc"], e["msg"]) for e in faults]
            ) from error

    def _located(self, tree: yaml.Node, loc: Loc, message: str) -> FlowProblem:
        return self._problem(line_of(tree, loc), _dotted(loc), message)

    def _problem(self, line: int | None, field: str | None, message: str) -> FlowProblem:
        return FlowProblem(self.file, line, field, message)


def _place(problem: Problem, locs: Sequence[Loc]) -> Loc:
    loc: Loc = () if problem.place is None else locs[problem.place]
    return (*loc, problem.field) if problem.field else loc


def _dotted(loc: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
