"""Pages of the list of sessions, newest first.

A page costs the same however many sessions there are: it starts in the index, at the last row of the page
before, and reads no events, inputs or outputs. Only filters that find little look at more sessions. The
database counts the runs of a session, because there may be thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Table,
    and_,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.ext.asyncio import AsyncConnection

from .sessions import is_kept
from .tables import ALL, belongs_to, exchanges, executions, outcomes, replays, sessions, steps
from .text_search import Search

Row = Mapping[str, Any]

UNFINISHED = ("pending", "running", "paused")


@dataclass(frozen=True)
class SessionQuery:
    """Which sessions to list.

    Attributes:
        org: The organisation of the key; None for all.
        limit: The size of the page.
        after: The start and the id of the last session of the page before.
        since: Only sessions that began at this time or later.
        expiry: Only sessions that are not older, or pinned.
        flow: The flow's organisation, project and slug; a slug alone stands for all flows of its name.
        status: ``completed``, ``failed`` or ``running``.
        parent: Only forks of this session.
        replay: The verdict of the last replay; ``any`` and ``never`` stand for replays at all, and none.
        error: A text in the error of a run, or in an outcome with an error, in any case.
        text: A text in inputs, outputs, errors, the request line or the session id, in any case.
    """

    org: str | None
    limit: int
    after: tuple[int, str] | None = None
    since: int = 0
    expiry: int | None = None
    flow: tuple[str | None, str | None, str] | None = None
    status: str | None = None
    parent: str | None = None
    replay: str | None = None
    error: str | None = None
    text: str | None = None


@dataclass
class ListedSession:
    """One row of the list, with what is read of it."""

    session_id: str
    started_at: int
    # For each flow and status: the first start, the last end, how many there are and how many have ended.
    runs: list[Row] = field(default_factory=list)
    exchange: Row | None = None
    outcomes: list[Row] = field(default_factory=list)
    tokens: int | None = None
    cost: Decimal | None = None
    is_pinned: bool = False
    replays: dict[str, Row] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Return the number of runs."""
        return sum(run["calls"] for run in self.runs)

    @property
    def completed_at(self) -> int | None:
        """Return when the last run ended; None if there are no runs, or if one has not ended."""
        if any(run["ended"] < run["calls"] for run in self.runs):
            return None
        return max((run["completed_at"] for run in self.runs), default=None)

    @property
    def last_verdict(self) -> str | None:
        """Return the verdict of the last replay, ``running`` while there is none yet."""
        last = max(self.replays.values(), key=lambda row: row["stored_at"], default=None)
        return None if last is None else last["verdict"]

    @property
    def status(self) -> str:
        """Return ``failed``, ``running`` or ``completed``. Must agree with the filter below."""
        response_status = self.exchange["response_status"] if self.exchange is not None else None
        statuses = {run["status"] for run in self.runs}
        if (
            "failed" in statuses
            or any(row["failed"] for row in self.outcomes)
            or (response_status is not None and response_status >= 500)
        ):
            return "failed"
        return "running" if statuses.intersection(UNFINISHED) else "completed"

    @property
    def flows(self) -> list[str]:
        """Return the flows, each once: of the runs, and of calls that were refused before a run."""
        names = [f"{run['org']}/{run['project']}/{run['slug']}" for run in self.runs]
        for row in self.outcomes:
            names += [name for name in row["flows"].split("\n") if name]
        return list(dict.fromkeys(names))


async def read_page(connection: AsyncConnection, query: SessionQuery) -> list[ListedSession]:
    """Return the sessions of a page, and one more if there is a next page."""
    org = ALL if query.org is None else query.org
    conditions = [sessions.c.org == org, sessions.c.started_at >= query.since]
    if query.after is not None:
        place = tuple_(sessions.c.started_at, sessions.c.session_id)
        started_at = literal(query.after[0], sessions.c.started_at.type)
        conditions.append(place < tuple_(started_at, literal(query.after[1])))
    conditions += _filters(query, connection.dialect.name)
    chosen = (
        select(sessions.c.session_id, sessions.c.started_at)
        .where(*conditions)
        .order_by(sessions.c.started_at.desc(), sessions.c.session_id.desc())
        .limit(query.limit + 1)
    )
    rows = (await connection.execute(chosen)).all()
    page = {row.session_id: ListedSession(row.session_id, row.started_at) for row in rows}
    if page:
        await _fill(connection, page, query.org)
    return list(page.values())


