"""Runs, their steps and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "executions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer()),
        sa.Column("flow_id", sa.String(64), nullable=False),
        sa.Column("block_count", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(128)),
        sa.Column("trigger", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("capture_mode", sa.String(16), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("error_at_step", sa.Text()),
        sa.Column("request", sa.Text()),
        sa.Column("tool_rounds", sa.Text()),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("state", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_executions"),
    )
    op.create_index(
        "ix_executions_session_id_started_at", "executions", ["session_id", "started_at"]
    )
    op.create_index("ix_executions_status_updated_at", "executions", ["status", "updated_at"])
    op.create_table(
        "steps",
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("step_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("loop_index", sa.Integer()),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger()),
        sa.Column("duration_ms", sa.Float()),
        sa.Column("model_used", sa.Text()),
        sa.Column("tokens", sa.Text()),
        sa.Column("cost_usd", sa.String(64)),
        sa.Column("input", sa.Text()),
        sa.Column("output", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("input_size", sa.Integer()),
        sa.Column("output_size", sa.Integer()),
        sa.Column("truncated", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name="fk_steps_execution_id"),
        sa.PrimaryKeyConstraint("execution_id", "number", name="pk_steps"),
    )
    op.create_table(
        "events",
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], name="fk_events_execution_id"),
        sa.PrimaryKeyConstraint("execution_id", "first", name="pk_events"),
    )


def downgrade() -> None:
    """Downgrade to the revision before."""
    op.drop_table("events")
    op.drop_table("steps")
    op.drop_table("executions")
