"""Indexes with which the sweep finds old sessions, and those that are pinned, however many there are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_index("ix_sessions_started_at", "sessions", ["started_at"])
    pinned = sa.text("pinned")
    op.create_index(
        "ix_sessions_pinned",
        "sessions",
        ["session_id"],
        sqlite_where=pinned,
        postgresql_where=pinned,
    )


def downgrade() -> None:
    """Downgrade to the revision before."""
    op.drop_index("ix_sessions_pinned", "sessions")
    op.drop_index("ix_sessions_started_at", "sessions")
