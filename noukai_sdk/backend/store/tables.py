"""The tables. Types are those that SQLite and Postgres share.

A text that a user chooses has no limit: Postgres would refuse what is longer, and SQLite not. Times are
microseconds since 1970 (``backend/clock.py``). Columns of JSON hold text: it is made once
and goes out as it is. A run's steps and events are only ever added, its row in ``executions`` is
written anew with each change.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

executions = Table(
    "executions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("org", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("slug", Text, nullable=False),
    Column("version", Integer),
    Column("flow_id", String(64), nullable=False),
    Column("block_count", Integer, nullable=False),
    Column("session_id", String(128)),
    Column("trigger", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("capture_mode", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("updated_at", BigInteger, nullable=False),
    Column("error_at_step", Text),
    # What the capture mode lets us keep, as JSON.
    Column("request", Text),
    Column("tool_rounds", Text),
    # The outcome, as JSON: a job's poll needs it in every capture mode.
    Column("result", Text),
    Column("error", Text),
    # What a paused run needs to go on, as JSON; empty once it has ended.
    Column("state", Text),
    Index("ix_executions_session_id_started_at", "session_id", "started_at"),
    Index("ix_executions_status_updated_at", "status", "updated_at"),
)

steps = Table(
    "steps",
    metadata,
    Column("execution_id", String(64), ForeignKey("executions.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("step_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("loop_index", Integer),
    Column("status", String(16), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("duration_ms", Float),
    Column("model_used", Text),
    Column("tokens", Text),
    Column("cost_usd", String(64)),
    Column("input", Text),
    Column("output", Text),
    Column("error", Text),
    Column("input_size", Integer),
    Column("output_size", Integer),
    Column("truncated", Boolean, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("execution_id", String(64), ForeignKey("executions.id"), primary_key=True),
    # The number of the first event in ``body``, counted from the start of the run.
    Column("first", Integer, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
)
