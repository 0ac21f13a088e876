"""The service on many machines: owners of runs, keys, limits, published flows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_executions_org_status": ["org", "status"],
    "ix_executions_owner": ["owner"],
    "ix_executions_has_data_started_at": ["has_data", "started_at"],
}
# They have no owner, so that nobody would go on with them, and their finished steps were not stored.
_FAIL_RUNS_IN_PROGRESS = """
UPDATE executions SET status = 'failed', completed_at = updated_at, state = NULL,
    error = '{"code": "INTERNAL_ERROR", "message": "the process that ran this step has stopped"}'
WHERE status IN ('pending', 'running')
"""


def upgrade() -> None:
    """Upgrade to this revision."""
    for column in (
        sa.Column("owner", sa.String(64)),
        sa.Column("epoch", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("strikes", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("content_hash", sa.String(64)),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("has_data", sa.Boolean(), nullable=False, server_default=sa.true()),
    ):
        op.add_column("executions", column)
    op.execute(_FAIL_RUNS_IN_PROGRESS)
    for name, columns in _INDEXES.items():
        op.create_index(name, "executions", columns)
    op.create_index("ix_replays_stored_at", "replays", ["stored_at"])
    op.add_column("outcomes", sa.Column("total_calls", sa.Integer()))
    op.create_table(
        "processes",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_processes"),
    )
    op.create_index("ix_processes_heartbeat_at", "processes", ["heartbeat_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
    )
    op.create_index("ix_api_keys_org", "api_keys", ["org"])
    op.create_table(
        "organisations",
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("max_running", sa.Integer()),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("credit_micros", sa.BigInteger()),
        sa.Column("tokens", sa.Float()),
        sa.Column("filled_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("org", name="pk_organisations"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_hash", sa.String(64), nullable=False),
        sa.Column("execution_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("org", "path", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "published_flows",
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("org", "project", "slug", "version", name="pk_published_flows"),
    )
    op.create_table(
        "deleted_blobs",
        sa.Column("run", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_deleted_blobs"),
    )


def downgrade() -> None:
    """Downgrade to the revision before."""
    for table in (
        "deleted_blobs",
        "published_flows",
        "idempotency_keys",
        "organisations",
        "api_keys",
        "processes",
    ):
        op.drop_table(table)
    op.drop_index("ix_replays_stored_at", "replays")
    with op.batch_alter_table("outcomes") as outcomes:
        outcomes.drop_column("total_calls")
    for name in _INDEXES:
        op.drop_index(name, "executions")
    with op.batch_alter_table("executions") as executions:
        for name in ("owner", "epoch", "strikes", "content_hash", "cost_micros", "has_data"):
            executions.drop_column(name)
