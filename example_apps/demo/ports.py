"""Who holds a port."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"


def is_held(port: int) -> bool:
    """True where something listens on ``port`` of this machine."""
    try:
        socket.create_connection(("localhost", port), timeout=2).close()
    except OSError:
        return False
    return True


def holder_of(port: int) -> str:
    """The program that listens on ``port``, as far as this machine tells."""
    inodes = _listeners(port)
    for process in Path("/proc").glob("[0-9]*"):
        if inodes & _sockets_of(process):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            return f"process {process.name}: {command}"
    return f"a process that cannot be named from here: try `lsof -i :{port}`"


def _listeners(port: int) -> set[str]:
    """The inodes of the sockets that listen there (Linux; elsewhere there is no such table)."""
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    at_port = [row for row in rows if int(row[1].rpartition(":")[2], 16) == port]
    return {row[9] for row in at_port if row[3] == _LISTENING}


def _sockets_of(process: Path) -> set[str]:
    found = set()
    # A process may end, or close a file, while it is looked at; and it may be another user's.
    with suppress(OSError):
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found
