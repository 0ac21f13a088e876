"""The yardstick of the service: a FastAPI app that commits one row for each request, by SQLAlchemy."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from sqlalchemy import Column, MetaData, String, Table, Text, event, insert
from sqlalchemy.ext.asyncio import create_async_engine

metadata = MetaData()
requests = Table(
    "requests", metadata, Column("id", String(64), primary_key=True), Column("body", Text)
)


def set_up(connection: Any, _record: Any) -> None:
    """Set what the service sets, so that a commit costs the same."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=20000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine = create_async_engine(os.environ["ONE_ROW_DATABASE"], pool_timeout=None)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", set_up)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    app.state.engine = engine
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/execute")
async def execute(request: Request) -> dict[str, str]:
    message = (await request.json())["message"]
    async with app.state.engine.begin() as connection:
        await connection.execute(insert(requests), {"id": str(uuid.uuid4()), "body": message})
    return {"status": "completed", "result": message}
