"""The calls of recorded functions in a session."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_table(
        "boundaries",
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("org", sa.Text(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer()),
        sa.PrimaryKeyConstraint("session_id", "org", name="pk_boundaries"),
    )


def downgrade() -> None:
    """Downgrade to the revision before."""
    op.drop_table("boundaries")
