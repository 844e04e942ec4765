"""Schema version 2: the guard's samples and limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# SQLite gives automatic row ids to INTEGER keys only.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add two tables."""
    op.create_table(
        "guard_limits",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("scope_id", ROW_ID, nullable=False),
        sa.Column("session_id", ROW_ID, nullable=True),
        sa.Column("reuse", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"]),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("guard_limits_by_scope", "guard_limits", ["scope_id"])
    op.create_table(
        "guard_samples",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("turn_id", sa.BigInteger(), nullable=False),
        sa.Column("scope_id", ROW_ID, nullable=False),
        sa.Column("session_id", ROW_ID, nullable=True),
        sa.Column("reuse_class", sa.String(length=16), nullable=False),
        sa.Column("kl", sa.Float(), nullable=False),
        sa.Column("agreement", sa.Float(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"]),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("guard_samples_by_scope", "guard_samples", ["scope_id", "reuse_class", "id"])
    op.create_index("guard_samples_by_session", "guard_samples", ["session_id", "reuse_class", "id"])
