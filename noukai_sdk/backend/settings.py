"""The backend's settings, from arguments and from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from ..local.engine.sizes import SizeLimits

DEV_KEY = "nk_dev"

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
# An in-memory database has one connection, which every request would have to share.
_NOT_A_FILE = (None, "", ":memory:")

Role = Literal["dev", "serve", "worker"]

Keys = Mapping[str, "str | None"]
"""Maps each API key to its organisation, or to None if the key may use every organisation."""


@dataclass(frozen=True)
class Settings:
    """The backend's settings.

    Attributes:
        database: A file for SQLite, or a URL, such as ``"postgresql://user@host/noukai"``.
        flows: Folders of flow files; the bundled samples are always available too.
        keys: The accepted API keys. None: those of the database, which ``noukai keys`` creates.
        model: The model of steps that do not name one.
        retention_days: Sessions whose last run began longer ago are expired; None keeps them.
        retention_bytes: The oldest sessions expire when the database file has more bytes in use. For
            SQLite alone: Postgres does not know its size in use.
        max_message_bytes: The limit for a call's ``message``, or for its ``messages`` and
            ``toolCallMessages`` as JSON, in UTF-8.
        max_body_bytes: The limit for the body of a request.
        body_seconds: How long a body of few bytes may take to arrive; large ones may take longer.
        sizes: The limits for what a run renders, receives and stores.
        function_threads: How many functions of steps that are not async run at once; further calls wait.
        threads_of_one_function: How many of these may run the same function.
        max_connections: How many connections may be open at once.
        max_pending_jobs: How many jobs of one organisation may wait to be run.
        max_pending_jobs_in_all: How many jobs of all organisations may wait.
        pause_seconds: A run that is left paused for longer is marked cancelled.
        metrics_token: What ``GET /metrics`` needs as bearer token. None: it is open; empty: it is off.
        trusted_hosts: The names and addresses that requests may be sent to; None accepts any.
        wrong_keys_per_minute: How many wrong API keys one address may try.
        role: ``"serve"`` answers requests, ``"worker"`` runs jobs, ``"dev"`` does both.
        max_running_jobs: How many jobs a worker runs at once.
        drain_seconds: How long a process that is told to stop waits for its runs.
        blobs: The folder, or the URL of fsspec such as ``"s3://bucket/prefix"``, for payloads of more
            than 64 kB; None keeps them in the database.
    """

    database: str | Path
    flows: tuple[Path, ...] = ()
    keys: Keys | None = None
    model: str = "offline"
    retention_days: float | None = None
    retention_bytes: int | None = None
    max_message_bytes: int = 1024 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    body_seconds: float = 20.0
    sizes: SizeLimits = field(default_factory=SizeLimits)
    function_threads: int = 64
    threads_of_one_function: int = 32
    max_connections: int = 4096
    max_pending_jobs: int = 1000
    max_pending_jobs_in_all: int = 10_000
    pause_seconds: float = 24 * 3600.0
    metrics_token: str | None = None
    trusted_hosts: tuple[str, ...] | None = None
    wrong_keys_per_minute: int = 20
    role: Role = "dev"
    max_running_jobs: int = 64
    drain_seconds: float = 0.0
    blobs: str | Path | None = None

    def __post_init__(self) -> None:
        if self.retention_bytes is not None and self.database_url.get_backend_name() != "sqlite":
            raise ValueError("retention_bytes is for SQLite: on Postgres, use retention_days")

    @property
    def database_url(self) -> URL:
        """Return the database as an SQLAlchemy URL, with the async driver.

        Raises:
            ValueError: The URL is not valid, or is for neither a SQLite file nor Postgres.
        """
        database = str(self.database)
        if "://" not in database:
            return URL.create(_DRIVERS["sqlite"], database=str(Path(database).absolute()))
        try:
            url = make_url(database)
        except (ArgumentError, ValueError):
            # These messages have the URL or parts of it, which may contain a password.
            raise ValueError("the database URL is not valid") from None
        if "@" in (url.host or ""):
            raise ValueError("the database URL is not valid: write @ in its password as %40")
        driver = _DRIVERS.get(url.drivername.partition("+")[0])
        if driver is None or (driver == _DRIVERS["sqlite"] and url.database in _NOT_A_FILE):
            raise ValueError(f"the database {self.database_name} is neither a file nor in Postgres")
        return url.set(drivername=driver)

    @property
    def database_file(self) -> Path | None:
        """Return the database file; None for Postgres, and for a ``file:`` URI of SQLite."""
        url = self.database_url
        name = str(url.database)
        is_file = url.get_backend_name() == "sqlite" and not name.startswith("file:")
        return Path(name) if is_file else None

    @property
    def database_name(self) -> str:
        """Return the database for messages: without password and query."""
        database = str(self.database)
        if "://" not in database:
            return database
        return make_url(database).set(query={}).render_as_string()


def keys_from(text: str) -> dict[str, str | None]:
    """Parse ``NOUKAI_DEV_KEYS``.

    Args:
        text: Comma-separated ``key`` or ``key:org``.

    Raises:
        ValueError: A key does not start with ``nk_``, or an organisation is empty. The message
            has the number of the entry, because it must not print a key.

    Example:
        >>> keys_from("nk_ci, nk_other:otherorg")
        {'nk_ci': None, 'nk_other': 'otherorg'}
    """
    keys: dict[str, str | None] = {}
    for number, entry in enumerate(text.split(","), start=1):
        if not entry.strip():
            continue
        key, colon, org = (part.strip() for part in entry.partition(":"))
        if not key.startswith("nk_") or (colon and not org):
            raise ValueError(
                f"NOUKAI_DEV_KEYS: entry {number} is neither 'nk_...' nor 'nk_...:org'; "
                "separate entries with commas"
            )
        keys[key] = org or None
    return keys


def retention_from(text: str) -> float | None:
    """Parse ``NOUKAI_DEV_RETENTION_DAYS``; return None if it is empty.

    Raises:
        ValueError: It is not a number of days above 0.
    """
    if not text.strip():
        return None
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days < 1e6:
        raise ValueError(f"NOUKAI_DEV_RETENTION_DAYS: {text!r} is not a number of days above 0")
    return days
