"""A service that answers with what it was asked, and both clients in front of it."""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from noukai_sdk import trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope
from tests.replay.service import AsyncSide, SyncSide, _from_sync


class Echo:
    """Answers ``execute`` with the message and the number of the call.

    Attributes:
        calls: The messages that came, with the session that each was tagged with.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)["message"]
        self.calls.append((message, request.headers.get("x-session-id")))
        number = len(self.calls)
        body = {
            "status": "completed",
            "result": f"{message} {number}",
            "executionId": f"e-{number}",
        }
        return httpx.Response(200, json=body)

    @property
    def messages(self) -> list[str]:
        return [message for message, _ in self.calls]


class EchoSync(SyncSide):
    """The sync client."""

    def scope(self, session_id: str | None = None, **options: Any) -> Any:
        return _from_sync(trace_scope_sync(**options))

    async def ask(self, *messages: str, slug: str = "acme/spelling/grade-3", **options: Any) -> Any:
        return [(await self.execute(text, slug=slug, **options)).result for text in messages]


class EchoAsync(AsyncSide):
    """The async client."""

    def scope(
        self, session_id: str | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Scope]:
        return trace_scope(**options)

    async def ask(self, *messages: str, slug: str = "acme/spelling/grade-3", **options: Any) -> Any:
        return [(await self.execute(text, slug=slug, **options)).result for text in messages]


EchoSide = EchoSync | EchoAsync
