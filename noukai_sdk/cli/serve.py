"""``noukai serve`` and ``noukai worker``: the service on many machines, over one Postgres."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..dashboard.app import Dashboard
from ..dashboard.options import DashboardOptions
from .backend_process import (
    base_url,
    check_blobs,
    check_database,
    end_after,
    listen_on,
    page_url,
    require_backend,
    serve_app,
    spare_collector,
)
from .shared_options import (
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
    from ..backend.request_observer import RequestObserver
    from ..backend.settings import Settings

# Each look of a live page at the service counts as a request of its organisation.
_LOOK_SECONDS = 5.0

database_option = click.option(
    "--db",
    required=True,
    envvar="NOUKAI_DB",
    show_envvar=True,
    metavar="URL",
    help="postgresql://user@host/name, the same for all processes of the service.",
)
grace_option = click.option(
    "--grace",
    default=20.0,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Seconds for work in progress to end after SIGTERM.",
)
log_option = click.option(
    "--log",
    type=click.Choice(["json", "text"]),
    default="json",
    show_default=True,
    help="A line of JSON for each request and record, or text for people.",
)
retention_option = click.option(
    "--retention-days",
    type=click.FloatRange(0, min_open=True),
    help="Let sessions expire after this number of days, except pinned ones.  [default: never]",
)


@click.command()
@database_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 picks a free one.",
)
@flows_option
@blobs_option
@model_option
@trusted_host_option
@retention_option
@grace_option
@log_option
@no_ui_option
@replay_to_option
def serve(
    db: str,
    host: str,
    port: int,
    directory: Path | None,
    blobs: str | None,
    model: str,
    trusted_hosts: tuple[str, ...],
    retention_days: float | None,
    grace: float,
    log: str,
    no_ui: bool,
    replay_to: tuple[str, ...],
) -> None:
    """Serve the HTTP API of a service. Run as many of these processes as you like.

    Jobs wait in the queue until a noukai worker takes them. Create API keys with noukai keys create. The
    page with sessions, flows and jobs asks for one of them. To let Prometheus read /metrics, set
    NOUKAI_METRICS_TOKEN.
    """
    require_backend("noukai serve", ui=not no_ui)
    from ..backend.app import BASE, create_app
    from ..backend.json_logs import JsonRequestLog
    from ..backend.trusted_hosts import TrustedHosts, loopback_hosts
    from .dev_log import RequestLog, Terminal

    hosts = (*loopback_hosts(host), *trusted_hosts) if trusted_hosts else None
    settings = _settings(
        "serve",
        db,
        directory,
        blobs,
        model,
        retention_days=retention_days,
        # A service has keys that no page of a browser knows: it answers for any name if none is given.
        trusted_hosts=hosts,
    )
    with listen_on(host, port) as listener:
        app = create_app(settings)
        click.echo(f"Noukai: {base_url(*listener.getsockname()[:2])}", err=True)
        if not no_ui:
            click.echo(f"Page: {page_url(*listener.getsockname()[:2])}", err=True)
        options = DashboardOptions(
            api_path=BASE,
            trusts_host=None if hosts is None else TrustedHosts(app, hosts).trusts,
            look_seconds=_LOOK_SECONDS,
            replay_to=replay_to,
            process_id=lambda: app.state.service.process_id,
            secret=_secret_of(settings),
            replay_to_loopback=False,  # other programs of the machine are not for all who have a key
        )
        dashboard = Dashboard(app, options)
        served = app if no_ui else dashboard
        logged: RequestObserver = JsonRequestLog(served)
        if log == "text":
            logged = RequestLog(served, Terminal(), prefix=f"{BASE}/seq/")
        serve_app(
            app,
            settings,
            listener,
            logged,
            grace=grace,
            after_startup=lambda: _set_up_logs(log),
            before_shutdown=dashboard.close,
        )


@click.command()
@database_option
@flows_option
@blobs_option
@model_option
@click.option(
    "--jobs",
    default=64,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="How many jobs to run at once.",
)
@retention_option
@grace_option
@log_option
@click.option(
    "--status-port",
    type=click.IntRange(0, 65535),
    help="Port for /healthz, /readyz and /metrics.  [default: none]",
)
@click.option(
    "--status-host", default="127.0.0.1", show_default=True, help="Address for these paths."
)
def worker(
    db: str,
    directory: Path | None,
    blobs: str | None,
    model: str,
    jobs: int,
    retention_days: float | None,
    grace: float,
    log: str,
    status_port: int | None,
    status_host: str,
) -> None:
    """Run the jobs of a service. Run as many of these processes as you like."""
    require_backend("noukai worker")
    settings = _settings(
        "worker",
        db,
        directory,
        blobs,
        model,
        retention_days=retention_days,
        max_running_jobs=jobs,
        drain_seconds=grace,
    )
    _set_up_logs(log)
    if status_port is None:
        asyncio.run(_work(settings, None, log))
        return
    with listen_on(status_host, status_port) as listener:
        click.echo(f"Noukai: http://{status_host}:{listener.getsockname()[1]}/readyz", err=True)
        asyncio.run(_work(settings, listener, log))


async def _work(settings: Settings, listener: socket.socket | None, log: str) -> None:
    from ..backend.app import open_worker
    from ..backend.server import create_server

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_worker(settings) as status:
        server = create_server(status, grace=0, handles_signals=False)
        _set_up_logs(log)  # uvicorn has set up its own
        sockets = [] if listener is None else [listener]
        serving = loop.create_task(server.serve(sockets)) if sockets else None
        spare_collector()
        click.echo("Noukai: the worker takes jobs", err=True)
        await stop.wait()
        # Not cancelled: threads of the queue may outlast the event loop.
        end_after(settings.drain_seconds).start()
        status.state.is_draining = True
    if serving is not None:
        server.should_exit = True
        await serving


def _set_up_logs(log: str) -> None:
    from ..backend.json_logs import log_as_json

    if log == "json":
        log_as_json()
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("noukai_sdk").setLevel(logging.INFO)


def _settings(
    role: Literal["serve", "worker"],
    db: str,
    directory: Path | None,
    blobs: str | None,
    model: str,
    **more: object,
) -> Settings:
    from ..backend.limits_from_env import limits_from
    from ..backend.settings import Settings

    try:
        limits = limits_from(os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        settings = Settings(
            database=db,
            flows=flow_folders(directory),
            model=model,
            blobs=blobs,
            role=role,
            metrics_token=os.environ.get("NOUKAI_METRICS_TOKEN", ""),
            **limits,
            **more,  # type: ignore[arg-type]  # the caller knows their types
        )
        backend = settings.database_url.get_backend_name()
    except ValueError as error:
        raise click.UsageError(f"--db: {error}") from error
    if backend != "postgresql":
        message = (
            f"--db: noukai {role} shares its database with other processes, which needs Postgres: "
            "postgresql://user@host/name. For a SQLite file, run noukai dev instead"
        )
        raise click.UsageError(message)
    let_flows_import(settings.flows)
    check_database(settings)
    check_blobs(settings)
    return settings


def _secret_of(settings: Settings) -> bytes:
    """Return a secret that all processes on a database share: each takes the login form of another."""
    url = settings.database_url.render_as_string(hide_password=False)
    return hashlib.sha256(f"noukai forms of {url}".encode()).digest()
