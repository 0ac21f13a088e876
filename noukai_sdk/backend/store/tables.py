"""The tables. Their types are those that SQLite and Postgres share.

Columns for texts that a user chooses have no limit: Postgres would raise an error for longer texts,
SQLite would not. Times are microseconds since 1970 (``backend/encoding.py``). JSON columns hold text, which
is encoded once and sent unchanged. Rows of steps and events are only added; the row in ``executions`` is
replaced with each change of the run.

Rows about sessions belong to an organisation, so that no key sees or changes those of another. Rows of
``ALL`` are for keys that may use every organisation: in ``sessions`` they stand for the whole session, in
the other tables they hold what such a key stored for a session without runs.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    literal_column,
    text,
    true,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ALL = ""
"""In place of an organisation: all of them."""

ENDED = frozenset({"completed", "failed", "cancelled"})
"""The final states of a run. A run that has one never changes."""

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
    # The state that a run continues from, as JSON; null if the run has ended.
    Column("state", Text),
    # The process that drives the run; null while none does.
    Column("owner", String(64)),
    # Counts the owners. A write with an older epoch is refused.
    Column("epoch", Integer, nullable=False, server_default="0"),
    # How many processes died while they drove the run.
    Column("strikes", Integer, nullable=False, server_default="0"),
    # SHA-256 of the flow as it was when the run began.
    Column("content_hash", String(64)),
    # Millionths of a US dollar.
    Column("cost_micros", BigInteger, nullable=False, server_default="0"),
    # False once the inputs and outputs are deleted after the retention.
    Column("has_data", Boolean, nullable=False, server_default=true()),
    Index("ix_executions_session_id_started_at", "session_id", "started_at"),
    Index("ix_executions_status_updated_at", "status", "updated_at"),
    Index("ix_executions_org_status", "org", "status"),
    Index("ix_executions_owner", "owner"),
    Index("ix_executions_has_data_started_at", "has_data", "started_at"),
)

# Without bound values: an index of a part of the rows is used only if the statement names the same part.
IS_LISTED_JOB = and_(
    executions.c.trigger == literal_column("'job'"), literal_column("executions.has_data")
)
"""The run is a job, and its data was not deleted after the retention."""

Index(
    "ix_executions_jobs",
    executions.c.org,
    executions.c.started_at,
    executions.c.id,
    sqlite_where=text("trigger = 'job' AND has_data"),
    postgresql_where=text("trigger = 'job' AND has_data"),
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

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("org", Text, primary_key=True),
    # The start of the first run, or the time at which something else was first stored. Null if the
    # session has expired and its data is deleted.
    Column("started_at", BigInteger),
    Column("pinned", Boolean, nullable=False),
    Index("ix_sessions_org_started_at", "org", "started_at", "session_id"),
    # For the sweep: without them, each of its batches would read all sessions.
    Index("ix_sessions_started_at", "started_at"),
    Index(
        "ix_sessions_pinned",
        "session_id",
        sqlite_where=text("pinned"),
        postgresql_where=text("pinned"),
    ),
)

exchanges = Table(
    "exchanges",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("org", Text, primary_key=True),
    Column("stored_at", BigInteger, nullable=False),
    Column("request_line", Text, nullable=False),
    Column("response_status", Integer),
    Column("client_left", Boolean, nullable=False),
    Column("body", Text, nullable=False),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("org", Text, primary_key=True),
    Column("stored_at", BigInteger, nullable=False),
    Column("parent_id", String(128)),
    # True if an outcome has an error.
    Column("failed", Boolean, nullable=False),
    # The flows of calls that were refused before a run began: "\norg/project/slug\n...\n".
    Column("flows", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("parent", Text),
    Column("total_calls", Integer),
    Index("ix_outcomes_parent_id", "parent_id"),
)

boundaries = Table(
    "boundaries",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("org", Text, primary_key=True),
    Column("stored_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    # How many the session has, if not all are kept.
    Column("total", Integer),
)

replays = Table(
    "replays",
    metadata,
    Column("session_id", String(128), primary_key=True),
    Column("org", Text, primary_key=True),
    Column("replay_id", String(128), primary_key=True),
    Column("stored_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    # "running" until the report is finished.
    Column("verdict", Text),
    Index("ix_replays_stored_at", "stored_at"),
    Index("ix_replays_replay_id", "replay_id"),
    Index(
        "ix_replays_session_id_stored_at_replay_id_org_verdict",
        "session_id",
        "stored_at",
        "replay_id",
        "org",
        "verdict",
    ),
)

processes = Table(
    "processes",
    metadata,
    # A random id for each start of a process: the owner of its runs.
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),  # dev, serve or worker
    Column("name", Text, nullable=False),  # process id and host, for people
    Column("started_at", BigInteger, nullable=False),
    Column("heartbeat_at", BigInteger, nullable=False),
    Index("ix_processes_heartbeat_at", "heartbeat_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("org", Text, nullable=False),
    Column("name", Text, nullable=False),
    # SHA-256: a key is 32 random bytes, which nobody can guess from it.
    Column("hash", String(64), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index("ix_api_keys_org", "org"),
)

organisations = Table(
    "organisations",
    metadata,
    Column("org", Text, primary_key=True),
    # Limits; null is no limit.
    Column("max_running", Integer),
    Column("requests_per_minute", Integer),
    Column("credit_micros", BigInteger),  # what is left, in millionths of a US dollar
    # The token bucket of requests_per_minute.
    Column("tokens", Float),
    Column("filled_at", BigInteger),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("org", Text, primary_key=True),
    # The rest of the call's path.
    Column("path", Text, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("execution_id", String(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

published_flows = Table(
    "published_flows",
    metadata,
    Column("org", Text, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("slug", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("content_hash", String(64), nullable=False),
    Column("published_at", BigInteger, nullable=False),
    # As JSON: the texts of the flow file and of the files that it names, by name, and the model of steps
    # that name none.
    Column("files", Text, nullable=False),
)

deleted_blobs = Table(
    "deleted_blobs",
    metadata,
    # "org/id" of a deleted run, whose objects are still to be deleted (store/blobs.py).
    Column("run", Text, primary_key=True),
)


def belongs_to(table: Table, org: str | None) -> ColumnElement[bool]:
    """Return the condition that rows of a session belong to an organisation; None for all of them.

    The database is to find the rows by the session. SQLite, which has no statistics, would otherwise take
    an index that begins with the organisation, and read all of its runs for each session.
    """
    return true() if org is None else table.c.org.concat("") == org
