"""``noukai session list``: the recent sessions of the service."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from ..errors import FlowExecutionError, NotFoundError
from ..models.session_lists import SessionPage, SessionSummary
from ..protocol.session_extensions import list_sessions
from .page_links import linked, page_of_service
from .session_source import Env, base_url_option, env_option, open_client
from .session_views import open_console, print_json, short
from .shared_options import CommandError, json_option

# The service reads no more at once.
LARGEST_PAGE = 100
_NOT_LISTED = (405, 501)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLORS = {"failed": "red", "running": "yellow"}
# A narrower terminal shows neither tokens nor cost.
_WIDE = 110
# Wide enough for all that short() leaves.
_WITHOUT_TERMINAL = 240


class Since(click.ParamType):  # type: ignore[type-arg]  # generic only in some versions of click
    """A time: so long ago, such as ``7d``, or a date, such as ``2026-05-31`` or ``2026-05-31T08:00``."""

    name = "since"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the time in ISO 8601, in UTC."""
        text = str(value).strip()
        ago = re.fullmatch(r"([0-9]{1,6})\s*([smhdw])", text)
        try:
            if ago is not None:
                time = datetime.now(timezone.utc) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            else:
                # Python 3.10 does not know the Z.
                time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
                time = time.astimezone(timezone.utc)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a time: write '7d', '12h', '30m' or '2026-05-31'", param)
        return time.isoformat()


@click.command("list")
@click.option("--failed", is_flag=True, help="Only sessions with a failed call or response.")
@click.option("--running", is_flag=True, help="Only sessions with a run under way.")
@click.option("--flow", metavar="SLUG", help="Only sessions that called this flow.")
@click.option("--since", type=Since(), metavar="TIME", help="'7d', '12h', '30m', or a date.")
@click.option(
    "--search", "-q", "text", metavar="TEXT", help="Only sessions in which this text occurs."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="How many to list at most.",
)
@env_option
@base_url_option
@json_option
def list_command(
    failed: bool,
    running: bool,
    flow: str | None,
    since: str | None,
    text: str | None,
    limit: int,
    env: Env | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """List the sessions of the service, the newest first."""
    if failed and running:
        raise click.UsageError("--failed and --running exclude each other")
    status = "failed" if failed else "running" if running else None
    query = {"flow": flow, "status": status, "since": since, "q": text}
    page = _read_pages(env, base_url, limit, query)
    if as_json:
        print_json(page.model_dump(by_alias=True))
    elif not page.sessions:
        click.echo("no sessions")
    else:
        console = open_console(without_terminal=_WITHOUT_TERMINAL)
        now = datetime.now(timezone.utc)
        links = page_of_service(env, base_url)
        table = session_table(page.sessions, now, links, wide=console.width >= _WIDE)
        table.expand = console.width < _WITHOUT_TERMINAL
        console.print(table)
        if page.next_cursor is not None:
            click.echo(f"there are more: --limit {limit * 2}", err=True)


def _read_pages(
    env: Env | None, base_url: str | None, limit: int, query: dict[str, Any]
) -> SessionPage:
    sessions: list[SessionSummary] = []
    cursor: str | None = None
    with open_client(env, base_url) as client:
        transport = client._transport
        while True:
            page = read_page(transport, min(limit - len(sessions), LARGEST_PAGE), cursor, query)
            sessions += page.sessions[: limit - len(sessions)]
            # A cursor that does not move would be read for ever.
            if page.next_cursor in (None, cursor) or not page.sessions or len(sessions) >= limit:
                return SessionPage(sessions=tuple(sessions), next_cursor=page.next_cursor)
            cursor = page.next_cursor


def read_page(transport: Any, size: int, cursor: str | None, query: dict[str, Any]) -> SessionPage:
    """Read one page of the sessions.

    Raises:
        CommandError: The service does not list sessions.
    """
    try:
        page: SessionPage = transport.run(
            list_sessions(transport.service, limit=size, cursor=cursor, **query)
        )
        return page
    except (NotFoundError, FlowExecutionError) as error:
        if isinstance(error, NotFoundError) or error.status_code in _NOT_LISTED:
            address = transport.service.base_url
            raise CommandError(
                f"{address} does not list sessions: only `noukai dev` and `noukai serve` do. "
                "The id of a session is in the response header X-Noukai-Session of its request"
            ) from error
        raise


def session_table(
    sessions: Sequence[SessionSummary], now: datetime, page: str | None, *, wide: bool
) -> Table:
    """Return the sessions as a table, one line each, with links to ``page`` if there is one."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    # Whole ids, because they are copied.
    table.add_column("session", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("request or flows", ratio=1, no_wrap=True)
    table.add_column("calls", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    if wide:
        table.add_column("tokens", justify="right", no_wrap=True)
        table.add_column("cost $", justify="right", no_wrap=True)
    for each in sessions:
        status = short(each.status, 20)
        if each.response_status is not None:
            status = f"{status} {each.response_status}"
        color = _COLORS.get(each.status)
        cells = [
            linked(escape(short(each.session_id, 128)), page, each.session_id),
            _age(each.started_at, now),
            escape(short(each.request or ", ".join(each.flows))),
            str(each.calls),
            f"[{color}]{escape(status)}[/]" if color else escape(status),
        ]
        if wide:
            cells.append("" if each.tokens is None else str(each.tokens))
            cells.append(escape(short(each.cost_usd, 20)))
        table.add_row(*cells)
    return table


def _age(started_at: str | None, now: datetime) -> str:
    """Return how long ago a time was.

    Example:
        >>> _age("2026-05-31T08:00:00Z", datetime(2026, 5, 31, 11, tzinfo=timezone.utc))
        '3h'
    """
    try:
        time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", started_at or ""))
    except ValueError:
        return "?"
    if time.tzinfo is None:
        time = time.replace(tzinfo=timezone.utc)
    seconds = max(0, int((now - time).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
