"""Settings from the environment, databases by name, and counted models."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from noukai_sdk.backend.model_usage import CountedModels, Stats
from noukai_sdk.backend.settings import Settings, keys_from, retention_from
from noukai_sdk.local.llm.chat import ChatRequest, collect
from noukai_sdk.local.llm.pool import ModelPool


def test_keys_from_adds_keys_and_organisations() -> None:
    assert keys_from("") == {}
    assert keys_from(" nk_a , nk_b:org ,,nk_dev:acme") == {
        "nk_a": None,
        "nk_b": "org",
        "nk_dev": "acme",
    }
    for text in ("secret", "nk_a,secret", "nk_a:", "nk_a, :org"):
        with pytest.raises(ValueError, match="NOUKAI_DEV_KEYS: entry") as caught:
            keys_from(text)
        assert "secret" not in str(caught.value)


def test_retention_from_accepts_numbers_above_zero() -> None:
    assert retention_from(" ") is None
    assert retention_from("0.5") == 0.5
    for text in ("0", "-1", "a week", "nan", "inf"):
        with pytest.raises(ValueError, match="not a number of days above 0"):
            retention_from(text)


@pytest.mark.parametrize(
    ("database", "url", "name", "file"),
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
def test_settings_database_has_url_name_and_file(
    database: str, url: str | None, name: str, file: str | None
) -> None:
    settings = Settings(database)
    assert url in (None, settings.database_url.render_as_string(hide_password=False))
    # SQLAlchemy 2.1 quotes the colon, 2.0 does not.
    assert unquote(settings.database_name) == name
    assert settings.database_file == (Path(file) if file else None)


def test_settings_invalid_database_is_an_error_without_its_password() -> None:
    for database in (
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://me:secret@h/d",
        "my sql://me:secret@h/d",
        "postgresql://me:my@secret@h/d",
        "postgresql://me:my@very:secret@h/d",
    ):
        with pytest.raises(ValueError, match="database") as caught:
            _ = Settings(database).database_url
        assert "secret" not in str(caught.value)


@pytest.mark.anyio
async def test_counted_models_count_every_turn() -> None:
    stats = Stats()
    models = CountedModels(ModelPool(), stats)
    model = await models.get("offline")
    request = ChatRequest([{"role": "user", "content": "a"}])
    await model.warmup()
    assert stats.model_calls == 0
    reply = await model.answer(request)
    assert (await collect(model.stream(request))).text == reply.text
    await model.aclose()
    await models.aclose()
    assert stats.model_calls == 2
