"""The flow calls of one request of the suite's apps, with an edit that the request asks for.

The header ``X-Edit`` stands for an edit of the code between capture and replay:

========  =================================================================
prompt    the call ``last`` of a route has another message
added     one more call follows it
removed   it is not made
swapped   the two calls that begin each request are made in the other order
handling  the response is made differently from the same calls
========  =================================================================
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from noukai_sdk import APITimeoutError, AsyncNoukai, Noukai

SyncRoute = Callable[["Calls"], Any]
AsyncRoute = Callable[["Calls"], Awaitable[Any]]

PLAN, WRITE, SHAKY, STORY, WEATHER = (
    f"acme/suite/{slug}" for slug in ("plan", "write", "shaky", "story", "weather")
)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


class Clients:
    """A client of each kind, as an app holds them."""

    def __init__(self) -> None:
        self.sync = Noukai(timeout=30, max_retries=0)
        self.asynchronous = AsyncNoukai(timeout=30, max_retries=0)


class Calls:
    """What the routes call, for one user."""

    def __init__(self, clients: Clients, user: str, edit: str | None) -> None:
        self._sync = clients.sync
        self._async = clients.asynchronous
        self.user = user
        self.edit = edit

    def messages(self, message: str) -> list[str]:
        """Return the messages to send in place of ``message``."""
        name, at, delay = message.partition("@")
        sent = f"{self.user}: {message}"
        if name != "last":
            return [sent]
        edits = {
            "prompt": [f"{self.user}: {name}, please{at}{delay}"],
            "added": [sent, f"{self.user}: added"],
            "removed": [],
        }
        return edits.get(self.edit or "", [sent])

    def ask(self, message: str, flow: str = WRITE) -> Any:
        results = [self._sync.flow(flow).execute(message=m).result for m in self.messages(message)]
        return results[0] if results else None

    async def aask(self, message: str, flow: str = WRITE) -> Any:
        messages = self.messages(message)
        results = [(await self._async.flow(flow).execute(message=m)).result for m in messages]
        return results[0] if results else None

    def events(self, message: str) -> Iterator[Any]:
        for sent in self.messages(message):
            yield from self._sync.flow(STORY).events(message=sent)

    async def aevents(self, message: str) -> AsyncIterator[Any]:
        for sent in self.messages(message):
            async for event in self._async.flow(STORY).events(message=sent):
                yield event

    def weather(self) -> Any:
        flow = self._sync.flow(WEATHER)
        results = [
            flow.execute(message=message, tools=TOOLS, tool_handler=self._tool).result
            for message in self.messages("last")
        ]
        return results[0] if results else None

    async def aweather(self) -> Any:
        flow = self._async.flow(WEATHER)
        results = [
            (await flow.execute(message=message, tools=TOOLS, tool_handler=self._tool)).result
            for message in self.messages("last")
        ]
        return results[0] if results else None

    def _tool(self, calls: Any) -> list[dict[str, Any]]:
        # A tool may call flows, too.
        return [{"tool_call_id": call["id"], "output": self.ask("tool")} for call in calls]

    def plan(self) -> list[Any]:
        return [self.ask(message, PLAN) for message in self._plan()]

    async def aplan(self) -> list[Any]:
        return [await self.aask(message, PLAN) for message in self._plan()]

    def _plan(self) -> list[str]:
        return ["second", "first"] if self.edit == "swapped" else ["first", "second"]

    def ask_briefly(self) -> str:
        """Make a call that the client gives up, because it takes too long."""
        try:
            self._sync.flow(WRITE).execute(message=f"{self.user}: slow@0.8", timeout=0.1)
        except APITimeoutError as error:
            return type(error).__name__
        return "in time"

    def serve(self, route: SyncRoute) -> dict[str, Any]:
        """Return the response of a sync route."""
        plan = [] if route.__name__ == "nothing" else self.plan()
        return self.response(plan, route(self))

    async def aserve(self, route: AsyncRoute) -> dict[str, Any]:
        """Return the response of an async route."""
        plan = [] if route.__name__ == "nothing" else await self.aplan()
        return self.response(plan, await route(self))

    def response(self, plan: list[Any], result: Any) -> dict[str, Any]:
        extra = {"handled": "differently"} if self.edit == "handling" else {}
        return {"plan": plan, "result": result, **extra}
