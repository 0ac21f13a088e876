"""``noukai keys`` and ``noukai orgs``: who may use the service, and how much of it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .shared_options import EXIT_CODES, CommandError, json_option

if TYPE_CHECKING:
    from ..backend.store.keys import KeyStore
    from ..backend.store.limits import LimitStore

T = TypeVar("T")

_ORG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\Z")
_PIPE_COLUMNS = 1000

db_option = click.option(
    "--db",
    required=True,
    envvar="NOUKAI_DB",
    show_envvar=True,
    help="The database of the service: a file, or an SQLAlchemy URL.",
)


def _check_org(_context: Any, _parameter: Any, org: str) -> str:
    if not _ORG.match(org):
        raise click.BadParameter(f"{org!r} is not letters, digits, '-' and '_'")
    return org


@click.group(epilog=EXIT_CODES)
def keys() -> None:
    """Create, list and revoke the API keys of a service.

    noukai dev has its own keys: nk_dev, and those in NOUKAI_DEV_KEYS.
    """


@keys.command()
@click.option("--org", required=True, callback=_check_org, help="The organisation of the key.")
@click.option("--name", default="", help="What the key is for, such as ci.")
@db_option
def create(org: str, name: str, db: str) -> None:
    """Create an API key, and print only the key on standard output.

    Only its SHA-256 is stored, so it cannot be shown again.
    """
    from ..backend.encoding import Clock

    async def work(store: KeyStore) -> tuple[str, str]:
        return await store.create(org, name, Clock().now())

    key_id, key = _with_keys(db, work)
    click.echo(key)
    click.echo(f"{key_id} of {org}. Keep the key: it is not shown again.", err=True)


@keys.command("list")
@click.option("--org", help="Only the keys of this organisation.")
@db_option
@json_option
def list_keys(org: str | None, db: str, as_json: bool) -> None:
    """List the keys, without the keys themselves."""
    from ..backend.encoding import iso

    rows = [
        {
            "id": row.id,
            "org": row.org,
            "name": row.name,
            "created": iso(row.created_at),
            "revoked": iso(row.revoked_at),
        }
        for row in _with_keys(db, lambda store: store.all())
        if org in (None, row.org)
    ]
    _print_table(rows, as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@db_option
def revoke(key_id: str, db: str) -> None:
    """Revoke a key by its id. All processes refuse it within seconds."""
    from ..backend.encoding import Clock

    if not _with_keys(db, lambda store: store.revoke(key_id, Clock().now())):
        raise CommandError(f"there is no key with the id {key_id!r}: see noukai keys list")
    click.echo(f"{key_id} is revoked", err=True)


@click.group(epilog=EXIT_CODES)
def orgs() -> None:
    """Set and list the limits of organisations.

    They apply to keys of noukai keys, within seconds.
    """


@orgs.command("set")
@click.argument("org", callback=_check_org)
@click.option("--concurrent", metavar="N|none", help="Runs that may be in progress at once.")
@click.option("--per-minute", metavar="N|none", help="Requests that its keys may send a minute.")
@click.option("--credits", "credits_", metavar="USD|none", help="US dollars that it may spend.")
@click.option("--add-credits", metavar="USD", help="US dollars to add to the remaining credits.")
@db_option
def set_limits(
    org: str,
    concurrent: str | None,
    per_minute: str | None,
    credits_: str | None,
    add_credits: str | None,
    db: str,
) -> None:
    """Set limits of an organisation; none removes a limit. Other limits do not change."""
    values: dict[str, int | None] = {}
    if concurrent is not None:
        values["max_running"] = _count("--concurrent", concurrent)
    if per_minute is not None:
        values["requests_per_minute"] = _count("--per-minute", per_minute)
    if credits_ is not None:
        values["credit_micros"] = None if credits_ == "none" else _micros("--credits", credits_)
    added = 0
    if add_credits is not None:
        if credits_ is not None:
            raise click.UsageError("--credits and --add-credits exclude each other")
        added = _micros("--add-credits", add_credits)
    if not values and not added:
        raise click.UsageError("name a limit to set: --concurrent, --per-minute, --credits")
    _with_limits(db, lambda store: store.set(org, values, added))


@orgs.command("list")
@db_option
@json_option
def list_limits(db: str, as_json: bool) -> None:
    """List the organisations that have limits, and their remaining credits."""
    rows = [
        {
            "org": row.org,
            "concurrent": row.max_running,
            "perMinute": row.requests_per_minute,
            "credits": None if row.credit_micros is None else f"{row.credit_micros / 10**6:.6f}",
        }
        for row in _with_limits(db, lambda store: store.all())
    ]
    _print_table(rows, as_json)


def _count(option: str, text: str) -> int | None:
    if text == "none":
        return None
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise click.UsageError(f"{option}: {text!r} is neither a number of at least 1 nor none")
    return int(text)


def _micros(option: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
        raise click.UsageError(f"{option}: {text!r} is not an amount in US dollars, such as 5.00")
    return int(Decimal(text) * 1_000_000)


def _with_limits(db: str, work: Callable[[LimitStore], Awaitable[T]]) -> T:
    from ..backend.store.limits import LimitStore

    async def run() -> T:
        async with _engine(db) as engine:
            return await work(LimitStore(engine))

    return asyncio.run(run())


def _with_keys(db: str, work: Callable[[KeyStore], Awaitable[T]]) -> T:
    from ..backend.store.keys import KeyStore

    async def run() -> T:
        async with _engine(db) as engine:
            return await work(KeyStore(engine))

    return asyncio.run(run())


@asynccontextmanager
async def _engine(db: str) -> AsyncIterator[Any]:
    """Open the database, and report errors of it without its password."""
    from sqlalchemy.exc import SQLAlchemyError

    from ..backend.settings import Settings
    from ..backend.store.database import StoreUnavailableError, open_beside

    try:
        settings = Settings(db)
        url, file = settings.database_url, settings.database_file
    except ValueError as error:
        raise click.UsageError(f"--db: {error}") from error
    # aiosqlite prints a traceback at times when it cannot open a file.
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise click.UsageError(f"--db: {file} is not a file in a folder that exists")
    try:
        async with open_beside(url) as engine:
            yield engine
    # TypeError: asyncpg takes the query of the URL as keyword arguments, and may not know them.
    except (SQLAlchemyError, StoreUnavailableError, OSError, TypeError) as error:
        reason = getattr(error, "orig", None) or error
        raise CommandError(f"cannot use the database {settings.database_name}: {reason}") from error


def _print_table(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        return
    table = Table(*(re.sub("([A-Z])", r" \1", name).capitalize() for name in rows[0]), box=None)
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(file=sys.stdout, width=width, highlight=False).print(table)
