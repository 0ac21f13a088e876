"""Sessions: the list, and what is stored of them besides their runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "org", name="pk_sessions"),
    )
    op.create_index("ix_sessions_org_started_at", "sessions", ["org", "started_at", "session_id"])
    op.execute(
        "INSERT INTO sessions (session_id, org, started_at, pinned)"
        " SELECT session_id, org, min(started_at), false FROM executions"
        " WHERE session_id IS NOT NULL GROUP BY session_id, org"
    )
    op.execute(
        "INSERT INTO sessions (session_id, org, started_at, pinned)"
        " SELECT session_id, '', min(started_at), false FROM executions"
        " WHERE session_id IS NOT NULL GROUP BY session_id"
    )
    op.create_table(
        "exchanges",
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("request_line", sa.Text(), nullable=False),
        sa.Column("response_status", sa.Integer()),
        sa.Column("client_left", sa.Boolean(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "org", name="pk_exchanges"),
    )
    op.create_table(
        "outcomes",
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.String(128)),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("flows", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text()),
        sa.PrimaryKeyConstraint("session_id", "org", name="pk_outcomes"),
    )
    op.create_table(
        "replays",
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("replay_id", sa.String(128), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "org", "replay_id", name="pk_replays"),
    )


def downgrade() -> None:
    """Downgrade to the revision before."""
    for table in ("replays", "outcomes", "exchanges", "sessions"):
        op.drop_table(table)
