"""Load the flows that the steps of a flow file run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..workflow.plan import DEEPEST, Flow
from .flow_entry import MAIN_FILE
from .node_builder import InnerFlowError

if TYPE_CHECKING:
    from .flow_file import FlowFile

_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Opened:
    """What is being read while a flow file is read.

    Attributes:
        stack: The files that are being read, each a part of the one before.
        loaded: The flows that were read, or why they cannot be used: by file, and model of its steps.
    """

    stack: tuple[Path, ...] = ()
    loaded: dict[tuple[Path, str], Flow | InnerFlowError] = field(default_factory=dict)


class FlowLoader:
    """Loads flows by slug, address or path: ``review``, ``acme/support/review``, ``../x/review.yaml``.

    Args:
        file: The file whose steps run the flows.
        root: The flow folder. The flows must be in it.
        model: The model of their steps, if neither they nor their flow name one.

    Attributes:
        sources: The files that were loaded so far, and those that do not exist.
        texts: Their texts, by the name that the flow has for them; None if one is Python.
        hashes: The content hash of each.
    """

    def __init__(self, file: FlowFile, root: Path, model: str) -> None:
        self.sources: list[Path] = []
        self.texts: dict[str, str] | None = {}
        self.hashes: dict[str, str] = {}
        self._file = file
        self._path = _plain(file.path)
        self._root = _plain(root)
        self._model = model

    def __call__(self, name: str) -> Flow:
        """Return the flow.

        Raises:
            InnerFlowError: There is no such flow, it cannot be used, or it runs the file's own flow.
        """
        path = self._find(name)
        self.sources.append(path)
        stack = (*self._file.opened.stack, self._path)
        if path in stack:
            files = [each.stem for each in (*stack[stack.index(path) :], path)]
            raise InnerFlowError([f"these flows run each other: {' -> '.join(files)}"])
        if len(stack) > DEEPEST:
            raise InnerFlowError([f"flows within flows are nested more than {DEEPEST} deep"])
        loaded = self._file.opened.loaded
        key = (path, self._model)
        if key not in loaded:
            loaded[key] = self._read(path, stack)
        flow = loaded[key]
        if isinstance(flow, InnerFlowError):
            self.sources += flow.sources
            raise flow
        self.sources += flow.sources
        prefix = self._prefix(path)
        self.hashes[prefix] = flow.content_hash or ""
        if flow.files is None:
            self.texts = None
        elif self.texts is not None:
            for file, text in flow.files.items():
                self.texts[file if file.startswith("flow:") else prefix + file] = text
        return flow

    def _find(self, name: str) -> Path:
        """Return the path of a flow file.

        Raises:
            InnerFlowError: The name is not that of a flow in the flow folder.
        """
        parts = name.split("/")
        is_path = name.endswith((".yaml", ".py"))
        folder = self._path.parent
        if is_path:
            path = _plain(folder / name)
            if not path.is_relative_to(self._root):
                raise InnerFlowError([f"{name} is not in the flow folder"])
            found = [path]
        elif len(parts) in (1, 3) and all(map(_ADDRESS.fullmatch, parts)):
            path = folder / name if len(parts) == 1 else self._root / name
            found = [path.with_name(f"{path.name}.{suffix}") for suffix in ("yaml", "py")]
        else:
            hint = "write 'slug', 'org/project/slug' or a path to a .yaml file"
            raise InnerFlowError([f"{name!r} is not a flow: {hint}"])
        for path in found:
            if self._exists(path):
                return path
        self.sources += found
        raise InnerFlowError([f"there is no flow {name}: {found[0].name} does not exist"])

    def _exists(self, path: Path) -> bool:
        frozen = self._file.frozen
        return path.is_file() if frozen is None else self._prefix(path) + MAIN_FILE in frozen

    def _prefix(self, path: Path) -> str:
        return f"flow:{path.relative_to(self._root).as_posix()}:"

    def _read(self, path: Path, stack: tuple[Path, ...]) -> Flow | InnerFlowError:
        from .flow_file import FlowFileError  # imports this module

        file = replace(
            self._file,
            path=path,
            file=path.relative_to(self._root).as_posix(),
            slug=path.stem,
            version=None,
            default_model=self._model,
            frozen=_frozen(self._file.frozen, self._prefix(path)),
            root=self._root,
            opened=replace(self._file.opened, stack=stack),
        )
        try:
            return file.read()
        except FlowFileError as error:
            return InnerFlowError(error.problems, error.sources)


def _plain(path: Path) -> Path:
    """Return the path without ``..``, so that equal files have equal paths."""
    return Path(os.path.normpath(path))


def _frozen(files: Mapping[str, str] | None, prefix: str) -> dict[str, str] | None:
    """Return the files of an inner flow, by its own names for them."""
    if files is None:
        return None
    return {
        name.removeprefix(prefix): text for name, text in files.items() if name.startswith("flow:")
    }
