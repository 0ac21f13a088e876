"""Locks that end with their process: one byte of a file for each run.

The operating system frees them when the process dies, however it dies, so that nobody has to guess whether
an owner is alive. Such locks belong to a process as a whole; within it, a set of those held does the same.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, number: int) -> None:
        os.lseek(fd, number, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _unlock(fd: int, number: int) -> None:
        os.lseek(fd, number, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(fd: int, number: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)

    def _unlock(fd: int, number: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, number)


class FileLocks:
    """The locks of one file. Make them with :meth:`of`: closing a second descriptor would free all."""

    _by_path: dict[str, FileLocks] = {}
    _guard = threading.Lock()

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._held: set[int] = set()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, path: Path) -> FileLocks:
        """Return the locks of this file, which is created if it does not exist."""
        name = os.path.realpath(path)
        with cls._guard:
            if name not in cls._by_path:
                cls._by_path[name] = cls(name)
            return cls._by_path[name]

    def acquire(self, number: int) -> bool:
        """Lock a number; return False if it is locked, by this process or another."""
        with self._lock:
            if number in self._held:
                return False
            try:
                _lock(self._fd, number)
            except OSError:
                return False
            self._held.add(number)
            return True

    def release(self, number: int) -> None:
        """Free a number. Do nothing if it is not locked."""
        with self._lock:
            if number in self._held:
                self._held.discard(number)
                _unlock(self._fd, number)

    def is_held(self, number: int) -> bool:
        """Return whether a number is locked, by this process or another."""
        with self._lock:
            if number in self._held:
                return True
            try:
                _lock(self._fd, number)
            except OSError:
                return True
            _unlock(self._fd, number)
            return False

    @classmethod
    def forget(cls) -> None:
        """Reset to no locks. For forked children, which do not inherit them."""
        cls._guard = threading.Lock()
        cls._by_path = {}


# Windows cannot fork and lacks the function.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=FileLocks.forget)
