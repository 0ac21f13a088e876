"""Name the cassette files of tests: one folder for each test module, one file for each test."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_FOLDER = "cassettes"
_SUFFIX = ".jsonl"
_LONGEST = 100
_UNSAFE = re.compile(r"[^\w.\[\]=+,@-]+", re.ASCII)


def cassette_path(module: Path, name: str) -> Path:
    """Return the file of test ``name``: ``cassettes/<module>/<name>.jsonl`` next to its module."""
    return module.parent / _FOLDER / module.stem / f"{safe_name(name)}{_SUFFIX}"


def safe_name(name: str) -> str:
    """Return a file name for ``name`` that every file system accepts, different for each name.

    A name that has to be changed gets a digest. So do parameters in capitals, because some file
    systems do not distinguish ``[A]`` from ``[a]``.

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
        self._used: set[Path] = set()

    def add_module(self, module: Path) -> None:
        """Note a module all of whose tests are known."""
        self._modules.add(module)

    def add_cassette(self, path: Path) -> None:
        """Note the cassette of a test, whether the file exists or not."""
        self._used.add(path)

    def orphans(self) -> list[Path]:
        """Return the files that belong to no test of the known modules, or to a deleted module."""
        orphans: list[Path] = []
        for root in {module.parent / _FOLDER for module in self._modules}:
            for folder in root.iterdir() if root.is_dir() else ():
                module = root.parent / f"{folder.name}.py"
                if module in self._modules or not module.exists():
                    files = folder.glob(f"*{_SUFFIX}")
                    orphans += [path for path in files if path not in self._used]
        return sorted(orphans)
