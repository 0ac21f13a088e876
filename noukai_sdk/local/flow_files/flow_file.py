"""Read one flow file, YAML or Python, into a flow or a list of problems with line and field."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import to_json

from ..workflow.plan import Flow, in_order
from ..workflow.workflow import Workflow, WorkflowError
from .flow_entry import MAIN_FILE, FlowEntry, Loc, unknown_field, without_tags
from .inner_flows import FlowLoader, Opened
from .node_builder import CheckModel, NodeBuilder
from .python_files import FunctionLoader, PythonFileError, load_source, read_source


@dataclass(frozen=True)
class FlowProblem:
    """One thing that is wrong with a flow file.

    Attributes:
        file: The file's path within its directory.
        line: Counted from 1, None if it is not known.
        field: Such as ``steps[0].prompt``, None if the file as a whole is meant.
        message: What is wrong.
    """

    file: str
    line: int | None
    field: str | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.field, self.message) if part)


class FlowFileError(ValueError):
    """A flow file cannot be used.

    Attributes:
        problems: Everything that is wrong with it.
        sources: Other files that it names. A change of one may solve a problem.
    """

    def __init__(self, problems: Sequence[FlowProblem], sources: Sequence[Path] = ()) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)
        self.sources = tuple(sources)


@dataclass(frozen=True)
class FlowFile:
    """A flow file, with the address that its path stands for.

    Attributes:
        path: Where the file is.
        file: The name to report problems under.
        org: The organization.
        project: The project within the organization.
        slug: The flow's name within the project.
        version: The published version, None for the working copy.
        default_model: The model of steps if neither they nor the flow name one.
        check_model: Raises LlmConfigError if a name is not the name of a model; None accepts any name.
        frozen: The texts of the flow file (``MAIN_FILE``) and of the files that it names, if the flow was
            published; None reads the files.
        root: The flow folder; None if ``path`` says it.
        opened: What is being read, if this flow is a part of another one.
    """

    path: Path
    file: str
    org: str
    project: str
    slug: str
    version: int | None = None
    default_model: str = "offline"
    check_model: CheckModel | None = None
    frozen: Mapping[str, str] | None = None
    root: Path | None = None
    opened: Opened = field(default_factory=Opened, compare=False, repr=False)

    def read(self) -> Flow:
        """Read the flow.

        Raises:
            FlowFileError: The file cannot be read, or the flow in it cannot run.
        """
        try:
            return self._from_python() if self.path.suffix == ".py" else self._from_yaml()
        except (OSError, UnicodeDecodeError) as error:
            raise self._error(None, None, f"cannot be read: {error}") from error

    def _from_python(self) -> Flow:
        try:
            text = read_source(self.path)
            workflow = getattr(load_source(self.path, text), "workflow", None)
        except PythonFileError as error:
            raise self._error(error.line, None, str(error)) from error
        if not isinstance(workflow, Workflow):
            message = "the module has no Workflow under the name 'workflow'"
            raise self._error(None, "workflow", message)
        try:
            flow = workflow.as_flow(
                self.org, self.project, self.slug, version=self.version, model=self.default_model
            )
            return replace(flow, content_hash=content_hash({"flow.py": text}, self.default_model))
        except WorkflowError as error:
            problems = [FlowProblem(self.file, None, p.field, str(p)) for p in error.problems]
            raise FlowFileError(problems) from error
        except Exception as error:
            # The file can make a node of anything, and checking that may fail in any way.
            message = f"the workflow cannot be checked: {type(error).__name__}: {error}"
            raise self._error(None, "workflow", message) from error

    def _from_yaml(self) -> Flow:
        from .flow_tree import FlowTree, TreeError  # Python files do without PyYAML

        frozen = self.frozen
        text = self.path.read_text(encoding="utf-8") if frozen is None else frozen[MAIN_FILE]
        try:
            tree = FlowTree(text)
        except TreeError as error:
            raise self._error(error.line, None, str(error)) from error
        if not isinstance(tree.value, dict):
            raise self._error(1, "steps", "a flow file is a mapping with the key 'steps'")

        def problem_at(loc: Loc, message: str) -> FlowProblem:
            loc = without_tags(loc)
            field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
            return FlowProblem(self.file, tree.line_of(loc), field.lstrip("."), message)

        try:
            entry = FlowEntry.model_validate(tree.value)
        except ValidationError as error:
            problems = []
            for fault in error.errors(include_url=False, include_context=False):
                is_unknown = fault["type"] == "extra_forbidden"
                message = unknown_field(without_tags(fault["loc"])) if is_unknown else fault["msg"]
                problems.append(problem_at(fault["loc"], message))
            raise FlowFileError(problems) from error
        root = self.root
        if root is None:
            is_at_address = self.path.parts[-3:] == Path(self.file).parts
            root = self.path.parents[2] if is_at_address else self.path.parent
        load_function = FunctionLoader(self.path.parent, root, frozen)
        model = entry.model or self.default_model
        load_flow = FlowLoader(self, root, model)
        builder = NodeBuilder(model, load_function, load_flow, self.check_model)
        builder.check(entry.model, ("model",))
        builder.add_all(entry.steps)
        faults = builder.all_faults()
        sources = (*load_function.sources, *load_flow.sources)
        if faults:
            raise FlowFileError([problem_at(loc, message) for loc, message in faults], sources)
        own = {MAIN_FILE: text, **load_function.texts}
        files = None if load_flow.texts is None else {**own, **load_flow.texts}
        return Flow(
            org=self.org,
            project=self.project,
            slug=self.slug,
            version=self.version,
            steps=in_order(builder.nodes),
            capture_mode=entry.capture,
            parameters=entry.parameters,
            description=entry.description,
            sources=sources,
            files=files,
            model=model,
            content_hash=content_hash({**own, **load_flow.hashes}, model),
        )

    def _error(self, line: int | None, field: str | None, message: str) -> FlowFileError:
        return FlowFileError([FlowProblem(self.file, line, field, message)])


def content_hash(files: Mapping[str, str], model: str) -> str:
    """Return the SHA-256 of a flow: of its files by name, and of the model of steps that name none."""
    content = {"files": dict(sorted(files.items())), "model": model}
    return hashlib.sha256(to_json(content)).hexdigest()
