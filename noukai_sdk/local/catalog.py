"""The flows of one or more directories, reloaded when a file changes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FlowExecutionError, FlowNotFoundError
from .flow import Flow
from .flow_file import FlowFileError, FlowProblem, read_flow

BUNDLED = Path(__file__).parent / "bundled"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_FILE = re.compile(rf"({_NAME.pattern})(?:\.v([1-9][0-9]{{0,8}}))?\.yaml")


@dataclass
class _Loaded:
    """A file as last seen: the last good flow, and what is wrong with it now."""

    stamp: tuple[int, int]
    flow: Flow | None = None
    problems: list[FlowProblem] = field(default_factory=list)


class FlowCatalog:
    """Finds flows by address in ``<directory>/<org>/<project>/<slug>.yaml``.

    ``<slug>.v3.yaml`` is published version 3; the file without a number is the working copy. A file
    is read again when its time or size has changed. Where it turns bad, the last good version goes
    on being served and the fault is listed by :meth:`problems`; the other flows are not touched.

    Args:
        *directories: Searched in this order.
        bundled: Search the samples of this package last.
        default_model: The model of steps where neither they nor their flow name one.

    Example:
        >>> catalog = FlowCatalog()
        >>> [step.id for step in catalog.get("acme", "samples", "two-step").steps]
        ['draft', 'polish']
    """

    def __init__(
        self, *directories: Path, bundled: bool = True, default_model: str = "offline"
    ) -> None:
        self._directories = [Path(d) for d in directories] + ([BUNDLED] if bundled else [])
        self._default_model = default_model
        self._loaded: dict[Path, _Loaded] = {}
        self._lock = threading.Lock()

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
        file_name = f"{slug}.v{version}.yaml" if version else f"{slug}.yaml"
        # Names come from URLs: only plain ones may become part of a path.
        if all(_NAME.fullmatch(name) for name in (org, project, slug)):
            for directory in self._directories:
                found = self._load(directory, Path(org, project, file_name))
                if found is not None:
                    return _flow_of(found)
        wanted = f"{org}/{project}/{slug}" + (f" in version {version}" if version else "")
        raise FlowNotFoundError(
            f"there is no flow {wanted}", status_code=404, code="FLOW_NOT_FOUND"
        )

    def all(self) -> list[Flow]:
        """Every flow that can be served, by address, the working copy before the versions."""
        flows: dict[tuple[str, str, str, int], Flow] = {}
        for loaded in self._scan():
            if loaded.flow is not None:
                flow = loaded.flow
                flows.setdefault((flow.org, flow.project, flow.slug, flow.version or 0), flow)
        return [flows[address] for address in sorted(flows)]

    def problems(self) -> list[FlowProblem]:
        """What is wrong with the files as they are now, file by file."""
        return [problem for loaded in self._scan() for problem in loaded.problems]

    def _scan(self) -> Iterator[_Loaded]:
        for directory in self._directories:
            for path in sorted(directory.glob("*/*/*.yaml")) + sorted(directory.glob("*/*/*.yml")):
                loaded = self._load(directory, path.relative_to(directory))
                if loaded is not None:
                    yield loaded

    def _load(self, directory: Path, file: Path) -> _Loaded | None:
        path = directory / file
        with self._lock:
            stamp = _stamp(path)
            if stamp is None:
                self._loaded.pop(path, None)
                return None
            known = self._loaded.get(path)
            if known is None or known.stamp != stamp:
                known = self._read(path, file, known.flow if known else None, stamp)
                self._loaded[path] = known
            return known

    def _read(self, path: Path, file: Path, last: Flow | None, stamp: tuple[int, int]) -> _Loaded:
        try:
            return _Loaded(stamp, self._parse(path, file))
        except FlowFileError as error:
            return _Loaded(stamp, last, error.problems)
        except (OSError, UnicodeDecodeError) as error:
            problem = FlowProblem(file.as_posix(), None, None, f"cannot be read: {error}")
            return _Loaded(stamp, last, [problem])

    def _parse(self, path: Path, file: Path) -> Flow:
        match = _FILE.fullmatch(file.name)
        org, project = file.parts[:2]
        if match is None or not (_NAME.fullmatch(org) and _NAME.fullmatch(project)):
            message = (
                "not <org>/<project>/<slug>.yaml or .../<slug>.v3.yaml, of letters, digits, - and _"
            )
            raise FlowFileError([FlowProblem(file.as_posix(), None, None, message)])
        return read_flow(
            path.read_text(encoding="utf-8"),
            file=file.as_posix(),
            org=org,
            project=project,
            slug=match[1],
            version=int(match[2]) if match[2] else None,
            default_model=self._default_model,
        )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _flow_of(loaded: _Loaded) -> Flow:
    if loaded.flow is not None:
        return loaded.flow
    why = "; ".join(str(problem) for problem in loaded.problems)
    raise FlowExecutionError(f"the flow file is bad: {why}", status_code=422, code="INVALID_TREE")
