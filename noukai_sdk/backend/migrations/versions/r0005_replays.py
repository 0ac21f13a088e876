"""Find the report of a replay by its id, and the forks of a session."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade to this revision."""
    op.create_index("ix_replays_replay_id", "replays", ["replay_id"])
    op.create_index("ix_outcomes_parent_id", "outcomes", ["parent_id"])


def downgrade() -> None:
    """Downgrade to the revision before."""
    op.drop_index("ix_outcomes_parent_id", "outcomes")
    op.drop_index("ix_replays_replay_id", "replays")
