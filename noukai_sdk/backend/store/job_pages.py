"""Pages of the list of jobs, newest first, and how many of them wait and run.

A page starts in an index of jobs alone, at the last row of the page before, and reads no inputs or outputs.
Only a status or a flow that few jobs have makes it look at more of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from .tables import IS_LISTED_JOB, executions, steps

Row = Mapping[str, Any]

RETRY_PREFIX = "retry-of-"
"""A retry is in a session of its own, whose id is this and the id of the job."""

COUNTED = 10_000
"""Waiting and running jobs are counted up to this number."""

_COLUMNS = (
    "id", "org", "project", "slug", "version", "session_id", "status", "capture_mode", "block_count",
    "started_at", "completed_at", "error_at_step", "error", "owner",
)  # fmt: skip


@dataclass(frozen=True)
class JobQuery:
    """Which jobs to list.

    Attributes:
        org: The organisation of the key; None for all.
        limit: The size of the page.
        after: The start and the id of the last job of the page before.
        status: ``pending``, ``running``, ``completed``, ``failed`` or ``cancelled``.
        flow: The flow's organisation, project and slug; a slug alone stands for all flows of its name.
    """

    org: str | None
    limit: int
    after: tuple[int, str] | None = None
    status: str | None = None
    flow: tuple[str | None, str | None, str] | None = None


@dataclass(frozen=True)
class ListedJobs:
    """One page of jobs.

    Attributes:
        rows: The jobs, and one more if there is a next page.
        steps_done: How many steps of a job are done, by id, for those that have any.
        retries: The id of a job's retry, by the id of the job.
        in_progress: How many jobs wait (``pending``) and run (``running``).
    """

    rows: Sequence[Row]
    steps_done: Mapping[str, int]
    retries: Mapping[str, str]
    in_progress: Mapping[str, int]


async def read_jobs(connection: AsyncConnection, query: JobQuery) -> ListedJobs:
    """Return a page of jobs."""
    # The other statements do not name IS_LISTED_JOB: the database would read all jobs for them.
    is_job = executions.c.trigger == "job"
    of_key = [] if query.org is None else [executions.c.org == query.org]
    rows = await _read_rows(connection, query)
    ids = [row["id"] for row in rows]
    is_done = and_(steps.c.loop_index.is_(None), steps.c.status.in_(("completed", "skipped")))
    done = (
        select(steps.c.execution_id, func.count(steps.c.step_id.distinct()).label("done"))
        .where(steps.c.execution_id.in_(ids), is_done)
        .group_by(steps.c.execution_id)
    )
    # By session alone: SQLite would rather read all runs of the organisation.
    retried = select(executions.c.session_id, executions.c.id, executions.c.org).where(
        executions.c.session_id.in_([f"{RETRY_PREFIX}{id_}" for id_ in ids]), is_job
    )
    retries = {
        row.session_id.removeprefix(RETRY_PREFIX): row.id
        for row in await connection.execute(retried)
        if query.org in (None, row.org)
    }
    steps_done = {row.execution_id: row.done for row in await connection.execute(done)}
    in_progress = {}
    for status in ("pending", "running"):
        in_status = select(executions.c.id).where(executions.c.status == status, is_job, *of_key)
        counted = select(func.count()).select_from(in_status.limit(COUNTED).subquery())
        in_progress[status] = int((await connection.execute(counted)).scalar_one())
    return ListedJobs(rows, steps_done, retries, in_progress)


async def _read_rows(connection: AsyncConnection, query: JobQuery) -> list[Row]:
    orgs = await _organisations(connection) if query.org is None else [query.org]
    chosen = (
        select(*(executions.c[name] for name in _COLUMNS))
        .where(IS_LISTED_JOB, *_filters(query))
        .order_by(executions.c.started_at.desc(), executions.c.id.desc())
        .limit(query.limit + 1)
    )
    rows: list[Row] = []
    for org in orgs:
        found = await connection.execute(chosen.where(executions.c.org == org))
        rows += [dict(row) for row in found.mappings()]
    rows.sort(key=lambda row: (row["started_at"], row["id"]), reverse=True)
    return rows[: query.limit + 1]


async def _organisations(connection: AsyncConnection) -> list[str]:
    """Return the organisations that have jobs, with one look into the index of jobs for each."""
    orgs: list[str] = []
    first = select(func.min(executions.c.org)).where(IS_LISTED_JOB)
    after = first
    while (org := (await connection.execute(after)).scalar_one()) is not None:
        orgs.append(org)
        after = first.where(executions.c.org > org)
    return orgs


def _filters(query: JobQuery) -> list[ColumnElement[bool]]:
    filters: list[ColumnElement[bool]] = []
    if query.after is not None:
        place = tuple_(executions.c.started_at, executions.c.id)
        started_at = literal(query.after[0], executions.c.started_at.type)
        filters.append(place < tuple_(started_at, literal(query.after[1])))
    if query.status is not None:
        filters.append(executions.c.status == query.status)
    if query.flow is not None:
        org, project, slug = query.flow
        filters.append(executions.c.slug == slug)
        if org is not None:
            filters += [executions.c.org == org, executions.c.project == project]
    return filters
