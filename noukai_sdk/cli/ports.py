"""Takes a port to listen on, and says who has it where it is taken."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


class PortTakenError(OSError):
    """Another process listens there; the message says which, where that can be told."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``; port 0 takes a free one.

    Raises:
        PortTakenError: The port is taken.
        OSError: The address cannot be used for another reason.
    """
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        who = " and ".join(holders(port)) or "another process"
        raise PortTakenError(f"port {port} of {host} is held by {who}") from error


def holders(port: int) -> list[str]:
    """The processes that listen on ``port``, as far as Linux lets us see them; else none."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    if not wanted:
        return []
    return [_named(process) for process in sorted(PROC.glob("[0-9]*")) if _has(process, wanted)]


def _listening(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                # Field 1 is the local address in hex, field 3 the state (0A: listening).
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _has(process: Path, sockets: set[str]) -> bool:
    # Processes end, and those of other users are closed to us.
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False


def _named(process: Path) -> str:
    name = "a process"
    with suppress(OSError):
        name = (process / "comm").read_text().strip()
    return f"{name} (process {process.name})"
