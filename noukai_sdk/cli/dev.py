"""``noukai dev``: the local backend."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from .flow_options import folder, folders, import_from_here, model
from .ports import PortTakenError, listen

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..backend.settings import Settings
    from ..local.flow_files.catalog import FlowCatalog

# Seconds that calls in progress are given to end once the server was told to stop.
_GRACE = 2
# Seconds that an idle connection is kept: longer than clients keep theirs (httpx 5, aiohttp 15), so that
# none sends a request on a connection that is being closed.
_KEEP_ALIVE = 75


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one. Clients with env='dev' look at 8080.",
)
@folder
@click.option(
    "--db",
    default=".noukai/dev.db",
    show_default=True,
    help="Database file for runs and sessions, or an SQLAlchemy URL.",
)
@model
def dev(host: str, port: int, directory: Path | None, db: str, model: str) -> None:
    """Serve flows on this machine, as the hosted service does.

    Keys beside nk_dev: NOUKAI_DEV_KEYS="nk_ci,nk_other:otherorg". Sessions expire after
    NOUKAI_DEV_RETENTION_DAYS days, if that is set.
    """
    try:
        import uvicorn  # noqa: F401 - the server comes last, and must not be missed only then

        from ..backend.app import create_app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "noukai_sdk":
            raise
        raise click.ClickException(
            f"noukai dev needs {missing}: pip install 'noukai-sdk[backend]'"
        ) from error
    settings = _settings(directory, db, model)
    import_from_here()
    _check_database(settings)
    with _listener(host, port) as listener:
        app = create_app(settings)
        _introduce(Console(soft_wrap=True, highlight=False), settings, app.state.catalog, listener)
        _serve(app, listener)


def _settings(directory: Path | None, db: str, model: str) -> Settings:
    from ..backend.settings import Settings, keys_from, retention_from

    try:
        settings = Settings(
            database=db,
            flows=folders(directory),
            keys=keys_from(os.environ.get("NOUKAI_DEV_KEYS", "")),
            model=model,
            retention_days=retention_from(os.environ.get("NOUKAI_DEV_RETENTION_DAYS", "")),
        )
        file = settings.database_file
        if file is not None and file.is_dir():
            raise click.UsageError(f"--db: {file} is a folder; name a file in it")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"cannot make the folder of {settings.database_name}: {error}"
        ) from error
    return settings


def _check_database(settings: Settings) -> None:
    """Open the database once ahead of the server, whose own report would be a page of traceback."""
    from sqlalchemy.exc import SQLAlchemyError

    from ..backend.store.database import open_database

    async def open_and_close() -> None:
        await (await open_database(settings.database_url)).aclose()

    try:
        asyncio.run(open_and_close())
    # asyncpg takes the query of a URL as arguments: what it does not know is a TypeError.
    except (SQLAlchemyError, ModuleNotFoundError, OSError, TypeError) as error:
        reason = getattr(error, "orig", None) or error
        raise click.ClickException(
            f"cannot open the database {settings.database_name}: {reason}"
        ) from error


def _listener(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except PortTakenError as error:
        raise click.ClickException(f"{error}. End it, or choose another by --port.") from error
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host} port {port}: {error}") from error


def _introduce(
    console: Console, settings: Settings, catalog: FlowCatalog, listener: socket.socket
) -> None:
    from ..backend.app import BASE
    from ..backend.settings import DEV_KEY

    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    console.print(f"Noukai, local: [bold]http://{host}:{port}{BASE}[/]")
    others = len(settings.keys) - 1
    more = f" and {others} more from NOUKAI_DEV_KEYS" if others else ""
    console.print(f"API key: [bold]{DEV_KEY}[/]{more}")
    console.print(f"Database: {escape(settings.database_name)}")
    console.print("Flows:")
    for flow in catalog.all():
        version = f" v{flow.version}" if flow.version else ""
        console.print(f"  {escape(str(flow))}{version}")
    for problem in catalog.problems():
        console.print(f"[red]Problem:[/] {escape(str(problem))}")
    console.print("Stop with Ctrl+C.")


def _serve(app: FastAPI, listener: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # A live trace of a paused run would keep the server waiting.
            app.state.channels.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        # There are none here: a request for one is answered as any other.
        ws="none",
        timeout_graceful_shutdown=_GRACE,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    with suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])
