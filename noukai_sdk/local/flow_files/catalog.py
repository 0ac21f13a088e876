"""Find flows in directories, and reload them when their files change."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FlowExecutionError, FlowNotFoundError
from ..workflow.plan import CaptureMode, Flow
from ..workflow.workflow import Workflow
from .flow_file import FlowFile, FlowFileError, FlowProblem
from .node_builder import CheckModel

BUNDLED = Path(__file__).parent / "bundled"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_FILE = re.compile(rf"({_NAME.pattern})(?:\.v([1-9][0-9]{{0,8}}))?\.(?:yaml|py)")

Stamp = tuple[int, int] | None
"""Modification time and size of a file, None if it does not exist."""


@dataclass
class _Loaded:
    """A file as last read.

    Attributes:
        sources: The file itself, then those that it names.
        stamps: The stamp of each source.
        flow: The last good version, None if there never was one.
        problems: What is wrong with the file now.
    """

    sources: tuple[Path, ...]
    stamps: tuple[Stamp, ...]
    flow: Flow | None = None
    problems: list[FlowProblem] = field(default_factory=list)


def unknown_flow(
    org: str, project: str, slug: str, version: int | None = None
) -> FlowNotFoundError:
    """Return the error for a flow that does not exist."""
    address = f"{org}/{project}/{slug}" + (f" in version {version}" if version else "")
    return FlowNotFoundError(f"there is no flow {address}", status_code=404, code="FLOW_NOT_FOUND")


@dataclass
class CatalogEntry:
    """A flow: its working copy, the versions in files or in code, and what is wrong with its files.

    Attributes:
        address: Organization, project and slug.
        flow: The working copy as it is served; None if it never was valid, or does not exist.
        versions: The versions, by number.
        problems: The faults of all files of this flow.
    """

    address: tuple[str, str, str]
    flow: Flow | None = None
    versions: dict[int, Flow] = field(default_factory=dict)
    problems: list[FlowProblem] = field(default_factory=list)


class FlowCatalog:
    """Finds flows by address in ``<directory>/<org>/<project>/<slug>.yaml``.

    ``<slug>.v3.yaml`` is published version 3; the file without a number is the working copy. A
    ``.py`` file in the same place contains a :class:`~noukai_sdk.local.workflow.workflow.Workflow`
    named ``workflow``; one whose name starts with ``_`` contains functions for the others. A file is
    read again when its time or size changes. While it is invalid, the last good version is served
    and :meth:`problems` lists the faults; other flows are not affected.

    Args:
        *directories: Searched in this order.
        bundled: Search the samples of this package last.
        default_model: The model of steps if neither they nor their flow name one.
        check_model: Called with each model that a YAML file names; a LlmConfigError that it raises is
            a problem of the file. None accepts any name.

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
        """Serve a workflow that was built in code. It overrides a file with the same address.

        Args:
            address: ``"org/project/slug"``.
            workflow: Served as it is now; later changes have no effect.
            version: The published version, None for the working copy.
            capture_mode: How much of a run is stored.

        Raises:
            ValueError: The address is not three names of letters, digits, ``-`` and ``_``.
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
        """Return the flow at this address, as its file is now.

        Args:
            org: The organization: the first folder.
            project: The second folder.
            slug: The file's name without its suffix.
            version: The published version; None or 0 for the working copy.

        Raises:
            FlowNotFoundError: There is no such flow or version.
            FlowExecutionError: Its file is invalid and always was; code ``INVALID_TREE``.
        """
        flow, problems = self.current(org, project, slug, version)
        if flow is None:
            raise _invalid(problems)
        return flow

    def current(
        self, org: str, project: str, slug: str, version: int | None = None
    ) -> tuple[Flow | None, list[FlowProblem]]:
        """Return the flow that :meth:`get` serves, if any, and what is wrong with its file now.

        Raises:
            FlowNotFoundError: There is no such flow or version.
        """
        registered = self._registered.get((org, project, slug, version or 0))
        if registered is not None:
            return registered, []
        stem = f"{slug}.v{version}" if version else slug
        # Names come from URLs: only plain ones may become part of a path.
        if all(map(_NAME.fullmatch, (org, project, slug))):
            for directory in self._directories:
                for suffix in ("yaml", "py"):
                    file = Path(org, project, f"{stem}.{suffix}")
                    loaded = None if _has_functions(file) else self._load(directory, file)
                    if loaded is not None:
                        return loaded.flow, loaded.problems
        raise unknown_flow(org, project, slug, version)

    def frozen(
        self,
        org: str,
        project: str,
        slug: str,
        version: int,
        files: Mapping[str, str],
        model: str,
    ) -> Flow:
        """Return a published version from the texts of its files, as :attr:`Flow.files` had them.

        Raises:
            FlowExecutionError: It names a function that does not exist here; code ``INVALID_TREE``.
        """
        folder = self._directories[0] if self._directories else Path()
        file = Path(org, project, f"{slug}.v{version}.yaml")
        try:
            return FlowFile(
                path=folder / file,
                file=file.as_posix(),
                org=org,
                project=project,
                slug=slug,
                version=version,
                default_model=model,
                frozen=files,
            ).read()
        except FlowFileError as error:
            raise _invalid(error.problems) from error

    def all(self) -> list[Flow]:
        """Return every flow that can be served, by address, the working copy before the versions."""
        flows = dict(self._registered)
        for loaded in self._scan():
            if loaded.flow is not None:
                flow = loaded.flow
                flows.setdefault((flow.org, flow.project, flow.slug, flow.version or 0), flow)
        return [flows[address] for address in sorted(flows)]

    def problems(self) -> list[FlowProblem]:
        """Return what is wrong with the files as they are now, file by file."""
        return [problem for loaded in self._scan() for problem in loaded.problems]

    def entries(self, org: str | None = None, project: str | None = None) -> list[CatalogEntry]:
        """Return every flow with its versions and problems, by address.

        Args:
            org: Only flows of this organization.
            project: Only flows of this project of ``org``.
        """
        names = (org, project)
        if not all(name is None or _NAME.fullmatch(name) for name in names):
            return []
        entries: dict[tuple[str, str, str], CatalogEntry] = {}

        def add(address: tuple[str, str, str], version: int, flow: Flow | None) -> CatalogEntry:
            entry = entries.setdefault(address, CatalogEntry(address))
            if flow is not None and version:
                entry.versions.setdefault(version, flow)
            elif flow is not None and entry.flow is None:
                entry.flow = flow
            return entry

        for (*place, slug, version), flow in self._registered.items():
            if all(name in (None, part) for name, part in zip(names, place, strict=True)):
                add((place[0], place[1], slug), version, flow)
        for loaded in self._scan(f"{org or '*'}/{project or '*'}"):
            *_, org_name, project_name, file = loaded.sources[0].parts
            slug, *rest = file.split(".")
            version = int(rest[0][1:]) if loaded.flow is not None and len(rest) > 1 else 0
            entry = add((org_name, project_name, slug), version, loaded.flow)
            entry.problems += loaded.problems
        for entry in entries.values():
            entry.versions = dict(sorted(entry.versions.items()))
        return [entries[address] for address in sorted(entries)]

    def _scan(self, folders: str = "*/*") -> Iterator[_Loaded]:
        for directory in self._directories:
            for suffix in ("yaml", "yml", "py"):  # a .yml file is a problem to report
                for path in sorted(directory.glob(f"{folders}/*.{suffix}")):
                    if _has_functions(path):
                        continue
                    loaded = self._load(directory, path.relative_to(directory))
                    if loaded is not None:
                        yield loaded

    def _load(self, directory: Path, file: Path) -> _Loaded | None:
        path = directory / file
        with self._lock:
            known = self._loaded.get(path)
            sources = known.sources if known else (path,)
            stamps = tuple(map(_stamp, sources))
            if stamps[0] is None and not path.is_symlink():
                self._loaded.pop(path, None)
                return None
            if known is None or known.stamps != stamps:
                known = self._read(path, file, known.flow if known else None)
                self._loaded[path] = known
            return known

    def _read(self, path: Path, file: Path, last_good: Flow | None) -> _Loaded:
        # Taken before the file is read, so that a change in between is noticed the next time.
        stamp = _stamp(path)
        flow, problems = last_good, []
        try:
            flow = self._parse(path, file)
            others = flow.sources
        except FlowFileError as error:
            others, problems = error.sources, error.problems
        return _Loaded((path, *others), (stamp, *map(_stamp, others)), flow, problems)

    def _parse(self, path: Path, file: Path) -> Flow:
        match = _FILE.fullmatch(file.name)
        org, project = file.parts[:2]
        if match is None or not (_NAME.fullmatch(org) and _NAME.fullmatch(project)):
            message = (
                "not <org>/<project>/<slug>.yaml or .../<slug>.v3.yaml, of letters, digits, - and _"
            )
            raise FlowFileError([FlowProblem(file.as_posix(), None, None, message)])
        if path.suffix == ".py" and path.with_suffix(".yaml").exists():
            message = "not used: there is a .yaml file of the same name"
            raise FlowFileError([FlowProblem(file.as_posix(), None, None, message)])
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


def _has_functions(path: Path) -> bool:
    """Return whether the file holds functions for flows, and is not a flow itself."""
    return path.suffix == ".py" and path.name.startswith("_")


def _invalid(problems: Sequence[FlowProblem]) -> FlowExecutionError:
    message = f"the flow file is invalid: {'; '.join(map(str, problems))}"
    return FlowExecutionError(message, status_code=422, code="INVALID_TREE")


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
