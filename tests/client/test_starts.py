"""Of many requests, few are young at once: the rest wait for an answer, or a moment."""

from __future__ import annotations

import asyncio

import pytest

from noukai_sdk.transport import async_clients as pools
from noukai_sdk.transport.async_clients import AsyncClients


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an answer ends a request's youth."""
    monkeypatch.setattr(pools, "YOUNG", 3600)
    monkeypatch.setattr(pools, "YOUNG_FAST", 3600)


@pytest.fixture(autouse=True, params=["0", "1"], ids=["httpx", "fast"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_FAST", request.param)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MOST_YOUNG", 2)


def test_a_request_waits_until_one_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    never(monkeypatch)

    async def main() -> None:
        clients = AsyncClients()
        first, _ = await clients.take(), await clients.take()
        third = asyncio.create_task(clients.take())
        await asyncio.sleep(0)
        assert not third.done()
        first.give_back()
        first.give_back()  # gives one place, however often
        await third
        fourth = asyncio.create_task(clients.take())
        await asyncio.sleep(0)
        assert not fourth.done()
        fourth.cancel()
        await clients.aclose()

    asyncio.run(main())


def test_a_request_that_is_answered_late_holds_nobody_up() -> None:
    async def main() -> None:
        clients = AsyncClients()
        leases = [await asyncio.wait_for(clients.take(), 20) for _ in range(10)]
        for lease in leases:
            lease.give_back()
        await clients.aclose()

    asyncio.run(main())


def test_a_waiting_request_that_is_cancelled_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never(monkeypatch)

    async def main() -> None:
        clients = AsyncClients()
        first, _ = await clients.take(), await clients.take()
        waiting = [asyncio.create_task(clients.take()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        first.give_back()
        await asyncio.wait_for(clients.take(), 20)
        await clients.aclose()

    asyncio.run(main())
