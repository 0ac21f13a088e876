"""Settings from the environment, channels, counted models, and what a resume finds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote

import pytest

from noukai_sdk.backend.errors import RequestError
from noukai_sdk.backend.live_trace import Channels
from noukai_sdk.backend.model_usage import CountedModels, Stats
from noukai_sdk.backend.resuming import resumed_run
from noukai_sdk.backend.settings import Settings, keys_from, retention_from
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.llm.chat import ChatRequest, collect
from noukai_sdk.local.llm.pool import ModelPool
from noukai_sdk.models.requests import StepRequest


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
    with pytest.raises(ValueError, match="not a number of days above 0"):
        retention_from(text)


@pytest.mark.parametrize(
    ("given", "url", "name", "file"),
    [
        ("/x/a.db", "sqlite+aiosqlite:////x/a.db", "/x/a.db", "/x/a.db"),
        ("/x/a?b%c.db", None, "/x/a?b%c.db", "/x/a?b%c.db"),
        ("sqlite:////x/a.db", "sqlite+aiosqlite:////x/a.db", "sqlite:////x/a.db", "/x/a.db"),
        ("sqlite:///file:/x/a.db?uri=true", None, "sqlite:///file:/x/a.db", None),
        ("postgres://h/d", "postgresql+asyncpg://h/d", "postgres://h/d", None),
        (
            "postgresql+psycopg://me:secret@h/d?password=secret",
            "postgresql+asyncpg://me:secret@h/d?password=secret",
            "postgresql+psycopg://me:***@h/d",
            None,
        ),
    ],
)
def test_databases(given: str, url: str | None, name: str, file: str | None) -> None:
    settings = Settings(given)
    assert url in (None, settings.database_url.render_as_string(hide_password=False))
    # SQLAlchemy 2.1 quotes the colon, 2.0 does not.
    assert unquote(settings.database_name) == name
    assert settings.database_file == (Path(file) if file else None)


@pytest.mark.parametrize(
    "given", ["sqlite://", "sqlite:///:memory:", "mysql://me:secret@h/d", "my sql://me:secret@h/d"]
)
def test_databases_that_are_none(given: str) -> None:
    with pytest.raises(ValueError, match="database") as caught:
        _ = Settings(given).database_url
    assert "secret" not in str(caught.value)


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


def test_every_turn_of_a_model_is_counted() -> None:
    async def ask() -> Stats:
        stats = Stats()
        models = CountedModels(ModelPool(), stats)
        model = models.get("offline")
        request = ChatRequest([{"role": "user", "content": "a"}])
        await model.warmup()
        assert stats.model_calls == 0
        whole = await model.answer(request)
        assert (await collect(model.stream(request))).text == whole.text
        await model.aclose()
        await models.aclose()
        return stats

    assert asyncio.run(ask()).model_calls == 2


def test_a_run_that_another_process_drives_cannot_be_resumed() -> None:
    flow = FlowCatalog().get("acme", "samples", "two-step")
    row = {"id": "x", "org": "acme", "project": "samples", "slug": "two-step"}
    row |= {"trigger": "step", "status": "running"}
    call = StepRequest(execution_id="x", step_index=1)
    with pytest.raises(RequestError, match="another call continues this run") as caught:
        resumed_run(row, flow, None, call, "step")
    assert caught.value.status == 409
