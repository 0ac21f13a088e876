"""Where the cassettes of tests are: one folder a test module, one file a test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

_FOLDER = "cassettes"
_SUFFIX = ".jsonl"
_LONGEST = 100
_UNSAFE = re.compile(r"[^\w.\[\]=+,@-]+", re.ASCII)


def cassette_path(module: Path, name: str) -> Path:
    """The file of the test ``name``: ``cassettes/<module>/<name>.jsonl`` beside its module."""
    return _folder(module) / f"{safe_name(name)}{_SUFFIX}"


def safe_name(name: str) -> str:
    """``name`` as every file system takes it, and as nothing that is not ``name``.

    A name that has to be changed carries a digest. So do parameters in capitals, because to some file
    systems ``[A]`` and ``[a]`` are the same.

    Example:
        >>> safe_name("test_grade[a]"), safe_name("test_grade[a/b]")
        ('test_grade[a]', 'test_grade[a-b]-11f64462')
    """
    safe = _UNSAFE.sub("-", name)[:_LONGEST].lstrip(".")
    _, _, parameters = name.partition("[")
    if safe == name and parameters == parameters.lower():
        return safe
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4)
    return f"{safe}-{digest.hexdigest()}"


class CassetteFolders:
    """The cassettes of the tests of one run."""

    def __init__(self) -> None:
        self._modules: set[Path] = set()
        self._wanted: set[Path] = set()

    def note_module(self, module: Path) -> None:
        """This module's tests are known, all of them."""
        self._modules.add(module)

    def note_cassette(self, path: Path) -> None:
        """A test has this cassette, or would have."""
        self._wanted.add(path)

    def orphans(self) -> list[Path]:
        """Files that belong to no test of the noted modules, or to a module that is gone."""
        roots = {module.parent / _FOLDER for module in self._modules}
        return sorted(path for root in roots if root.is_dir() for path in self._orphans_in(root))

    def _orphans_in(self, root: Path) -> Iterator[Path]:
        for folder in root.iterdir():
            module = root.parent / f"{folder.name}.py"
            if module in self._modules or not module.exists():
                files = folder.glob(f"*{_SUFFIX}")
                yield from (path for path in files if path not in self._wanted)


def _folder(module: Path) -> Path:
    return module.parent / _FOLDER / module.stem
