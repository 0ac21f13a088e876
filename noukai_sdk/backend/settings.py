"""What the backend can be told, by arguments and by the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEV_KEY = "nk_dev"

Keys = Mapping[str, "str | None"]
"""API key to the organisation that it belongs to; None for a key that may use every one."""


@dataclass(frozen=True)
class Settings:
    """The backend's settings.

    Attributes:
        database: A file for SQLite, or a URL as SQLAlchemy takes it.
        flows: Directories of flow files; the bundled samples are always there too.
        keys: The API keys that are accepted.
        model: The model of steps that name none.
        retention_days: Sessions whose last run began longer ago are expired; None keeps them.
        max_message_bytes: The limit for a call's ``message``, or for its ``messages`` and
            ``toolCallMessages`` as JSON, in UTF-8.
        max_body_bytes: The limit for a whole request.
        pause_seconds: A run that was left paused for so long is marked cancelled.
    """

    database: str | Path
    flows: tuple[Path, ...] = ()
    keys: Keys = field(default_factory=lambda: {DEV_KEY: None})
    model: str = "offline"
    retention_days: float | None = None
    max_message_bytes: int = 1024 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    pause_seconds: float = 24 * 3600.0

    @property
    def database_url(self) -> str:
        """The database as SQLAlchemy takes it."""
        database = str(self.database)
        if "://" in database:
            return database
        return f"sqlite+aiosqlite:///{Path(database).absolute()}"


def keys_from(text: str) -> dict[str, str | None]:
    """The keys that ``NOUKAI_DEV_KEYS`` names, beside ``nk_dev``.

    Args:
        text: Comma-separated ``key`` or ``key:org``.

    Raises:
        ValueError: A key does not start with ``nk_``, or an organisation is empty. The message
            says which entry by its place, since it must not print a key.

    Example:
        >>> keys_from("nk_ci, nk_other:otherorg")
        {'nk_dev': None, 'nk_ci': None, 'nk_other': 'otherorg'}
    """
    keys: dict[str, str | None] = {DEV_KEY: None}
    for place, entry in enumerate(text.split(","), start=1):
        if not entry.strip():
            continue
        key, colon, org = (part.strip() for part in entry.partition(":"))
        if not key.startswith("nk_") or (colon and not org):
            raise ValueError(
                f"NOUKAI_DEV_KEYS: entry {place} is neither 'nk_...' nor 'nk_...:org'; "
                "separate entries with commas"
            )
        keys[key] = org or None
    return keys


def retention_from(text: str) -> float | None:
    """The days that ``NOUKAI_DEV_RETENTION_DAYS`` names; None where it is empty.

    Raises:
        ValueError: No number above 0.
    """
    if not text.strip():
        return None
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days < 1e6:
        raise ValueError(f"NOUKAI_DEV_RETENTION_DAYS: {text!r} is no number of days above 0")
    return days
