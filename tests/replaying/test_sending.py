"""Test that a replay changes nothing in an app that does not replay, and reads any response."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from noukai_sdk.errors import APIConnectionError
from noukai_sdk.models.session_lists import StoredReport
from noukai_sdk.replaying.app_request import AppRequest, replay_header
from noukai_sdk.replaying.outcome import Outcome
from noukai_sdk.replaying.sending import RequestSender


async def _no_reports() -> list[StoredReport]:
    return []


async def _ignore(_: StoredReport) -> None:
    return None


def test_app_that_does_not_replay_is_asked_once_for_reports_and_by_no_method_that_runs_its_code() -> (
    None
):
    methods = []

    async def replay() -> Outcome:
        asked = asyncio.Event()

        async def app(request: httpx.Request) -> httpx.Response:
            methods.append(request.method)
            if "x-noukai-replay" in request.headers:
                await asyncio.wait_for(asked.wait(), 60)
            asked.set()
            # No encoding of text, and JSON that nobody can read.
            content_type = {"Content-Type": "text/plain; charset=hex"}
            return httpx.Response(200, content=b"[" * 100_000, headers=content_type)

        sender = RequestSender(
            AppRequest("GET", "http://localhost/", (replay_header("s-1", replay_id="r-1"),)),
            transport=lambda: httpx.MockTransport(app),
            stored_reports=_no_reports,
            replay_id="r-1",
            on_report=_ignore,
        )
        return await sender.replay("s-1", lambda _: None, wait=1)

    outcome = asyncio.run(replay())
    assert methods == ["GET", "OPTIONS"]
    assert (outcome.replayed, outcome.body[:3]) == (False, "[[[")


def test_app_that_closes_the_connection_without_a_word_is_named_with_a_reason() -> None:
    def app(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("")

    sender = RequestSender(
        AppRequest("GET", "http://localhost/", (replay_header("s-1"),)),
        transport=lambda: httpx.MockTransport(app),
        stored_reports=_no_reports,
    )
    with pytest.raises(APIConnectionError, match="http://localhost/: ReadError"):
        asyncio.run(sender.replay("s-1", lambda _: None, wait=1))
