"""The tables. Their types are those that SQLite and Postgres share.

Columns for texts that a user chooses have no limit: Postgres would raise an error for longer texts,
SQLite would not. Times are microseconds since 1970 (``backend/encoding.py``). JSON columns hold text, which
is encoded once and sent unchanged. Rows of steps and events are only added; the row in ``executions`` is
replaced with each change of the run.
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
    # As far as the capture mode keeps them, as JSON.
    Column("request", Text),
    Column("tool_rounds", Text),
    # As JSON: the poll of a job needs them in every capture mode.
    Column("result", Text),
    Column("error", Text),
    # The state that a paused run continues from, as JSON; null if the run has ended.
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
