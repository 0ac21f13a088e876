"""Settings from the environment, and channels."""

from __future__ import annotations

import asyncio

import pytest

from noukai_sdk.backend.channels import Channels
from noukai_sdk.backend.settings import Settings, keys_from, retention_from


def test_keys() -> None:
    assert keys_from("") == {"nk_dev": None}
    assert keys_from(" nk_a , nk_b:org ,,nk_dev:acme") == {
        "nk_a": None,
        "nk_b": "org",
        "nk_dev": "acme",
    }


@pytest.mark.parametrize("text", ["secret", "nk_a,secret", "nk_a:", "nk_a, :org"])
def test_keys_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="NOUKAI_DEV_KEYS: entry") as caught:
        keys_from(text)
    assert "secret" not in str(caught.value)


def test_retention() -> None:
    assert retention_from(" ") is None
    assert retention_from("0.5") == 0.5


@pytest.mark.parametrize("text", ["0", "-1", "a week", "nan", "inf"])
def test_retention_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no number of days above 0"):
        retention_from(text)


def test_databases() -> None:
    assert Settings("/x/a.db").database_url == "sqlite+aiosqlite:////x/a.db"
    assert Settings("postgresql+asyncpg://h/d").database_url == "postgresql+asyncpg://h/d"


def test_a_channel_that_was_closed_takes_nobody() -> None:
    async def follow() -> list[object]:
        channels = Channels()
        with channels.follow("a") as early:
            channels.publish("a", 0, {"n": 0})
            channels.publish("b", 0, {"n": 1})
            channels.close()
            with channels.follow("a") as late:
                return [early.get_nowait(), early.get_nowait(), late.get_nowait()]

    assert asyncio.run(follow()) == [(0, {"n": 0}), None, None]
