"""Run a WSGI application without a server, and collect each start and part of its response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class FileWrapper:
    """The server's ``wsgi.file_wrapper``."""

    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file = file
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        while data := self.file.read(self.size):
            yield data

    def close(self) -> None:
        self.file.close()


class Exchange:
    """One request to ``app``. ``written`` are the parts of ``write()`` calls and of the body."""

    def __init__(self, app: Any, *, replay: str | None = None, method: str = "GET") -> None:
        self.app = app
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": "/",
            "wsgi.file_wrapper": FileWrapper,
        }
        if replay is not None:
            self.environ["HTTP_X_NOUKAI_REPLAY"] = replay
        self.starts: list[tuple[str, list[tuple[str, str]], Any]] = []
        self.written: list[bytes] = []
        self.result: Iterable[bytes] = ()

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if self.starts and exc_info is None:
            raise AssertionError("started twice")
        if self.written and exc_info is not None:
            raise exc_info[1].with_traceback(exc_info[2])
        self.starts.append((status, headers, exc_info))
        return self.written.append

    def call(self) -> Exchange:
        self.result = self.app(self.environ, self.start_response)
        return self

    def run(self) -> Exchange:
        self.call()
        try:
            for part in self.result:
                self.written.append(part)
        finally:
            self.close()
        return self

    def close(self) -> None:
        close = getattr(self.result, "close", None)
        if close is not None:
            close()

    @property
    def status(self) -> int:
        return int(self.starts[-1][0].split()[0])

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(name.lower(), value) for name, value in self.starts[-1][1]]
        assert len(pairs) == len(dict(pairs)), f"duplicate header: {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(self.written)
