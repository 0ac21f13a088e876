"""The verdicts of replays in a column, for the list of sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# For the number of replays of a session and the verdict of the last, without reading the reports.
_INDEX = "ix_replays_session_id_stored_at_replay_id_org_verdict"


def upgrade() -> None:
    """Upgrade to this revision."""
    op.add_column("replays", sa.Column("verdict", sa.Text()))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    field = "json_extract(body, '$.{}')" if is_sqlite else "CAST(body AS json) ->> '{}'"
    verdict, state = field.format("verdict"), field.format("state")
    op.execute(
        f"UPDATE replays SET verdict = CASE WHEN {state} = 'finished' THEN {verdict} "  # noqa: S608
        "ELSE 'running' END"
    )
    op.create_index(_INDEX, "replays", ["session_id", "stored_at", "replay_id", "org", "verdict"])


def downgrade() -> None:
    """Downgrade to the revision before."""
    op.drop_index(_INDEX, "replays")
    op.drop_column("replays", "verdict")