async def _fill(
    connection: AsyncConnection, page: Mapping[str, ListedSession], org: str | None
) -> None:
    names = list(page)

    async def read(table: Table, *columns: str) -> Sequence[Row]:
        chosen = select(*(table.c[name] for name in ("session_id", *columns)))
        of_page = and_(table.c.session_id.in_(names), belongs_to(table, org))
        return [dict(row) for row in (await connection.execute(chosen.where(of_page))).mappings()]

    of_page = and_(executions.c.session_id.in_(names), belongs_to(executions, org))
    group = [executions.c[name] for name in ("session_id", "org", "project", "slug", "status")]
    runs = (
        select(
            *group,
            func.min(executions.c.started_at).label("started_at"),
            func.max(executions.c.completed_at).label("completed_at"),
            func.count().label("calls"),
            func.count(executions.c.completed_at).label("ended"),
        )
        .where(of_page)
        .group_by(*group)
    )
    counted = [dict(row) for row in (await connection.execute(runs)).mappings()]
    for group_row in sorted(counted, key=lambda row: row["started_at"]):
        page[group_row["session_id"]].runs.append(group_row)
    exchange_columns = ("request_line", "response_status", "stored_at")
    for row in sorted(await read(exchanges, *exchange_columns), key=lambda row: row["stored_at"]):
        session = page[row["session_id"]]
        session.exchange = session.exchange or row
    for row in await read(outcomes, "failed", "parent_id", "flows"):
        page[row["session_id"]].outcomes.append(row)
    # A key for all organisations may have stored one report for each of several.
    for row in await read(replays, "replay_id", "stored_at", "verdict"):
        page[row["session_id"]].replays[row["replay_id"]] = row
    pins = select(sessions.c.session_id).where(sessions.c.session_id.in_(names), sessions.c.pinned)
    if org is not None:
        pins = pins.where(sessions.c.org.in_((org, ALL)))
    for name in (await connection.execute(pins)).scalars():
        page[name].is_pinned = True
    tokens = _total_tokens(connection.dialect.name)
    # Costs are decimal texts, which the database cannot add up without a loss: equal ones are counted.
    usage = (
        select(
            executions.c.session_id, steps.c.cost_usd, func.count().label("steps"), func.sum(tokens)
        )
        .join(steps, steps.c.execution_id == executions.c.id)
        .where(of_page, or_(steps.c.tokens.is_not(None), steps.c.cost_usd.is_not(None)))
        .group_by(executions.c.session_id, steps.c.cost_usd)
    )
    for name, cost, count, total in await connection.execute(usage):
        session = page[name]
        if total is not None:
            session.tokens = (session.tokens or 0) + int(total)
        if cost is not None:
            session.cost = (session.cost or Decimal(0)) + Decimal(cost) * count


def _total_tokens(dialect: str) -> ColumnElement[int]:
    if dialect == "sqlite":
        return cast(func.json_extract(steps.c.tokens, "$.total"), BigInteger)
    return cast(cast(steps.c.tokens, JSON)["total"].astext, BigInteger)


def _filters(query: SessionQuery, dialect: str) -> list[ColumnElement[bool]]:
    def has(table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        of_session = table.c.session_id == sessions.c.session_id
        return exists().where(of_session, belongs_to(table, query.org), *conditions)

    filters: list[ColumnElement[bool]] = []
    if query.expiry is not None:
        later_run = has(executions, executions.c.started_at >= query.expiry)
        kept = is_kept(sessions.c.session_id, sessions.c.org)
        filters.append(or_(sessions.c.started_at >= query.expiry, later_run, kept))
    if query.flow is not None:
        *place, slug = query.flow
        named = [executions.c.slug == slug]
        refused = f"/{slug}\n"
        if place[0] is not None:
            named += [belongs_to(executions, place[0]), executions.c.project == place[1]]
            refused = f"\n{place[0]}/{place[1]}/{slug}\n"
        # A search that is exact in both databases.
        is_refused = func.replace(outcomes.c.flows, refused, "") != outcomes.c.flows
        filters.append(or_(has(executions, *named), has(outcomes, is_refused)))
    if query.parent is not None:
        forked = select(outcomes.c.session_id).where(outcomes.c.parent_id == query.parent)
        filters.append(sessions.c.session_id.in_(forked.where(belongs_to(outcomes, query.org))))
    if query.replay is not None:
        filters.append(_replay_filter(query.replay, query.org))
    if query.status is not None:
        status: ColumnElement[str] = executions.c.status
        if dialect == "sqlite":
            # Or it would read all failed runs for each session: it takes the index of the status.
            status = status.concat("")
        failed = or_(
            has(executions, status == "failed"),
            has(outcomes, outcomes.c.failed),
            has(exchanges, exchanges.c.response_status >= 500),
        )
        # There are few: they are read once.
        unfinished = select(executions.c.session_id).where(
            executions.c.status.in_(UNFINISHED), belongs_to(executions, query.org)
        )
        filters += {
            "failed": [failed],
            "running": [~failed, sessions.c.session_id.in_(unfinished)],
            "completed": [~failed, ~has(executions, status.in_(UNFINISHED))],
        }[query.status]
    if query.error is not None:
        sought = Search(query.error, dialect)
        in_outcome = and_(outcomes.c.failed, sought.in_json(outcomes.c.body))
        in_run = has(executions, _shown(), sought.in_json(executions.c.error))
        filters.append(or_(in_run, has(outcomes, in_outcome)))
    if query.text is not None:
        found = Search(query.text, dialect)
        output = or_(found.in_json(executions.c.result), found.in_json(executions.c.error))
        filters.append(
            or_(
                found.in_text(sessions.c.session_id),
                has(exchanges, found.in_text(exchanges.c.request_line)),
                has(executions, or_(found.in_json(executions.c.request), and_(_shown(), output))),
                has(outcomes, found.in_json(outcomes.c.body)),
            )
        )
    return filters


def _shown() -> ColumnElement[bool]:
    """Return the condition that a session shows the output of a run.

    The stored result of a job is what its poll returns, in every capture mode. What a session does not show
    must not be found in it.
    """
    mode = executions.c.capture_mode
    return or_(mode == "full", and_(mode == "redacted", executions.c.trigger != "job"))


def _replay_filter(wanted: str, org: str | None) -> ColumnElement[bool]:
    mine = and_(replays.c.session_id == sessions.c.session_id, belongs_to(replays, org))
    if wanted in ("any", "never"):
        replayed = exists().where(mine)
        return replayed if wanted == "any" else ~replayed
    newest = select(replays.c.verdict).where(mine).order_by(replays.c.stored_at.desc()).limit(1)
    return newest.scalar_subquery() == wanted
