"""Create files and folders that only their owner can read: they hold what users sent."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

_SECRET_BYTES = 32


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


def read_secret(file: Path) -> bytes:
    """Return the secret in a file, which is created if there is none; a new secret if it cannot be kept."""
    create_private_file(file)
    with suppress(OSError):
        content = file.read_bytes()
        if len(content) >= _SECRET_BYTES:
            return content
        content = secrets.token_bytes(_SECRET_BYTES)
        file.write_bytes(content)
        return content
    return secrets.token_bytes(_SECRET_BYTES)
