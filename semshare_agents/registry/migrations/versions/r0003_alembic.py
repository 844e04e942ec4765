"""Schema version 3: Alembic counts the versions; the newest turns of a branch are found without sorting."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Order `blocks_by_branch` by id."""
    op.drop_index("blocks_by_branch", "blocks")
    op.create_index("blocks_by_branch", "blocks", ["scope_id", "branch", "id"])
    # Only packages older than this revision read that table; the number makes them refuse.
    op.execute("DELETE FROM semshare_schema")
    op.execute("INSERT INTO semshare_schema (version) VALUES (3)")
