"""An app that grades texts at the same time, and replies to the last grade."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI

from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware


def create_app(**options: Any) -> FastAPI:
    noukai = AsyncNoukai(org="acme", project="shop", **options)
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)

    @app.post("/review")
    async def review(texts: list[str]) -> dict[str, Any]:
        grade = noukai.flow("grade")
        grades = await asyncio.gather(*(grade.execute(message=text) for text in texts))
        reply = await noukai.flow("reply").execute(message=f"on {grades[-1].result}")
        return {"grades": [each.result for each in grades], "reply": reply.result}

    return app
