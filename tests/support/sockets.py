"""Servers that misbehave below HTTP: each connection is handed to a function, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@contextmanager
def serve_sockets(handle: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """Gives the base URL and a list that grows by one with each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[int] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(1)
                threading.Thread(target=run, args=(connection,), daemon=True).start()

    def run(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            handle(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1", connections
    finally:
        # accept() does not wake by close() alone.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(30)


def read_request(connection: socket.socket) -> bytes:
    """The whole request."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head


def answer_once(closed: threading.Event) -> Callable[[socket.socket], None]:
    """Answers, promises to keep the connection, closes it, and sets ``closed``."""
    body = b'{"status": "completed", "result": 1}'

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(ANSWER + b"content-length: %d\r\n\r\n" % len(body) + body)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    return handle


def hang_up(connection: socket.socket) -> None:
    read_request(connection)


def hang_up_at_once(connection: socket.socket) -> None:
    pass


def reset(connection: socket.socket) -> None:
    read_request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def garbage(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def no_tls(connection: socket.socket) -> None:
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def cut_body(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(ANSWER + b'content-length: 100\r\n\r\n{"status": ')


def bad_gzip(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(ANSWER + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope")


def silence(connection: socket.socket) -> None:
    read_request(connection)
    connection.recv(1)
