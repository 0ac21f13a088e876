"""Captures and replays of many users at once: nobody gets what belongs to another."""

from __future__ import annotations

import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.suite.conftest import Backend
from tests.suite.servers import ALL, Outcome, Running

SERVERS = {"fastapi-uvicorn": 2_000, "flask-gthread": 200, "flask-gevent": 200}
AT_ONCE = 16
ROUTES = ("plain", "same-inputs", "retry", "tools", "worker", "nested-scope")


@pytest.mark.skipif(not ALL, reason="runs in `make replays`")
@pytest.mark.parametrize(
    ("server", "requests"),
    [pytest.param(*each, marks=pytest.mark.xdist_group(each[0])) for each in SERVERS.items()],
    indirect=["server"],
)
def test_mixed_captures_and_replays_stay_apart(
    server: Running, backend: Backend, requests: int
) -> None:
    prefix = "/a" if server.name.startswith("fastapi") else "/s"
    chosen = random.Random(7)
    users = [f"{server.name}-{number}" for number in range(requests // 4)]
    routes = {user: f"{prefix}/{chosen.choice(ROUTES)}" for user in users}

    def capture(user: str) -> tuple[str, Outcome]:
        return user, server.send(routes[user], user)

    def capture_or_replay(user: str | None) -> None:
        if user is None:
            user = f"{server.name}-more-{chosen.random()}"
            routes[user] = f"{prefix}/{chosen.choice(ROUTES)}"
            expected[user] = capture(user)[1]
            return
        replayed = server.send(routes[user], user, replay=expected[user].session)
        assert (replayed.status, replayed.body) == (200, expected[user].body)
        assert replayed.report["verdict"] == "clean", replayed

    with ThreadPoolExecutor(AT_ONCE) as pool:
        expected = dict(pool.map(capture, users))
        work = [*users, *users, *[None] * (requests // 4)]
        chosen.shuffle(work)
        list(pool.map(capture_or_replay, work))

    sessions = {captured.session for captured in expected.values()}
    assert len(sessions) == len(expected) == requests // 2
    for user, captured in expected.items():
        assert captured.status == 200
        # The message of an error has the number of its run, but no user.
        texts = [text for text in strings(captured.body) if ": " in text and "not yet" not in text]
        messages = backend.messages(captured.session) or []
        assert all(f"{user}: " in text for text in (*texts, *messages))
        numbers = {text.rpartition("#")[2] for text in texts}
        assert len(messages) >= len(numbers) >= 3


def strings(value: object) -> list[str]:
    """Return all strings in a JSON value."""
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return (
        [text for each in values for text in strings(each)] if isinstance(values, Iterable) else []
    )
