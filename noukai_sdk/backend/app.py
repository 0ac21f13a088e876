"""Create the backend: ``create_app(settings)`` returns an ASGI app for any server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.chat import ChatModel
from . import errors
from .assembly import open_service
from .live_trace import Channels
from .metrics import Metrics
from .model_usage import Stats
from .request_observer import RequestObserver
from .routes import flow_list, flows, job_list, runs, session_calls, session_query, sessions, status
from .routes.incoming import authenticate
from .settings import Settings
from .trusted_hosts import TrustedHosts

BASE = "/api/v1"


def create_app(
    settings: Settings, *, open_model: Callable[[str], ChatModel] | None = None
) -> FastAPI:
    """Return the backend as an ASGI app.

    Args:
        settings: The database, the flows, the API keys and the limits.
        open_model: Opens the model of a spec such as ``"offline"``; by default
            ``noukai_sdk.local.llm.providers.open_model``.

    Returns:
        The app. Its lifespan opens the database, migrates the tables and closes everything.
        Call ``app.state.channels.close()`` before the server waits for open connections: it ends the
        live traces. ``app.state.catalog`` has the flows. Set ``app.state.is_draining`` when the process
        is about to stop, and ``app.state.metrics.connections`` to the server's connections.

    Example:
        >>> app = create_app(Settings(database="noukai.db"))
        >>> uvicorn.run(app, port=8080)                              # doctest: +SKIP
    """
    catalog = FlowCatalog(*settings.flows, default_model=settings.model)
    channels, stats = Channels(), Stats()
    metrics = Metrics(stats)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, catalog, channels, stats, open_model) as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="Noukai, local",
        lifespan=lifespan,
        redirect_slashes=False,
        # Bodies are checked in bodies.py, for the contract's error codes: a schema page would be empty.
        openapi_url=None,
    )
    app.state.catalog = catalog
    app.state.channels = channels
    app.state.metrics = metrics
    app.state.is_draining = False
    if settings.trusted_hosts is not None:
        app.add_middleware(TrustedHosts, hosts=settings.trusted_hosts)
    errors.install(app)
    app.add_middleware(RequestObserver, report=metrics.observe)
    for routes in (flows, flow_list, job_list, runs, session_query, session_calls, sessions):
        app.include_router(routes.router, prefix=BASE, dependencies=[Depends(authenticate)])
    app.include_router(status.router)
    return app


@asynccontextmanager
async def open_worker(settings: Settings) -> AsyncIterator[FastAPI]:
    """Run jobs until the block ends; yield an app with the worker's health and metrics."""
    catalog, stats = FlowCatalog(*settings.flows, default_model=settings.model), Stats()
    app = FastAPI(title="Noukai, worker", openapi_url=None)
    app.state.metrics = Metrics(stats)
    app.state.is_draining = False
    errors.install(app)
    app.include_router(status.router)
    async with open_service(settings, catalog, Channels(), stats) as app.state.service:
        yield app
