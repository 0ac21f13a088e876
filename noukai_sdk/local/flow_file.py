"""Reads one flow file: YAML or Python to a :class:`Flow`, or the problems with line and field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from .checks import Problem, problems_of
from .flow import Flow
from .flow_entry import FlowEntry, Loc, Nodes
from .plan import in_order
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
    """

    path: Path
    file: str
    org: str
    project: str
    slug: str
    version: int | None = None
    default_model: str = "offline"

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
        from .workflow import Workflow, WorkflowError

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

    def _from_yaml(self) -> Flow:
        tree = self._compose(self.path.read_text(encoding="utf-8"))
        entry = self._validate(tree)
        loader = FunctionLoader(self.path.parent)
        nodes = Nodes(entry.model or self.default_model, loader)
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

    def _compose(self, text: str) -> yaml.Node:
        import yaml

        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise FlowFileError([self._no_yaml(error)]) from error
        if not isinstance(node, yaml.MappingNode):
            message = "a flow file is a mapping with the key 'steps'"
            raise FlowFileError([self._problem(1, "steps", message)])
        return node

    def _validate(self, tree: yaml.Node) -> FlowEntry:
        import yaml

        loader = yaml.SafeLoader("")
        try:
            return FlowEntry.model_validate(loader.construct_document(tree))
        except yaml.YAMLError as error:
            raise FlowFileError([self._no_yaml(error)]) from error
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)
            raise FlowFileError(
                [self._located(tree, e["loc"], e["msg"]) for e in faults]
            ) from error
        finally:
            loader.dispose()

    def _no_yaml(self, error: Exception) -> FlowProblem:
        mark = getattr(error, "problem_mark", None)
        message = f"no YAML: {getattr(error, 'problem', None) or error}"
        return self._problem(mark.line + 1 if mark else None, None, message)

    def _located(self, tree: yaml.Node, loc: Loc, message: str) -> FlowProblem:
        return self._problem(line_of(tree, loc), _dotted(loc), message)

    def _problem(self, line: int | None, field: str | None, message: str) -> FlowProblem:
        return FlowProblem(self.file, line, field, message)


def _place(problem: Problem, locs: Sequence[Loc]) -> Loc:
    loc: Loc = () if problem.place is None else locs[problem.place]
    return (*loc, problem.field) if problem.field else loc


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
