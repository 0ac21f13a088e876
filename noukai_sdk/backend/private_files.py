"""Create files and folders that only their owner can read: they hold what users sent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def create_private_folder(folder: Path) -> None:
    """Create a folder, with those above it, whatever the umask is. One that exists is not changed."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in (*reversed(missing), folder):
        path.mkdir(mode=0o700, exist_ok=True)


def create_private_file(file: Path) -> None:
    """Create an empty file, whatever the umask is. One that exists is not changed.

    SQLite gives its further files, ``-wal`` and ``-shm``, the permissions of the database file.
    """
    # Whoever opens a file that could not be created reports why.
    with suppress(OSError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
