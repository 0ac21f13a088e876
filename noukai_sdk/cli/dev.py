"""``noukai dev``: serve flows on this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import threading
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..dashboard.app import Dashboard
from ..dashboard.options import DashboardOptions
from .backend_process import (
    base_url,
    check_blobs,
    check_database,
    listen_on,
    page_url,
    require_backend,
    serve_app,
)
from .dev_log import FlowWatcher, RequestLog, Terminal
from .shared_options import (
    CommandError,
    blobs_option,
    flow_folders,
    flows_option,
    let_flows_import,
    model_option,
    no_ui_option,
    replay_to_option,
    trusted_host_option,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..backend.settings import Settings

# Seconds for calls and jobs in progress to end after the server is told to stop.
_GRACE = 2
# Seconds after which the queue of jobs is opened, if no job has come.
_PREPARE_AFTER = 2.0


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 picks a free one. For a port other than 8080, clients need NOUKAI_BASE_URL.",
)
@flows_option
@click.option(
    "--db",
    default=".noukai/dev.db",
    show_default=True,
    help="Database file for runs and sessions, or an SQLAlchemy URL.",
)
@blobs_option
@model_option
@trusted_host_option
@click.option("--open", "opens_page", is_flag=True, help="Open the page in a browser.")
@no_ui_option
@replay_to_option
def dev(
    host: str,
    port: int,
    directory: Path | None,
    db: str,
    blobs: str | None,
    model: str,
    trusted_hosts: tuple[str, ...],
    opens_page: bool,
    no_ui: bool,
    replay_to: tuple[str, ...],
) -> None:
    """Serve flows on this machine, as the hosted service does.

    To accept API keys besides nk_dev, set NOUKAI_DEV_KEYS="nk_ci,nk_other:otherorg". On other addresses
    than loopback, nk_dev is not accepted: without NOUKAI_DEV_KEYS, a new key is printed. To let sessions
    expire, set NOUKAI_DEV_RETENTION_DAYS.
    """
    if opens_page and no_ui:
        raise click.UsageError("--open and --no-ui exclude each other")
    require_backend("noukai dev", ui=not no_ui)
    from ..backend.app import BASE, create_app
    from ..backend.private_files import read_secret
    from ..backend.settings import DEV_KEY
    from ..backend.trusted_hosts import TrustedHosts, loopback_hosts

    settings = _read_settings(directory, db, blobs, model)
    let_flows_import(settings.flows)
    check_database(settings)
    check_blobs(settings)
    with listen_on(host, port) as listener:
        settings, key = _add_key(settings, listener)
        hosts = (*loopback_hosts(host), *trusted_hosts)
        settings = replace(settings, trusted_hosts=hosts)
        app = create_app(settings)
        terminal = Terminal()
        page = None if no_ui else page_url(*_reached_at(listener))
        _print_summary(terminal, app, settings, key, listener, page)
        with FlowWatcher(app.state.catalog, terminal):
            logged = RequestLog(app, terminal, f"{BASE}/seq/", page)
            options = DashboardOptions(
                api_path=BASE,
                open_key=key if key == DEV_KEY else None,
                trusts_host=TrustedHosts(app, hosts).trusts,
                replay_to=replay_to,
                process_id=lambda: app.state.service.process_id,
            )
            if settings.database_file is not None and not no_ui:
                secret = read_secret(settings.database_file.with_suffix(".page-key"))
                options = replace(options, secret=secret)
            dashboard = Dashboard(logged, options, api=app)

            def after_startup() -> None:
                # Importing DBOS takes a second: not now, when calls are waiting, but before the first job.
                later = asyncio.get_running_loop().call_later
                later(_PREPARE_AFTER, app.state.service.jobs.prepare)
                if opens_page and page is not None:
                    # A browser in the terminal keeps its caller waiting.
                    threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()

            serve_app(
                app,
                settings,
                listener,
                logged if no_ui else dashboard,
                grace=_GRACE,
                after_startup=after_startup,
                before_shutdown=dashboard.close,
            )


def _reached_at(listener: socket.socket) -> tuple[str, int]:
    """Return the address by which this machine reaches a server that may listen on all addresses."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104  # only compared


def _read_settings(directory: Path | None, db: str, blobs: str | None, model: str) -> Settings:
    from ..backend.limits_from_env import limits_from
    from ..backend.private_files import create_private_folder
    from ..backend.settings import Settings, keys_from, retention_from

    try:
        settings = Settings(
            database=db,
            flows=flow_folders(directory),
            keys=keys_from(os.environ.get("NOUKAI_DEV_KEYS", "")),
            model=model,
            blobs=blobs,
            retention_days=retention_from(os.environ.get("NOUKAI_DEV_RETENTION_DAYS", "")),
            drain_seconds=_GRACE,
            **limits_from(os.environ),
        )
        file = settings.database_file
        if file is not None and file.is_dir():
            raise click.UsageError(f"--db: {file} is a folder; name a file in it")
        if file is not None:
            create_private_folder(file.parent)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise CommandError(
            f"cannot create the folder of {settings.database_name}: {error}"
        ) from error
    return settings


def _add_key(settings: Settings, listener: socket.socket) -> tuple[Settings, str | None]:
    """Add nk_dev on loopback. Elsewhere, add a new key if NOUKAI_DEV_KEYS names none.

    Returns:
        The settings, and the key to print: None if the user knows it already.
    """
    from ..backend.settings import DEV_KEY
    from ..backend.store.keys import new_key

    host = listener.getsockname()[0]
    named = settings.keys or {}
    key: str | None = None
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        key = DEV_KEY
    elif DEV_KEY in named:
        message = (
            f"NOUKAI_DEV_KEYS: everybody knows {DEV_KEY}, and {host} is not a loopback address: "
            "choose another key"
        )
        raise click.UsageError(message)
    elif not named:
        key = new_key()
    keys = named if key is None else {key: None, **named}
    return replace(settings, keys=keys), key


def _print_summary(
    terminal: Terminal,
    app: FastAPI,
    settings: Settings,
    key: str | None,
    listener: socket.socket,
    page: str | None,
) -> None:
    host, port = listener.getsockname()[:2]
    terminal.print(("Noukai, local: ", None), (base_url(host, port), "bold"))
    if page is not None:
        terminal.print(("Page: ", None), (page, "bold"))
    other_keys = len(settings.keys or {}) - (key is not None)
    if key is None:
        terminal.print((f"API keys: {other_keys} from NOUKAI_DEV_KEYS", None))
    else:
        more = f" and {other_keys} more from NOUKAI_DEV_KEYS" if other_keys else ""
        terminal.print(("API key: ", None), (key, "bold"), (more, None))
    terminal.print((f"Database: {settings.database_name}", None))
    terminal.print(("Flows:", None))
    for flow in app.state.catalog.all():
        version = f" v{flow.version}" if flow.version else ""
        terminal.print((f"  {flow}{version}", None))
    terminal.print(("Clients in other terminals need:", None))
    reached_at = base_url(*_reached_at(listener))
    variables = f"NOUKAI_BASE_URL={reached_at} NOUKAI_API_KEY={key or 'nk_...'}"
    terminal.print((f"  export {variables}", "bold"))
    terminal.print(("Stop with Ctrl+C.", None))
