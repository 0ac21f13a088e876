"""Large payloads in an object store: a folder, or a bucket such as ``s3://bucket/prefix``.

A column of more than 64 kB becomes an object before its row is committed, and the row refers to it. The
name of an object is its organisation, its run and the SHA-256 of its content: a run that is written again
stores nothing twice, and a run is deleted with its folder.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .tables import deleted_blobs, executions

if TYPE_CHECKING:
    from .engine import Engine
    from .writer import Changes, Writer

T = TypeVar("T")

MAX_INLINE = 64 * 1024
"""A value with at most so many bytes stays in its row."""

COLUMNS = {
    "executions": ("request", "tool_rounds", "result"),
    "steps": ("input", "output"),
    "events": ("body",),
}
"""The columns whose values can be objects."""

# JSON does not begin with this character.
_MARK = "@"
_THREADS = 16
# Seconds for a group of objects, and for each object and each megabyte in it.
_TIMEOUT, _FOR_ONE, _FOR_MEGABYTE = 5.0, 0.1, 0.5
_DELETED_AT_ONCE = 100
_MAX_KNOWN = 10_000


class BlobsUnavailableError(OSError):
    """The object store cannot be used at this moment, or an object is missing or damaged."""


class Blobs:
    """The object store of a backend; every process of a service must use the same. ``aclose`` it.

    Args:
        url: A folder, or a URL of fsspec.

    Raises:
        ImportError: fsspec, or its driver for the URL, is not installed.
        ValueError: The URL is not valid.
    """

    def __init__(self, url: str | Path) -> None:
        # Imported here: most backends have no object store.
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it has no types

        text = str(url)
        is_folder = self._is_folder = "://" not in text or text.startswith("file://")
        self._fs, root = url_to_fs(text, **({"auto_mkdir": True} if is_folder else {}))
        self._root = str(root).rstrip("/")
        if is_folder:
            Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._threads = ThreadPoolExecutor(_THREADS, "noukai-blobs")
        self._known: dict[str, None] = {}

    async def aclose(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def offload(self, changes: Sequence[Changes]) -> None:
        """Store the large values of these rows as objects, and put references in their place.

        Raises:
            BlobsUnavailableError: An object cannot be stored. No row has changed.
        """
        orgs = {row["id"]: row["org"] for change in changes for row in change.executions}
        replaced: list[tuple[dict[str, Any], str, str]] = []
        objects: dict[str, bytes] = {}
        for change in changes:
            for table, columns in COLUMNS.items():
                for row in getattr(change, table):
                    for column in columns:
                        text = row.get(column)
                        # In UTF-8, a text has at most four times as many bytes as characters.
                        if text is None or len(text) * 4 <= MAX_INLINE:
                            continue
                        data = text.encode()
                        if len(data) <= MAX_INLINE:
                            continue
                        run = row["id"] if table == "executions" else row["execution_id"]
                        key = f"{orgs[run]}/{run}/{hashlib.sha256(data).hexdigest()}"
                        objects[key] = data
                        replaced.append((row, column, _MARK + key))
        new = [(key, data) for key, data in objects.items() if key not in self._known]
        await self._each(self._put, new)
        for row, column, reference in replaced:
            row[column] = reference
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        self._known.update(dict.fromkeys(objects))

    async def restore(self, rows: Sequence[Any], columns: Sequence[str]) -> None:
        """Put the objects in the place of the references in these columns.

        Raises:
            BlobsUnavailableError: An object cannot be read.
        """
        places = [
            (row, column, row[column][len(_MARK) :])
            for row in rows
            for column in columns
            if is_reference(row[column])
        ]
        keys = list(dict.fromkeys(key for *_, key in places))
        texts = dict(zip(keys, await self._each(self._get, [(key,) for key in keys]), strict=True))
        for row, column, key in places:
            row[column] = texts[key]

    async def delete_marked(self, engine: Engine) -> None:
        """Delete the objects of the runs in ``deleted_blobs``.

        A run is marked in the transaction that deletes its rows, so that no object is forgotten when the
        object store cannot be used just then.
        """
        while True:
            async with engine.connect() as connection:
                chosen = select(deleted_blobs.c.run).limit(_DELETED_AT_ONCE)
                runs = (await connection.execute(chosen)).scalars().all()
            if not runs:
                return
            await self._each(self._delete, [(run,) for run in runs])
            # The runs have ended: none of them is written again.
            async with engine.begin() as connection:
                done = deleted_blobs.c.run.in_(runs)
                await connection.execute(delete(deleted_blobs).where(done))

    async def _each(self, work: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        """Call ``work`` with each tuple of arguments, in threads."""
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._threads, work, *each) for each in arguments]
        size = sum(len(each[1]) for each in arguments if len(each) > 1) / 1e6
        timeout = _TIMEOUT + _FOR_ONE * len(arguments) + _FOR_MEGABYTE * size
        try:
            return await asyncio.wait_for(asyncio.gather(*calls), timeout)
        except BlobsUnavailableError:
            raise
        except asyncio.TimeoutError as error:
            message = f"the object store has not responded within {timeout:.0f} s"
            raise BlobsUnavailableError(message) from error
        # Each driver has errors of its own.
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise BlobsUnavailableError(f"the object store cannot be used: {reason}") from error

    def _put(self, key: str, data: bytes) -> None:
        path = f"{self._root}/{key}"
        # An object that is there may be read at this moment. One that was cut off by a crash is smaller.
        with suppress(FileNotFoundError):
            if self._fs.size(path) == len(data):
                return
        self._fs.pipe_file(path, data)
        if self._is_folder:
            Path(path).chmod(0o600)

    def _get(self, key: str) -> str:
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{key}")
        except FileNotFoundError as error:
            message = f"the object {key} is missing: is --blobs the store it was written to?"
            raise BlobsUnavailableError(message) from error
        if hashlib.sha256(data).hexdigest() != key.rpartition("/")[2]:
            raise BlobsUnavailableError(f"the object {key} is damaged")
        return data.decode()

    def _delete(self, run: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm(f"{self._root}/{run}", recursive=True)


async def mark_deleted(
    connection: AsyncConnection, writer: Writer, runs: ColumnElement[bool]
) -> None:
    """Note that the objects of these runs are to be deleted, in the transaction that deletes their rows.

    Args:
        connection: The transaction.
        writer: The writer of the database.
        runs: The condition for the rows of ``executions``.
    """
    if writer.blobs is not None:
        names = select(executions.c.org + "/" + executions.c.id).where(runs)
        marked = writer.insert(deleted_blobs).from_select(["run"], names)
        await connection.execute(marked.on_conflict_do_nothing())


def is_reference(text: str | None) -> bool:
    """Return True if a column has a reference to an object, and not the value itself."""
    return text is not None and text.startswith(_MARK)


async def restore(blobs: Blobs | None, rows: Sequence[Any], *columns: str) -> None:
    """Put the objects in the place of the references in these columns, if there are any.

    Raises:
        BlobsUnavailableError: An object cannot be read, or there is no object store.
    """
    if blobs is not None:
        await blobs.restore(rows, columns)
    elif any(is_reference(row[column]) for row in rows for column in columns):
        message = (
            "payloads are in an object store: start the backend with the same --blobs as before"
        )
        raise BlobsUnavailableError(message)
