"""What ``noukai dev``, ``noukai serve`` and ``noukai worker`` share."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from . import missing_modules, packages_to_install
from .shared_options import CommandError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from ..backend.settings import Settings

# Seconds to store what is left, and to close.
_CLEAN_UP = 20.0

# New objects after which the collector looks at the new ones.
_COLLECT_AFTER = 10_000
# Seconds after which what exists is not looked at any more. By then DBOS is imported, which is the most.
_FREEZE_AFTER = 5.0

_MODULES = (
    "fastapi",
    "uvicorn",
    "sqlalchemy",
    "aiosqlite",
    "alembic",
    "dbos",
    "filelock",
    "orjson",
    "yaml",
)


def require_backend(command: str, *, ui: bool = False) -> None:
    """Raise CommandError, with the packages to install, if the backend, or its page, cannot be imported."""
    missing = missing_modules(*_MODULES, *(["jinja2"] if ui else []))
    if missing:
        packages = packages_to_install(*missing)
        raise CommandError(f"{command} needs {', '.join(missing)}: pip install {packages}")


def check_database(settings: Settings) -> None:
    """Open and close the database, because the server would report a problem with a traceback.

    Raises:
        CommandError: It cannot be opened.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from ..backend.store.database import open_database

    async def open_and_close() -> None:
        await (await open_database(settings.database_url)).aclose()

    try:
        asyncio.run(open_and_close())
    # TypeError: asyncpg takes the query of the URL as keyword arguments, and may not know them.
    except (SQLAlchemyError, ModuleNotFoundError, OSError, TypeError) as error:
        reason = getattr(error, "orig", None) or error
        raise CommandError(
            f"cannot open the database {settings.database_name}: {reason}"
        ) from error


def check_blobs(settings: Settings) -> None:
    """Raise CommandError if payloads cannot be stored where the settings say."""
    if settings.blobs is None:
        return
    from ..backend.store.blobs import Blobs

    try:
        Blobs(settings.blobs)
    except (ImportError, OSError, ValueError) as error:
        hint = (
            ": pip install fsspec, and its driver, such as s3fs"
            if isinstance(error, ImportError)
            else ""
        )
        raise CommandError(f"--blobs {settings.blobs}: {error}{hint}") from error


def listen_on(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise CommandError if the address cannot be used."""
    from ..backend.server import listen

    try:
        return listen(host, port)
    except OSError as error:
        message = f"cannot listen on {host} port {port}: {error}"
        if error.errno == errno.EADDRINUSE:
            message = (
                f"port {port} of {host} is already in use. Stop the process that uses it, or choose "
                "another port with --port."
            )
        raise CommandError(message) from error


def page_url(host: str, port: int) -> str:
    """Return the address of the page of a backend that listens on this address."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def base_url(host: str, port: int) -> str:
    """Return the base URL of a backend that listens on this address."""
    from ..backend.app import BASE

    return page_url(host, port).removesuffix("/") + BASE


def end_after(seconds: float) -> threading.Timer:
    """Return a timer that ends the process; start it when the process is told to stop.

    A thread that waits for a database that hangs cannot be stopped, and Python would wait for it.
    """

    def end() -> None:
        # What is not finished is what kill -9 leaves, too: other processes go on with it.
        os.write(2, b"Error: the database does not respond: exiting without it\n")
        os._exit(1)

    timer = threading.Timer(seconds + _CLEAN_UP, end)
    timer.daemon = True
    return timer


def spare_collector() -> None:
    """Let Python's collector of cycles look at less; call it on the event loop when the server listens.

    Otherwise it takes a sixth of the processor's time under load: it looks again and again at the calls in
    progress, and at all that was imported.
    """
    gc.set_threshold(_COLLECT_AFTER)
    asyncio.get_running_loop().call_later(_FREEZE_AFTER, gc.freeze)


def serve_app(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    logged: ASGIApp,
    *,
    grace: float,
    after_startup: Callable[[], None] = lambda: None,
    before_shutdown: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal.

    Args:
        app: The backend.
        settings: Its settings.
        listener: The listening socket.
        logged: The middleware around the backend that logs requests.
        grace: Seconds for calls in progress to end.
        after_startup: Called on the event loop when the server listens.
        before_shutdown: Called on the event loop when the server is told to stop.
    """
    from ..backend.connections import ConnectionLimits, Connections
    from ..backend.server import create_server

    limits = ConnectionLimits(max_connections=settings.max_connections)
    app.state.metrics.connections = Connections(limits)

    deadline = end_after(grace + settings.drain_seconds)

    def begin() -> None:
        spare_collector()
        after_startup()

    def drain() -> None:
        deadline.start()
        app.state.is_draining = True
        # The live trace of a paused run never ends by itself, and the server would wait for it.
        app.state.channels.close()
        before_shutdown()

    server = create_server(
        logged,
        grace=grace,
        connections=app.state.metrics.connections,
        after_startup=begin,
        before_shutdown=drain,
    )
    try:
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        deadline.cancel()
