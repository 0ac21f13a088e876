"""The flows of one or more directories, reloaded when a file changes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FlowExecutionError, FlowNotFoundError
from ..workflow.plan import CaptureMode, Flow
from ..workflow.workflow import Workflow
from .flow_entry import CheckModel
from .flow_file import FlowFile, FlowFileError, FlowProblem

BUNDLED = Path(__file__).parent / "bundled"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_FILE = re.compile(rf"({_NAME.pattern})(?:\.v([1-9][0-9]{{0,8}}))?\.(?:yaml|py)")
_KINDS = ("yaml", "yml", "py")

Stamp = tuple[tuple[int, int] | None, ...]


@dataclass
class _Loaded:
    """A file as last seen: the last good flow, and what is wrong with it now.

    Attributes:
        sources: The file itself, then those that it names.
        stamp: When and how large they were.
    """

    sources: tuple[Path, ...]
    stamp: Stamp
    flow: Flow | None = None
    problems: list[FlowProblem] = field(default_factory=list)


class FlowCatalog:
    """Finds flows by address in ``<directory>/<org>/<project>/<slug>.yaml``.

    ``<slug>.v3.yaml`` is published version 3; the file without a number is the working copy. A
    ``.py`` file in the same place holds a :class:`~noukai_sdk.local.workflow.workflow.Workflow` under the
    name ``workflow``; one whose name starts with ``_`` holds functions for the others. A file is
    read again when its time or size has changed. Where it turns bad, the last good version goes on
    being served and the fault is listed by :meth:`problems`; the other flows are not touched.

    Args:
        *directories: Searched in this order.
        bundled: Search the samples of this package last.
        default_model: The model of steps where neither they nor their flow name one.
        check_model: Called with each model that a YAML file names; the LlmConfigError that it raises is
            a problem of the file. None takes any name.

    Example:
        >>> catalog = FlowCatalog()
        >>> [step.id for step in catalog.get("acme", "samples", "two-step").steps]
        ['draft', 'polish']
    """

    def __init__(
        self,
        *directories: Path,
        bundled: bool = True,
        default_model: str = "offline",
        check_model: CheckModel | None = None,
    ) -> None:
        self._directories = [Path(d) for d in directories] + ([BUNDLED] if bundled else [])
        self._default_model = default_model
        self._check_model = check_model
        self._registered: dict[tuple[str, str, str, int], Flow] = {}
        self._loaded: dict[Path, _Loaded] = {}
        self._lock = threading.Lock()

    def register(
        self,
        address: str,
        workflow: Workflow,
        *,
        version: int | None = None,
        capture_mode: CaptureMode = "full",
    ) -> Flow:
        """Serve a workflow that was built in code. It comes before a file of the same address.

        Args:
            address: ``"org/project/slug"``.
            workflow: What to serve, as it is now.
            version: A published version, None for the working copy.
            capture_mode: How much of a run is stored.

        Raises:
            ValueError: The address has not three names of letters, digits, ``-`` and ``_``.
            WorkflowError: The workflow cannot run.
        """
        names = address.split("/")
        if len(names) != 3 or not all(map(_NAME.fullmatch, names)):
            raise ValueError(f"an address is 'org/project/slug', not {address!r}")
        org, project, slug = names
        flow = workflow.as_flow(
            org,
            project,
            slug,
            version=version or None,
            capture_mode=capture_mode,
            model=self._default_model,
        )
        self._registered[(org, project, slug, version or 0)] = flow
        return flow

    def get(self, org: str, project: str, slug: str, version: int | None = None) -> Flow:
        """The flow at this address, as its file is now.

        Args:
            org: The organisation: the first folder.
            project: The second folder.
            slug: The file's name, without its ending.
            version: A published version; None or 0 for the working copy.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            FlowExecutionError: Its file is bad and never was good; code ``INVALID_TREE``.
        """
        registered = self._registered.get((org, project, slug, version or 0))
        if registered is not None:
            return registered
        stem = f"{slug}.v{version}" if version else slug
        # Names come from URLs: only plain ones may become part of a path.
        if all(map(_NAME.fullmatch, (org, project, slug))):
            for directory in self._directories:
                found = self._find(directory, Path(org, project, stem))
                if found is not None:
                    return _flow_of(found)
        wanted = f"{org}/{project}/{slug}" + (f" in version {version}" if version else "")
        raise FlowNotFoundError(
            f"there is no flow {wanted}", status_code=404, code="FLOW_NOT_FOUND"
        )

    def all(self) -> list[Flow]:
        """Every flow that can be served, by address, the working copy before the versions."""
        flows = dict(self._registered)
        for loaded in self._scan():
            if loaded.flow is not None:
                flow = loaded.flow
                flows.setdefault((flow.org, flow.project, flow.slug, flow.version or 0), flow)
        return [flows[address] for address in sorted(flows)]

    def problems(self) -> list[FlowProblem]:
        """What is wrong with the files as they are now, file by file."""
        return [problem for loaded in self._scan() for problem in loaded.problems]

    def _find(self, directory: Path, stem: Path) -> _Loaded | None:
        # A slug has no dot, so that adding an ending cannot replace a part of it.
        in_yaml = self._load(directory, stem.with_name(f"{stem.name}.yaml"))
        return in_yaml or self._load(directory, stem.with_name(f"{stem.name}.py"))

    def _scan(self) -> Iterator[_Loaded]:
        for directory in self._directories:
            for kind in _KINDS:
                for path in sorted(directory.glob(f"*/*/*.{kind}")):
                    is_flow = kind != "py" or not path.name.startswith("_")
                    loaded = self._load(directory, path.relative_to(directory)) if is_flow else None
                    if loaded is not None:
                        yield loaded

    def _load(self, directory: Path, file: Path) -> _Loaded | None:
        path = directory / file
        with self._lock:
            known = self._loaded.get(path)
            sources = known.sources if known else (path,)
            stamp = _stamp(sources)
            if stamp[0] is None and not path.is_symlink():
                self._loaded.pop(path, None)
                return None
            if known is None or known.stamp != stamp:
                known = self._read(path, file, known.flow if known else None)
                self._loaded[path] = known
            return known

    def _read(self, path: Path, file: Path, last: Flow | None) -> _Loaded:
        # Taken before the files are read: a change in between is seen at the next look.
        before = {path: _stamp((path,))[0]}
        try:
            flow = self._parse(path, file)
        except FlowFileError as error:
            sources = (path, *error.sources)
            return _Loaded(sources, _kept(before, sources), last, error.problems)
        sources = (path, *flow.sources)
        return _Loaded(sources, _kept(before, sources), flow)

    def _parse(self, path: Path, file: Path) -> Flow:
        match = _FILE.fullmatch(file.name)
        org, project = file.parts[:2]
        problem = None
        if match is None or not (_NAME.fullmatch(org) and _NAME.fullmatch(project)):
            problem = (
                "not <org>/<project>/<slug>.yaml or .../<slug>.v3.yaml, of letters, digits, - and _"
            )
        elif path.suffix == ".py" and path.with_suffix(".yaml").exists():
            problem = "not used: there is a .yaml file of the same name"
        if match is None or problem:
            raise FlowFileError([FlowProblem(file.as_posix(), None, None, problem or "")])
        return FlowFile(
            path=path,
            file=file.as_posix(),
            org=org,
            project=project,
            slug=match[1],
            version=int(match[2]) if match[2] else None,
            default_model=self._default_model,
            check_model=self._check_model,
        ).read()


def _stamp(sources: tuple[Path, ...]) -> Stamp:
    return tuple(map(_stamp_of, sources))


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _kept(before: dict[Path, tuple[int, int] | None], sources: tuple[Path, ...]) -> Stamp:
    return tuple(before[path] if path in before else _stamp_of(path) for path in sources)


def _flow_of(loaded: _Loaded) -> Flow:
    if loaded.flow is not None:
        return loaded.flow
    why = "; ".join(str(problem) for problem in loaded.problems)
    raise FlowExecutionError(f"the flow file is bad: {why}", status_code=422, code="INVALID_TREE")
