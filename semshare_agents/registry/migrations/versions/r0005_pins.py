"""Schema version 5: pins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# SQLite gives automatic row ids to INTEGER keys only.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "pins",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("session_id", ROW_ID, nullable=True),
        sa.Column("turn_id", ROW_ID, nullable=True),
        sa.Column("begins_at", sa.Float(), nullable=False),
        sa.Column("ends_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"]),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"]),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("session_id"),
        sa.UniqueConstraint("turn_id"),
    )
    op.create_index("pins_by_tenant", "pins", ["tenant_id"])
    op.execute("UPDATE semshare_schema SET version = 5")
