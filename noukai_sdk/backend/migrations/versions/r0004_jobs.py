"""The list of jobs: an index of jobs alone, which other runs do not pay for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_JOBS = sa.text("trigger = 'job' AND has_data")


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_index(
        "ix_executions_jobs",
        "executions",
        ["org", "started_at", "id"],
        sqlite_where=_JOBS,
        postgresql_where=_JOBS,
    )


def downgrade() -> None:
    """Downgrade to the revision before."""
    op.drop_index("ix_executions_jobs", "executions")
